"""From the logits of every class to a map of classes."""

from typing import Any

from visdeploy.mask import Array, _core, _pair

__all__ = ["semantic_map"]


def semantic_map(
    logits: Array,
    size: tuple[int, int],
    *,
    valid: tuple[int, int] | None = None,
    out: tuple[Array, Array, Array, Array] | None = None,
) -> Any:
    """Upsample the logits of every class and keep the best class of each pixel.

    Values are bilinear with half-pixel centres and clamped edges. Ties take the lower class, NaN never wins, and a
    pixel that is NaN in every class gets class 0.

    Args:
        logits: (C, h, w) float32, 1 <= C <= 255.
        size: (H, W) of the result.
        valid: (h, w) of the top-left part to use, where the rest of the logits is padding.
        out: For logits on a CUDA device (map, areas, text, offsets), the first two as they are returned, the others as
            in `mask.encode`. Nothing is waited for.

    Returns:
        The map, (H, W) uint8; the pixels of each class, (C,) int64; an RLE of each class, absent ones included. Map and
        areas lie where the logits do. With `out` that.

    Raises:
        TypeError: `logits` is not an array.
        InputError: A dtype, shape or size is wrong.
    """
    return _core.semantic_map(
        logits,
        _pair(size, "semantic_map", "size"),
        None if valid is None else _pair(valid, "semantic_map", "valid"),
        out,
    )
