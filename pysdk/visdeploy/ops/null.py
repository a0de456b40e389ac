"""The template of an op."""

from visdeploy.mask import Array, _core

__all__ = ["null"]


def null(x: Array, *, out: Array | None = None) -> Array:
    """Copy a vector: the template that a new op starts from.

    Args:
        x: (N,) float32 with any stride.
        out: An array on the same CUDA device that takes the answer; then nothing is allocated.

    Returns:
        (N,) float32, contiguous.

    Raises:
        TypeError: `x` is not an array.
        InputError: Its dtype or shape is wrong.

    Example:
        >>> null(np.array([1.0, 2.0], np.float32))
        array([1., 2.], dtype=float32)
    """
    return _core.null(x, out)
