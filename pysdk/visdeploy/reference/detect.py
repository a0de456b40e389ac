"""SSD's detections."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visdeploy.reference.anchors import F, Floats, decode_boxes, iou

Answer = tuple[Floats, Floats, NDArray[np.int64]]


def _suppress(boxes: Floats, threshold: float) -> list[int]:
    """Keep boxes that come best first, unless their IoU with one kept exceeds the threshold; NaN does not."""
    kept: list[int] = []
    for i in range(len(boxes)):
        if not np.any(iou(boxes[kept], boxes[[i]]).astype(np.float64) > threshold):
            kept.append(i)
    return kept


def detect(
    logits: Floats,
    offsets: Floats,
    anchors: Floats,
    *,
    image_size: tuple[int, int],
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    score_threshold: float = 0.01,
    iou_threshold: float = 0.45,
    top_k: int = 400,
    max_det: int = 200,
    mode: str = "exact",
) -> list[Answer]:
    """Find objects: boxes, scores and labels of each image."""
    found = []
    for rows, deltas in zip(logits.astype(np.float64), offsets, strict=True):
        exps = np.exp(rows - rows.max(-1, keepdims=True, initial=-np.inf))
        scores = (exps / exps.sum(-1, keepdims=True)).astype(F)
        boxes = decode_boxes(deltas, anchors, weights=weights, clip=image_size)
        candidates = []
        for c in range(1, rows.shape[1]):
            above = np.flatnonzero(scores[:, c] > F(score_threshold))
            best = above[np.argsort(-scores[above, c], kind="stable")][:top_k]
            candidates += [(-scores[i, c], i, c) for i in best]
        candidates.sort()
        score = np.array([-key for key, _, _ in candidates], F)
        anchor = np.array([i for _, i, _ in candidates], np.int64)
        label = np.array([c for _, _, c in candidates], np.int64)
        box = boxes[anchor]
        if mode == "torchvision" and 0 < len(box) <= 1000:
            keep = _suppress(box + (label.astype(F) * (box.max() + F(1)))[:, None], iou_threshold)
        else:
            ranks = [np.flatnonzero(label == c) for c in np.unique(label)]
            keep = sorted(int(of[k]) for of in ranks for k in _suppress(box[of], iou_threshold))
        keep = keep[:max_det]
        found.append((box[keep], score[keep], label[keep]))
    return found
