"""Masks as COCO run-length encodings: `pycocotools.mask`, faster, and straight from logits.

An RLE is a dict of `size` [h, w] and `counts`, COCO's compressed string as bytes; str and uncompressed lists of counts
are read too.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from operator import index
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError, VisdeployError
from visdeploy.native import _core as _core

Rle = dict[str, Any]
Array = Any  # NumPy's, or one that speaks DLPack, such as torch's; answers are of the same kind and on its device

__all__ = [
    "Rle",
    "area",
    "decode",
    "encode",
    "encode_logits",
    "frBbox",
    "frPoly",
    "frPyObjects",
    "frUncompressedRLE",
    "from_kaggle",
    "install_as_pycocotools",
    "iou",
    "merge",
    "toBbox",
    "to_kaggle",
]


def encode(
    mask: Array, *, axis: Literal[0, -1] = -1, num_threads: int | None = None, out: tuple[Array, Array] | None = None
) -> Any:
    """Encode binary masks of any memory layout, without a transposing copy.

    As in pycocotools a run ends where the raw byte changes, so a mask of 1 and 2 gives more runs than one of 0 and 1.

    Args:
        mask: (H, W), (H, W, N) or, with `axis=0`, (N, H, W); uint8 or bool.
        axis: The axis that counts the masks of a 3-D array.
        num_threads: Masks encoded at a time on a CPU; None decides by the work.
        out: For arrays on a CUDA device (text, offsets), uint8 (capacity,) and int64 (N + 1,) where `mask` lies. Text i
            becomes text[offsets[i]:offsets[i + 1]]. Nothing is written past the capacity; if offsets[N] exceeds it,
            that is the one to call again with. Nothing is waited for, so this can be part of a CUDA graph.

    Returns:
        An RLE, or a list of N for a 3-D array; `out` where that is given.

    Raises:
        TypeError: `mask` is not an array.
        InputError: Its dtype or shape is wrong, or that of `out`.

    Example:
        >>> encode(np.ones((4, 3), np.uint8))
        {'size': [4, 3], 'counts': b'0<'}
    """
    return _core.encode(mask, axis, num_threads, out)


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


def iou(dt: Any, gt: Any, pyiscrowd: Any, *, num_threads: int | None = None) -> Any:
    """Compare every detection with every object: masks with masks, or boxes with boxes.

    The union of a detection with a crowd is the detection's own area. As in pycocotools masks of different sizes give
    -1 where their boxes overlap, and 0 elsewhere.

    Args:
        dt: A list of M RLEs, or boxes x, y, width, height: an array (M, 4), or a list of M lists of four.
        gt: N of the same kind.
        pyiscrowd: N flags, true where an object of `gt` is a crowd.
        num_threads: Objects compared at a time; None decides by the work.

    Returns:
        (M, N) float64 in Fortran order, of the same kind of array as `dt` where that is one; an empty list where M or N
        is 0.

    Raises:
        TypeError: `dt` or `gt` is of no such kind, or they are of two.
        InputError: Counts are malformed or exceed the size, a box has not four numbers, or `pyiscrowd` not N flags.

    Example:
        >>> iou([[0, 0, 4, 4]], [[2, 0, 4, 4]], [False])
        array([[0.33333333]])
    """
    return _core.iou(dt, gt, pyiscrowd, num_threads)


def merge(rleObjs: list[Rle], intersect: bool = False) -> Rle:
    """Unite masks, or intersect them.

    Args:
        rleObjs: RLEs of one size. One is given back as it is.
        intersect: Whether to keep what all have in common, not what any has.

    Returns:
        An RLE. As in pycocotools none, or RLEs of different sizes, give `size` [0, 0] and no counts.

    Raises:
        TypeError: `rleObjs` is not a list, or one of it is not an RLE.
        InputError: Counts are malformed or exceed the size.
    """
    return _core.merge(rleObjs, bool(intersect))


def frPyObjects(pyobj: Any, h: int, w: int) -> Any:
    """Encode what annotations hold: boxes, polygons or uncompressed RLEs.

    Args:
        pyobj: An array (N, 4) of boxes for `frBbox`, a list of N polygons for `frPoly`, or a dict or a list of N dicts
            for `frUncompressedRLE`. As in pycocotools a list of lists of four numbers is refused, being neither.
        h: Height of the image; RLEs have their own size.
        w: Width of the image.

    Returns:
        A list of N RLEs; for a dict one RLE.

    Raises:
        TypeError: `pyobj` is of no such kind.
        InputError: Coordinates, counts or sizes are malformed.
    """
    return _core.from_objects(pyobj, h, w)


def frPoly(poly: list[Any], h: int, w: int) -> list[Rle]:
    """Draw polygons as pycocotools does: corners rounded to fifths of a pixel, columns cut through their middle.

    Args:
        poly: N polygons, each a flat list x, y, x, y, ... in pixels. Parts outside the image are cut off.
        h: Height of the image.
        w: Width of the image.

    Returns:
        N RLEs.

    Raises:
        TypeError: A polygon does not hold numbers.
        InputError: A polygon is not flat, or a coordinate not finite or beyond 429496729 pixels.
    """
    return _core.from_polygons(poly, h, w)


def frBbox(bb: NDArray[np.float64], h: int, w: int) -> list[Rle]:
    """Draw boxes, as polygons of four corners.

    Args:
        bb: (N, 4) float64: x, y, width, height in pixels. Parts outside the image are cut off.
        h: Height of the image.
        w: Width of the image.

    Returns:
        N RLEs.

    Raises:
        TypeError: `bb` is not an array.
        InputError: Its shape or dtype is wrong, or a coordinate is not finite or beyond 429496729 pixels.
    """
    return _core.from_boxes(bb, h, w)


def frUncompressedRLE(ucRles: list[Rle], h: int, w: int) -> list[Rle]:
    """Compress RLEs whose counts are lists of numbers.

    Args:
        ucRles: N dicts of `size` and `counts`.
        h: Not used, as in pycocotools: the RLEs have their own size.
        w: Not used.

    Returns:
        N RLEs.

    Raises:
        TypeError: One is not a dict, or its counts are no numbers.
        InputError: Counts are malformed, exceed the size, or are compressed already.
    """
    return _core.from_uncompressed(ucRles, h, w)


def install_as_pycocotools() -> None:
    """Make `pycocotools.mask` this module, so that COCO and COCOeval run on it unchanged.

    To be called before `pycocotools.coco` or `pycocotools.cocoeval` is imported, for they keep the module they find;
    a second call does nothing. Where pycocotools is not installed, `import pycocotools.mask` works from then on, and
    nothing else of it.

    Raises:
        VisdeployError: It is too late.

    Example:
        >>> install_as_pycocotools()
        >>> from pycocotools import mask
        >>> mask.iou.__module__
        'visdeploy.mask'
    """
    this = sys.modules[__name__]
    if sys.modules.get("pycocotools.mask") is this:
        return
    for name in ("pycocotools.coco", "pycocotools.cocoeval"):
        if name in sys.modules:
            raise VisdeployError(
                f"[install_as_pycocotools] {name} is imported already and keeps the module it found: call this first"
            )
    try:
        package = import_module("pycocotools")
    except ModuleNotFoundError:
        package = ModuleType("pycocotools", "Stands in for the package, which is not installed.")
        package.__path__ = []
        package.__spec__ = ModuleSpec("pycocotools", None, is_package=True)
        sys.modules["pycocotools"] = package
    sys.modules["pycocotools.mask"] = this
    setattr(package, "mask", this)  # noqa: B010 - mypy knows no such attribute of a module


def encode_logits(
    logits: Array,
    size: tuple[int, int] | None = None,
    threshold: float = 0.0,
    *,
    valid: tuple[int, int] | None = None,
    num_threads: int | None = None,
    out: tuple[Array, Array] | None = None,
) -> Any:
    """Upsample logits, threshold them and encode the result, without making the larger image.

    Values are bilinear with half-pixel centres and clamped edges, as by `cv2.resize(..., INTER_LINEAR)`; a pixel can
    differ from that only where its value is within 1e-5 of the largest logit of the threshold.

    Args:
        logits: (h, w) or (N, h, w) float32.
        size: (H, W) of the masks; None keeps that of the logits.
        threshold: Foreground is strictly above it, as float32. NaN is background.
        valid: (h, w) of the top-left part to use, where the rest of the logits is padding.
        num_threads: Masks encoded at a time on a CPU; None decides by the work.
        out: As in `encode`.

    Returns:
        An RLE, or a list of N for a 3-D array; `out` where that is given.

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
        out,
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
        return index(height), index(width)
    except (TypeError, ValueError):
        raise InputError(f"[{op}] {argument}: expected (height, width), got {value!r}") from None


def _is_row(order: str, op: str) -> bool:
    if order not in ("row", "column"):
        raise InputError(f'[{op}] order: expected "row" or "column", got {order!r}')
    return order == "row"
