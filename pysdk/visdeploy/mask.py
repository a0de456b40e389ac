"""Masks as COCO run-length encodings: `pycocotools.mask`, faster, and straight from logits.

An RLE is a dict of `size` [h, w] and `counts`, COCO's compressed string as bytes; str and uncompressed lists of counts
are read too.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

try:
    from visdeploy import _core as _core
except ImportError as error:
    raise ImportError(
        "visdeploy._core is not built: run `pip install -e .` in the source tree, or install a wheel"
    ) from error
from visdeploy.errors import InputError

Rle = dict[str, Any]
Array = Any  # NumPy's, or one in CPU memory that speaks DLPack, such as torch's; answers are of the same kind

__all__ = ["Rle", "area", "decode", "encode", "encode_logits", "from_kaggle", "toBbox", "to_kaggle"]


def encode(mask: Array, *, axis: Literal[0, -1] = -1, num_threads: int | None = None) -> Any:
    """Encode binary masks of any memory layout, without a transposing copy.

    As in pycocotools a run ends where the raw byte changes, so a mask of 1 and 2 gives more runs than one of 0 and 1.

    Args:
        mask: (H, W), (H, W, N) or, with `axis=0`, (N, H, W); uint8 or bool.
        axis: The axis that counts the masks of a 3-D array.
        num_threads: Masks encoded at a time; None decides by the work.

    Returns:
        An RLE, or a list of N for a 3-D array.

    Raises:
        TypeError: `mask` is not an array.
        InputError: Its dtype or shape is wrong.

    Example:
        >>> encode(np.ones((4, 3), np.uint8))
        {'size': [4, 3], 'counts': b'0<'}
    """
    return _core.encode(mask, axis, num_threads)


def decode(
    rle: Rle | list[Rle],
    *,
    order: Literal["F", "C"] = "F",
    axis: Literal[0, -1] = -1,
    num_threads: int | None = None,
) -> NDArray[np.uint8]:
    """Decode one RLE, or a list of equal size. Where the runs fall short of the size the rest is background.

    Args:
        rle: One RLE or a list of N.
        order: Memory order of each mask: "F" as in pycocotools, or "C".
        axis: Where a list puts N: -1 for (h, w, N) as in pycocotools, 0 for (N, h, w).
        num_threads: Masks decoded at a time; None decides by the work.

    Returns:
        uint8 zeros and ones: (h, w) for one RLE.

    Raises:
        TypeError: An RLE is not a dict, or its counts are no counts.
        InputError: Counts are malformed or exceed the size, or sizes differ.
    """
    if order not in ("F", "C"):
        raise InputError(f'[decode] order: expected "F" or "C", got {order!r}')
    if axis not in (0, -1):
        raise InputError(f"[decode] axis: expected 0 or -1, got {axis!r}")
    return _core.decode(rle, order == "C", axis, num_threads)


def area(rle: Rle | list[Rle]) -> Any:
    """Count foreground pixels, without decoding.

    Args:
        rle: One RLE or a list of N.

    Returns:
        An int, or (N,) uint64 for a list. pycocotools gives uint32, which wraps.

    Raises:
        TypeError: An RLE is not a dict, or its counts are no counts.
        InputError: Counts are malformed or exceed the size.
    """
    return _core.area(rle)


def toBbox(rle: Rle | list[Rle]) -> NDArray[np.float64]:
    """Find the tightest boxes, without decoding.

    Args:
        rle: One RLE or a list of N.

    Returns:
        (4,) or, for a list, (N, 4) float64: x, y, width, height in pixels; zeros for a mask without foreground.

    Raises:
        TypeError: An RLE is not a dict, or its counts are no counts.
        InputError: Counts are malformed or exceed the size.
    """
    return _core.to_bbox(rle)


def encode_logits(
    logits: Array,
    size: tuple[int, int] | None = None,
    threshold: float = 0.0,
    *,
    valid: tuple[int, int] | None = None,
    num_threads: int | None = None,
) -> Any:
    """Upsample logits, threshold them and encode the result, without making the larger image.

    Values are bilinear with half-pixel centres and clamped edges, as by `cv2.resize(..., INTER_LINEAR)`; a pixel can
    differ from that only where its value is within 1e-5 of the largest logit of the threshold.

    Args:
        logits: (h, w) or (N, h, w) float32.
        size: (H, W) of the masks; None keeps that of the logits.
        threshold: Foreground is strictly above it. NaN is background.
        valid: (h, w) of the top-left part to use, where the rest of the logits is padding.
        num_threads: Masks encoded at a time; None decides by the work.

    Returns:
        An RLE, or a list of N for a 3-D array.

    Raises:
        TypeError: `logits` is not an array.
        InputError: A dtype, shape or size is wrong.
    """
    return _core.encode_logits(
        logits,
        None if size is None else _pair(size, "encode_logits", "size"),
        float(threshold),
        None if valid is None else _pair(valid, "encode_logits", "valid"),
        num_threads,
    )


def to_kaggle(rle: Rle, *, order: Literal["row", "column"] = "row", base: int = 1) -> str:
    """Write an RLE as Kaggle's "start length start length"; an empty mask is an empty string.

    Args:
        rle: One RLE.
        order: How pixels are numbered: "row" is left to right, then down (Carvana); "column" is down, then right
            (TGS, Airbus, Severstal, nuclei).
        base: The number of the first pixel.

    Returns:
        The numbers, separated by single spaces.

    Raises:
        TypeError: `rle` is not a dict, or its counts are no counts.
        InputError: Counts are malformed or exceed the size.
    """
    return _core.to_kaggle(rle, _is_row(order, "to_kaggle"), base)


def from_kaggle(text: str, shape: tuple[int, int], *, order: Literal["row", "column"] = "row", base: int = 1) -> Rle:
    """Read Kaggle's "start length start length" into an RLE.

    Args:
        text: Runs in ascending order; an empty string is an empty mask.
        shape: (H, W) of the image.
        order: How pixels are numbered, see `to_kaggle`.
        base: The number of the first pixel.

    Returns:
        An RLE.

    Raises:
        TypeError: `text` is not a string.
        InputError: The text is no such list, or does not fit the shape.
    """
    if not isinstance(text, str):
        raise TypeError(f"[from_kaggle] text: expected str, got {type(text).__name__}")
    return _core.from_kaggle(text, _pair(shape, "from_kaggle", "shape"), _is_row(order, "from_kaggle"), base)


def _pair(value: tuple[int, int], op: str, argument: str) -> tuple[int, int]:
    try:
        height, width = value
        return int(height), int(width)
    except (TypeError, ValueError):
        raise InputError(f"[{op}] {argument}: expected (height, width), got {value!r}") from None


def _is_row(order: str, op: str) -> bool:
    if order not in ("row", "column"):
        raise InputError(f'[{op}] order: expected "row" or "column", got {order!r}')
    return order == "row"
