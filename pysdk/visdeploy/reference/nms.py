"""Non-maximum suppression and box overlap."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of (N, 4) with (M, 4) corner boxes, every step rounded to their precision."""
    with np.errstate(all="ignore"):
        corner = np.fmin(a[:, None, 2:], b[None, :, 2:]) - np.fmax(a[:, None, :2], b[None, :, :2])
        side = np.fmax(corner, 0)
        inter = side[..., 0] * side[..., 1]
        area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
        area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
        iou: NDArray[Any] = inter / (area_a[:, None] + area_b - inter)
        return iou


def nms(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_output: int | None = None,
) -> NDArray[np.int64]:
    """Keep a box unless a better one that was kept overlaps it by more than the threshold, a double."""
    kept: list[int] = []
    for i in _best_first(scores, score_threshold):
        overlaps = box_iou(boxes[kept], boxes[i : i + 1]).astype(np.float64)
        if not (overlaps > iou_threshold).any():
            kept.append(i)
    return np.array(kept[:max_output], np.int64)


def batched_nms(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[np.int64],
    iou_threshold: float,
    *,
    mode: str = "exact",
    score_threshold: float | None = None,
    max_output: int | None = None,
) -> NDArray[np.int64]:
    """Suppress within each label; "torchvision" shifts up to 1000 boxes apart by label instead."""
    if mode == "torchvision" and 0 < len(boxes) <= 1000:
        with np.errstate(all="ignore"):
            shift = labels.astype(boxes.dtype) * (boxes.max() + boxes.dtype.type(1))
            shifted = boxes + shift[:, None]
        return nms(shifted, scores, iou_threshold, score_threshold=score_threshold, max_output=max_output)
    kept: set[int] = set()
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        kept |= set(own[nms(boxes[own], scores[own], iou_threshold, score_threshold=score_threshold)].tolist())
    best = [i for i in _best_first(scores, score_threshold) if i in kept]
    return np.array(best[:max_output], np.int64)


def _best_first(scores: NDArray[Any], threshold: float | None) -> list[int]:
    # The last key comes first, NaN is best, and what is equal in all keys keeps its order.
    order: list[int] = np.lexsort((-scores, ~np.isnan(scores))).tolist()
    return [i for i in order if threshold is None or float(scores[i]) > threshold]
