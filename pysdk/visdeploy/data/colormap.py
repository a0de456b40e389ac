"""Pascal VOC's colours of classes: what they are, and class maps to colours and back."""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visdeploy.errors import InputError

VOC_LABELS = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The 21 classes of VOC2012 by index."""

_NO_LABEL = 255
_BORDER = (224, 224, 192)


def voc_colormap(n: int = 256) -> NDArray[np.uint8]:
    """Return the colours that Pascal VOC gives to class indices.

    The bits of an index are dealt to red, green and blue in turn, the lowest to the highest bit of red (the development
    kit's VOClabelcolormap). Index 255, which stands for no label, is the border colour (224, 224, 192).

    Args:
        n: How many, 1 to 256.

    Returns:
        (n, 3) uint8 RGB.

    Raises:
        InputError: `n` is out of range.

    Example:
        >>> voc_colormap(3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    if not isinstance(n, int | np.integer) or not 1 <= n <= 256:
        raise InputError(f"[voc_colormap] n: expected 1 to 256, got {n!r}")
    indices = np.arange(n)
    colors = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((indices >> channel & 1) << (7 - bit)).astype(np.uint8)
        indices >>= 3
    return colors


def colors_of(class_map: NDArray[np.integer], colormap: ArrayLike | None = None) -> NDArray[np.uint8]:
    """Paint a class map.

    Args:
        class_map: (H, W) class indices, 255 where there is no label.
        colormap: (n, 3) uint8 RGB by class index; default, `voc_colormap()`. Index 255 becomes (224, 224, 192) in any.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: An index has no colour, named with its pixel; or a shape is wrong.
    """
    classes = np.asarray(class_map)
    if classes.ndim != 2 or classes.dtype.kind not in "iu":
        raise InputError(f"[colors_of] class_map: expected whole numbers (H, W), got {classes.dtype} {classes.shape}")
    table = _table(colormap)
    unknown = (classes != _NO_LABEL) & ((classes < 0) | (classes >= len(table)))
    if unknown.any():
        x, y = first_pixel(unknown)
        raise InputError(
            f"[colors_of] class {classes[y, x]} at pixel x={x}, y={y} has no colour; {len(table)} are given"
        )
    every = np.full((256, 3), _BORDER, np.uint8)
    every[: len(table)] = table
    every[_NO_LABEL] = _BORDER
    return every[classes]


def classes_of(rgb: NDArray[np.uint8], colormap: ArrayLike | None = None) -> NDArray[np.uint8]:
    """Read a painted class map.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        colormap: (n, 3) uint8 RGB by class index, at most 256; default, `voc_colormap()`. The colour (224, 224, 192)
            is index 255, no label, in any that does not give it to a class.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: A colour is not in the colormap, named with its pixel; the colormap has one twice; or a shape is
            wrong.
    """
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(f"[classes_of] rgb: expected uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    table = _table(colormap)
    keys = _pack(table)
    if len(np.unique(keys)) < len(keys):
        raise InputError("[classes_of] colormap: expected a colour of its own for each class")
    indices = np.arange(len(table), dtype=np.uint8)
    border = _pack(np.array(_BORDER, np.uint8))
    if border not in keys:
        keys, indices = np.append(keys, border), np.append(indices, np.uint8(_NO_LABEL))
    order = np.argsort(keys)
    keys, indices = keys[order], indices[order]
    pixels = _pack(rgb)
    found = np.searchsorted(keys, pixels).clip(max=len(keys) - 1)
    unknown = keys[found] != pixels
    if unknown.any():
        x, y = first_pixel(unknown)
        more = len(colours_in(rgb[unknown])) - 1
        raise InputError(
            f"unknown colour {tuple(rgb[y, x].tolist())} at pixel x={x}, y={y}"
            + (f", and {more} more unknown colours" if more else "")
        )
    return np.asarray(indices[found], np.uint8)


def colours_in(rgb: NDArray[np.uint8]) -> set[int]:
    """Return the colours that occur in (..., 3) uint8 RGB, each as the number 0xRRGGBB."""
    return set(np.unique(_pack(rgb)).tolist())


def first_pixel(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return x and y of the first true pixel of (H, W), row by row."""
    y, x = divmod(int(mask.argmax()), mask.shape[1])
    return x, y


def _table(colormap: ArrayLike | None) -> NDArray[np.uint8]:
    table = _voc() if colormap is None else np.asarray(colormap)
    fits = table.dtype.kind in "iu" and table.ndim == 2 and table.shape[1:] == (3,) and 1 <= len(table) <= 256
    if not fits or table.min() < 0 or table.max() > 255:
        raise InputError(
            "[colormap] expected (n, 3) with n from 1 to 256 and whole values 0 to 255, "
            f"got {table.dtype} {table.shape}"
        )
    return table.astype(np.uint8)


@cache
def _voc() -> NDArray[np.uint8]:
    return voc_colormap()


def _pack(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)
