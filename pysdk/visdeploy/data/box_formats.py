"""The conventions in which boxes are written down, and the one that is used here: corners, the second exclusive.

A box x1, y1, x2, y2 covers x1 <= x < x2 and y1 <= y < y2 in pixels, so that its width is x2 - x1. All functions take
and return (N, 4) arrays, of whatever numbers a file has: `marked.keep_valid` judges them.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float64]


@np.errstate(invalid="ignore", over="ignore")
def from_xywh(boxes: ArrayLike) -> Boxes:
    """COCO: left, top, width, height."""
    x, y, width, height = _columns(boxes)
    return np.stack([x, y, x + width, y + height], axis=1)


def to_xywh(boxes: ArrayLike) -> Boxes:
    """Invert `from_xywh`."""
    x1, y1, x2, y2 = _columns(boxes)
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)


def from_inclusive_yxyx(boxes: ArrayLike) -> Boxes:
    """Top, left, bottom, right, where the last row and column still belong to the box."""
    top, left, bottom, right = _columns(boxes)
    return np.stack([left, top, right + 1, bottom + 1], axis=1)


def to_inclusive_yxyx(boxes: ArrayLike) -> Boxes:
    """Invert `from_inclusive_yxyx`."""
    x1, y1, x2, y2 = _columns(boxes)
    return np.stack([y1, x1, y2 - 1, x2 - 1], axis=1)


def from_pascal(boxes: ArrayLike) -> Boxes:
    """Pascal VOC's own files: xmin, ymin, xmax, ymax, counted from 1, the last pixel included."""
    return np.asarray(_stacked(boxes) - [1, 1, 0, 0])


def to_pascal(boxes: ArrayLike) -> Boxes:
    """Invert `from_pascal`."""
    return np.asarray(_stacked(boxes) + np.array([1, 1, 0, 0]))


@np.errstate(invalid="ignore", over="ignore")
def from_yolo(boxes: ArrayLike, size: tuple[int, int]) -> Boxes:
    """Centre x, centre y, width and height as shares of an image of `size` (height, width)."""
    x, y, width, height = (_stacked(boxes) * [size[1], size[0], size[1], size[0]]).T
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def to_yolo(boxes: ArrayLike, size: tuple[int, int]) -> Boxes:
    """Invert `from_yolo`."""
    x1, y1, x2, y2 = _columns(boxes)
    centred = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    return np.asarray(centred / [size[1], size[0], size[1], size[0]])


def _stacked(boxes: ArrayLike) -> Boxes:
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def _columns(boxes: ArrayLike) -> Boxes:
    return _stacked(boxes).T
