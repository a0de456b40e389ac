"""Images larger than the network, through windows that overlap.

Note [weights of windows]
A logit is the mean of what the windows over its pixel say, weighted with a Gaussian around the middle of each, as
borders of a window lack context. Windows stand on a grid, so the weights are a product of one factor per axis, and
divided by their sum beforehand: one band of rows, as high as a window, is all that is accumulated at a time, and under
a single window the weight is exactly 1.
"""

from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy.spec import Spec

_SIGMAS = 4  # from the middle of a window to its border


def windows(pixels: NDArray[np.uint8], spec: Spec) -> Iterator[NDArray[np.uint8]]:
    """Yield what the network sees of a prepared image: parts (h, w, 3) of it, row by row; itself unless tiled."""
    if spec.resize != "tile":
        yield pixels
        return
    (height, width), (tops, lefts) = spec.size, _grid(pixels.shape[:2], spec)
    for top in tops:
        for left in lefts:
            yield np.ascontiguousarray(pixels[top : top + height, left : left + width])


def blend(
    answers: Iterable[NDArray[np.float32]], size: tuple[int, int], spec: Spec
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Put together what the network says of `windows`, in rows that are complete.

    Args:
        answers: (C, h', w') logits of each window, in their order; enlarged where the network answers at less than its
            input's size.
        size: Height and width of the prepared image.
        spec: The bundle's.

    Yields:
        The row that the part begins at, and its logits (C, rows, width); the array is used again for the next part.
    """
    (height, width), grid = spec.size, _grid(size, spec)
    tops, lefts = grid
    down, across = (_weights(starts, window) for starts, window in zip(grid, spec.size, strict=True))
    answer = iter(answers)
    band = scaled = np.empty((0, 0, 0), np.float32)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            logits = enlarge(next(answer), spec.size)
            if not band.size:
                band = np.zeros((len(logits), height, size[1]), np.float32)
                scaled = np.empty(logits.shape, np.float32)
            np.multiply(logits, down[row][:, None] * across[column], out=scaled)
            band[:, :, left : left + width] += scaled
        complete = (tops[row + 1] if row + 1 < len(tops) else size[0]) - top
        yield top, band[:, :complete]
        for plane in band:
            plane[: height - complete] = plane[complete:].copy()
            plane[height - complete :] = 0


def answer(
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]], pixels: NDArray[np.uint8], spec: Spec
) -> NDArray[np.float32]:
    """Return the (C, h, w) logits of one prepared image, from `infer` of batches (1, h, w, 3)."""
    answers = (infer(window[None])[0] for window in windows(pixels, spec))
    if spec.resize != "tile":
        return next(answers)
    return np.concatenate([rows.copy() for _, rows in blend(answers, pixels.shape[:2], spec)], 1)


def _grid(size: tuple[int, int], spec: Spec) -> tuple[list[int], list[int]]:
    """Return where windows start on each axis; the last ones are moved inside."""
    tops, lefts = (_starts(length, window, spec.tile_overlap) for length, window in zip(size, spec.size, strict=True))
    return tops, lefts


def _starts(length: int, window: int, overlap: float) -> list[int]:
    step = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, step), length - window]


def _weights(starts: list[int], window: int) -> NDArray[np.float32]:
    """Return (N, window) weights along one axis, which sum to 1 wherever windows overlap."""
    distance = (np.arange(window) - (window - 1) / 2) / (window / 2)
    bell = np.exp(-0.5 * (_SIGMAS * distance) ** 2)
    total = np.zeros(starts[-1] + window)
    for start in starts:
        total[start : start + window] += bell
    return np.stack([bell / total[start : start + window] for start in starts]).astype(np.float32)


def enlarge(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return (C, h', w') logits at the size of the network's input, bilinearly."""
    if logits.shape[1:] == size:
        return logits
    return np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in logits])
