"""The outlines of masks, along the edges of pixels.

Note [edges of pixels]
OpenCV's contours go through the middles of border pixels: half a pixel is lost on every side, and a line one pixel wide
has no area. COCO's polygons are drawn on corners of pixels: pixel (x, y) is the square from there to (x + 1, y + 1). So
a contour is only where tracing begins. OpenCV walks from one border pixel to the next by turning counterclockwise,
from the pixel it came from until it meets the next one; what it turned past is not of the mask, and the sides it turned
past are the outline.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int32]

# Directions are counted counterclockwise from the right, y pointing down; by dy + 1 and dx + 1.
_DIRECTION = np.array([[3, 2, 1], [4, 0, 0], [5, 6, 7]])
# Where the side of a pixel in each of the even directions begins, when gone along counterclockwise.
_CORNER = np.array([[1, 1], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 1], [0, 0]], np.int32)


def trace(pixels: NDArray[np.uint8], epsilon: float = 0.0) -> list[list[Points]]:
    """Return the outline of every part, pixels that touch by sides or corners, and those of its holes after it.

    Args:
        pixels: (H, W) zeros and ones.
        epsilon: How far, in pixels, a simplified outline may be from the exact one; 0 gives that. An outline of which
            less than a triangle would be left stays exact.

    Returns:
        (P, 2) int32 corners x, y of each: outlines counterclockwise as seen, holes clockwise. Parts come in the order
        of their first pixels, counted down the columns.
    """
    found, tree = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not found:
        return []
    points = np.concatenate(found)[:, 0]
    lengths = np.array([len(contour) for contour in found])
    first = np.minimum.reduceat(
        points[:, 0].astype(np.int64) * len(pixels) + points[:, 1], np.cumsum(lengths) - lengths
    )
    outlines = [_simplified(outline, epsilon) for outline in _along_sides(points, lengths)]
    parents = tree[0, :, 3]
    parts = {i: [outlines[i]] for i in np.argsort(first).tolist() if parents[i] < 0}
    for hole in np.flatnonzero(parents >= 0):
        parts[parents[hole]].append(outlines[hole])
    return list(parts.values())


def as_polygon(outlines: list[Points]) -> list[float]:
    """Return an outline with its holes as one polygon x, y, x, y, ...

    From its first corner a line goes to each hole and back; by the even-odd rule that COCO draws with, it is nothing.
    """
    outline, *holes = outlines
    home = outline[:1]
    loops = [outline] + [loop for hole in holes for loop in (home, hole, hole[:1])]
    polygon: list[float] = np.concatenate(loops).astype(np.float64).reshape(-1).tolist()
    return polygon


def _along_sides(points: Points, lengths: NDArray[np.int64]) -> list[Points]:
    """Return the corners of the paths along the outer sides of contours' pixels; see Note [edges of pixels].

    Args:
        points: (N, 2) x, y of all contours, one after another.
        lengths: Points of each.
    """
    previous = _previous(lengths)
    dx, dy = (points - points[previous]).T
    back = (_DIRECTION[dy + 1, dx + 1] + 4) % 8
    onward = np.empty_like(back)
    onward[previous] = (back + 4) % 8
    turned = np.where(np.repeat(lengths, lengths) > 1, (onward - back - 1) % 8, 8)
    steps = np.arange(1, 9)
    passed = (back[:, None] + steps) % 8
    outer = (steps <= turned[:, None]) & (passed % 2 == 0)
    side, corners = passed[outer], points[np.nonzero(outer)[0]] + _CORNER[passed[outer]]
    contour = np.repeat(np.arange(len(lengths)), lengths)
    sides = np.bincount(contour, outer.sum(1), len(lengths)).astype(np.int64)
    turns = side != side[_previous(sides)]
    kept = np.bincount(np.repeat(np.arange(len(lengths)), sides), turns, len(lengths)).astype(np.int64)
    return np.split(corners[turns], np.cumsum(kept)[:-1])


def _previous(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of what comes before each entry of cycles that lie one after another."""
    index = np.arange(lengths.sum()) - 1
    ends = np.cumsum(lengths)
    index[ends - lengths] = ends - 1
    return index


def _simplified(outline: Points, epsilon: float) -> Points:
    if not epsilon:
        return outline
    fewer: Points = cv2.approxPolyDP(outline[:, None], epsilon, True)[:, 0]
    return fewer if len(fewer) > 2 else outline
