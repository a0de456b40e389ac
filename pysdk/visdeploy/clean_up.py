"""Masks without specks and holes.

Masks are columns in an RLE, so all is done on the turned image (W, H), whose rows those are.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy import mask

ClassMasks = list[tuple[int, mask.Rle]]

_NOTHING = 255  # no class has this index


def clean(
    found: Sequence[tuple[int, mask.Rle]], size: tuple[int, int], *, min_area: int, fill_holes: bool
) -> ClassMasks:
    """Fill holes and remove small parts; doing it twice changes nothing more.

    A part is made of pixels of one class that touch by a side or a corner. A hole is made of pixels without a class
    that touch by a side; the pixels around it are of one class, and it does not reach the border of the image. Holes
    are filled before parts are measured, and again where removed parts lay inside others.

    Args:
        found: Class index and RLE of each class, none of which overlap.
        size: Height and width of the image.
        min_area: Parts with fewer pixels lose their class.
        fill_holes: Whether holes get the class around them.

    Returns:
        The same of every class that is left.
    """
    if not found:
        return []
    turned = np.full(size[::-1], _NOTHING, np.uint8)
    for label, rle in found:
        turned[mask.decode(rle).T.view(bool)] = label
    if fill_holes:
        _fill(turned)
    if min_area > 1:
        for label, rle in found:
            _remove_small(turned, label, rle, min_area)
        if fill_holes and len(found) > 1:
            _fill(turned)
    cleaned = ((label, turned == label) for label, _ in found)
    return [(label, mask.encode(pixels.T)) for label, pixels in cleaned if pixels.any()]


def _fill(turned: NDArray[np.uint8]) -> None:
    nothing = (turned == _NOTHING).view(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(nothing, connectivity=4)
    left, top, width, height = stats[:, :4].T
    inner = (left > 0) & (top > 0) & (left + width < turned.shape[1]) & (top + height < turned.shape[0])
    inner[0] = False
    pixels, flat = np.flatnonzero(inner[parts]), turned.reshape(-1)
    part = parts.reshape(-1)[pixels]
    lowest, highest = np.full(len(inner), _NOTHING, np.uint8), np.zeros(len(inner), np.uint8)
    for step in (-1, 1, -turned.shape[1], turned.shape[1]):  # no inner part is at the border
        classes = flat[pixels + step]
        around = classes != _NOTHING
        np.minimum.at(lowest, part[around], classes[around])
        np.maximum.at(highest, part[around], classes[around])
    flat[pixels] = np.where(lowest == highest, lowest, _NOTHING)[part]


def _remove_small(turned: NDArray[np.uint8], label: int, rle: mask.Rle, min_area: int) -> None:
    x, y, width, height = mask.toBbox(rle).astype(int)  # which filling holes does not change
    crop = turned[x : x + width, y : y + height]
    _, parts, stats, _ = cv2.connectedComponentsWithStats((crop == label).view(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < min_area
    small[0] = False
    if small.any():
        crop[small[parts]] = _NOTHING
