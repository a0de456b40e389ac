"""Images to the size that a network takes."""

from typing import Literal

from visdeploy.mask import Array, _core, _pair

__all__ = ["letterbox"]


def letterbox(
    image: Array,
    valid: tuple[int, int],
    size: tuple[int, int] | None = None,
    *,
    interpolation: Literal["nearest", "bilinear", "area"] = "bilinear",
    pad_value: int = 0,
    dtype: Literal["uint8", "float32"] = "uint8",
    out: Array | None = None,
) -> Array:
    """Resize an image and pad it right and bottom, on one thread or on the CUDA device that it lies on.

    Samples are exact means, rounded once, half up, and so the same everywhere. OpenCV, which has INTER_NEAREST,
    INTER_LINEAR and INTER_AREA for these, rounds its weights and means its own way: "nearest" is equal, the others are
    within `tolerance.LETTERBOX_LEVELS`.

    Args:
        image: (H, W, 3) uint8 of any strides, with sides up to 2^20.
        valid: (h, w) to resize to.
        size: (height, width) to pad to; None is `valid`.
        interpolation: "area" averages all that becomes one pixel, where no side grows.
        pad_value: Sample value of padding.
        dtype: Of the result, whose samples are whole numbers from 0 to 255 in either.
        out: A contiguous array on the same CUDA device that takes the answer; then nothing is allocated.

    Returns:
        (height, width, 3) of that dtype.

    Raises:
        TypeError: `image` is not an array.
        InputError: A dtype, shape, size or name is wrong.
    """
    resized = _pair(valid, "letterbox", "valid")
    padded = resized if size is None else _pair(size, "letterbox", "size")
    return _core.letterbox(image, resized, padded, interpolation, pad_value, dtype, out)
