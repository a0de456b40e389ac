"""The native ops, as documented thin calls."""

from visdeploy.mask import Array, Rle, _core, _pair

__all__ = ["null", "semantic_map"]


def null(x: Array) -> Array:
    """Copy a vector: the template that a new op starts from.

    Args:
        x: (N,) float32 with any stride.

    Returns:
        (N,) float32, contiguous.

    Raises:
        TypeError: `x` is not an array.
        InputError: Its dtype or shape is wrong.

    Example:
        >>> null(np.array([1.0, 2.0], np.float32))
        array([1., 2.], dtype=float32)
    """
    return _core.null(x)


def semantic_map(
    logits: Array, size: tuple[int, int], *, valid: tuple[int, int] | None = None
) -> tuple[Array, Array, list[Rle]]:
    """Upsample the logits of every class and keep the best class of each pixel.

    Values are bilinear with half-pixel centres and clamped edges. Ties take the lower class, NaN never wins, and a
    pixel that is NaN in every class gets class 0.

    Args:
        logits: (C, h, w) float32, 1 <= C <= 255.
        size: (H, W) of the result.
        valid: (h, w) of the top-left part to use, where the rest of the logits is padding.

    Returns:
        The map, (H, W) uint8; the pixels of each class, (C,) int64; an RLE of each class, absent ones included.

    Raises:
        TypeError: `logits` is not an array.
        InputError: A dtype, shape or size is wrong.
    """
    return _core.semantic_map(
        logits,
        _pair(size, "semantic_map", "size"),
        None if valid is None else _pair(valid, "semantic_map", "valid"),
    )
