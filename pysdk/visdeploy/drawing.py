"""What `Result.plot` draws over an image: legible on any background, and larger where the image is.

Letters and boxes are white within black. The outline of a text is grown from its letters, as a second text in a
heavier stroke need not advance as the first.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_SMALLEST = 0.3  # of the font's size that can still be read


def draw_masks(
    pixels: Pixels, classes: Pixels, masks: Sequence[tuple[Pixels, str, Color]], colors: Pixels, opacity: float
) -> Pixels:
    """Colour what was found, outline it, and name the classes in a legend.

    Args:
        pixels: (H, W, 3) RGB.
        classes: (H, W) class index.
        masks: (H, W) mask, name and colour of each class found.
        colors: (C, 3) colour of every class.
        opacity: Of the colour, from 0 to 1.
    """
    blend = cv2.addWeighted(pixels, 1 - opacity, colors[classes], opacity, 0)
    shown = np.zeros(classes.shape, bool)
    for found, _, _ in masks:
        shown |= found.view(bool)
    drawn = np.where(shown[..., None], blend, pixels)
    for found, _, color in masks:
        outline, _ = cv2.findContours(found, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outline, -1, color, max(1, min(classes.shape) // 400), cv2.LINE_AA)
    _draw_legend(drawn, [(name, color) for _, name, color in masks])
    return drawn


def draw_boxes(pixels: Pixels, xyxy: NDArray[np.float32], texts: Sequence[str], colors: Sequence[Color]) -> Pixels:
    """Frame objects and write a text at each; those that come first lie on top.

    Args:
        pixels: (H, W, 3) RGB.
        xyxy: (N, 4) corners in pixels.
        texts: What to write.
        colors: Of the innermost line of each frame.
    """
    drawn = pixels.copy()
    line = max(1, round(min(pixels.shape[:2]) / 500))
    for corners, color in zip(xyxy[::-1], colors[::-1], strict=True):
        for inset, shade in enumerate((_BLACK, _WHITE, color, _BLACK)):
            _frame(drawn, corners, inset * line, line, shade)
    for corners, text in zip(xyxy[::-1], texts[::-1], strict=True):
        _label(drawn, corners, text, 4 * line)
    return drawn


def draw_text(pixels: Pixels, text: str) -> Pixels:
    """Write a text into the upper left corner of (H, W, 3) RGB."""
    drawn = pixels.copy()
    margin = max(2, min(pixels.shape[:2]) // 40)
    _label(drawn, np.array([0, 0, *pixels.shape[1::-1]], np.float32), text, margin)
    return drawn


def draw_beside(before: Pixels, after: Pixels) -> Pixels:
    """Return two (H, W, 3) RGB images side by side, the first one enlarged bicubically to the size of the second."""
    if before.shape != after.shape:
        before = np.asarray(cv2.resize(before, after.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    return np.hstack([before, after])


def _frame(drawn: Pixels, corners: NDArray[np.float32], inset: int, line: int, color: Color) -> None:
    left, top, right, bottom = (int(side) for side in np.rint(corners))
    left, top, right, bottom = left + inset, top + inset, right - inset, bottom - inset
    if right - left < 1 or bottom - top < 1:
        return
    for rows, columns in (
        (slice(top, min(top + line, bottom)), slice(left, right)),
        (slice(max(bottom - line, top), bottom), slice(left, right)),
        (slice(top, bottom), slice(left, min(left + line, right))),
        (slice(top, bottom), slice(max(right - line, left), right)),
    ):
        drawn[rows, columns] = color


def _label(drawn: Pixels, corners: NDArray[np.float32], text: str, inset: int) -> None:
    """Write inside a box that has room, else above it, or below where the image ends there."""
    height, width = drawn.shape[:2]
    letters = _letters(text, max(0.5, min(height, width) / 1100), width)
    if letters is None or len(letters) > height:
        return
    left, top, right, bottom = (int(side) for side in np.rint(corners))
    if letters.shape[1] + 2 * inset <= right - left and 2 * len(letters) + inset <= bottom - top:
        left, top = left + inset, top + inset
    else:
        top = top - len(letters) if top >= len(letters) else bottom
    left = max(0, min(left, width - letters.shape[1]))
    top = max(0, min(top, height - len(letters)))
    part = drawn[top : top + len(letters), left : left + letters.shape[1]]
    reach = max(2, len(letters) // 14)
    outline = cv2.dilate(letters, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2))[..., None]
    part[:] = np.maximum(part.astype(np.uint16) * (255 - outline.astype(np.uint16)) // 255, letters[..., None])


def _letters(text: str, scale: float, widest: int) -> Pixels | None:
    """Return white on black, with room for an outline, smaller where it is too wide; None where that is illegible."""
    while scale >= _SMALLEST:
        stroke, room = max(2, round(2 * scale)), round(4 * scale) + 2
        (width, height), below = cv2.getTextSize(text, _FONT, scale, stroke)
        width += 2 * room
        if width <= widest:
            letters = np.zeros((height + below + 2 * room, width), np.uint8)
            cv2.putText(letters, text, (room, room + height), _FONT, scale, 255, stroke, cv2.LINE_AA)
            return letters
        scale *= min(0.98, widest / width)  # strokes and sizes are whole pixels: what should fit need not
    return None


def _draw_legend(drawn: Pixels, entries: list[tuple[str, Color]]) -> None:
    """White names on a darkened box."""
    height, width = drawn.shape[:2]
    scale = max(0.5, min(height, width) / 1100)
    line, margin, side = round(34 * scale), round(14 * scale), round(20 * scale)
    entries = entries[: (height - 2 * margin) // line]
    if not entries or min(height, width) < 120:
        return
    widest = max(cv2.getTextSize(name, _FONT, scale, 1)[0][0] for name, _ in entries)
    left = round(2.2 * margin) + side
    box = drawn[margin : 2 * margin + len(entries) * line, margin : left + widest + margin]
    box //= 5
    for row, (name, color) in enumerate(entries):
        start, foot = round(1.5 * margin), round(1.5 * margin + (row + 0.75) * line)
        cv2.rectangle(drawn, (start, foot - side), (start + side, foot), color, -1)
        cv2.putText(drawn, name, (left, foot), _FONT, scale, _WHITE, 1, cv2.LINE_AA)
