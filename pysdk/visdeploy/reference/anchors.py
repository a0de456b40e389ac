"""Anchors and the coding of boxes, one box at a time where that is easier to read."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Size = tuple[int, int]
F = np.float32


def _around(x: Any, y: Any, w: Any, h: Any) -> list[Any]:
    return [x - w, y - h, x + w, y + h]


def multibox_prior(feature_size: Size, sizes: Sequence[float], ratios: Sequence[float]) -> Floats:
    """Put anchors on every pixel: each size with the first ratio, the first size with the other ratios."""
    height, width = feature_size
    pairs = [(size, ratios[0]) for size in sizes] + [(sizes[0], ratio) for ratio in ratios[1:]]
    boxes = []
    for row in range(height):
        for column in range(width):
            x, y = F(column + 0.5) * F(1 / width), F(row + 0.5) * F(1 / height)
            for k, (size, ratio) in enumerate(pairs):
                root = np.sqrt(F(ratio))
                w = F(size) * root * F(height) / F(width)
                h = F(size) / root if k < len(sizes) else F(1) / root * F(size)
                boxes.append(_around(x, y, w / F(2), h / F(2)))
    return np.array(boxes, F).reshape(1, -1, 4)


def default_boxes(
    image_size: Size,
    feature_sizes: Sequence[Size],
    aspect_ratios: Sequence[Sequence[float]],
    *,
    scales: Sequence[float],
    steps: Sequence[float] | None = None,
    clip: bool = True,
) -> Floats:
    """Make SSD's default boxes in pixels."""
    boxes = []
    for k, (height, width) in enumerate(feature_sizes):
        across, down = (image_size[1] / steps[k], image_size[0] / steps[k]) if steps else (width, height)
        shapes = [(scales[k], scales[k]), (math.sqrt(scales[k] * scales[k + 1]),) * 2]
        for ratio in aspect_ratios[k]:
            wide, tall = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            shapes += [(wide, tall), (tall, wide)]
        for row in range(height):
            for column in range(width):
                for wh in shapes:
                    w, h = (F(min(side, 1) if clip else side) for side in wh)
                    x, y = F(column + 0.5) / F(across), F(row + 0.5) / F(down)
                    boxes.append(_around(x, y, F(0.5) * w, F(0.5) * h))
    return np.array(boxes, F).reshape(-1, 4) * np.array([image_size[1], image_size[0]] * 2, F)


def grid_anchors(
    feature_sizes: Sequence[Size],
    strides: Sequence[Size],
    sizes: Sequence[Sequence[float]],
    aspect_ratios: Sequence[Sequence[float]],
) -> Floats:
    """Make anchors around the top left of every cell, rounded to whole pixels there."""
    boxes = []
    for (height, width), (step_y, step_x), map_sizes, ratios in zip(
        feature_sizes, strides, sizes, aspect_ratios, strict=True
    ):
        for row in range(height):
            for column in range(width):
                for ratio in ratios:
                    for size in map_sizes:
                        tall = np.sqrt(F(ratio))
                        w, h = F(1) / tall * F(size), tall * F(size)
                        cell = np.round(np.array(_around(F(0), F(0), w, h), F) / F(2))
                        boxes.append(cell + np.array([column * step_x, row * step_y] * 2, F))
    return np.array(boxes, F).reshape(-1, 4)


def _four(values: Sequence[float]) -> Floats:
    return np.array(values if len(values) == 4 else np.repeat(values, 2), np.float64).astype(F)


@np.errstate(all="ignore")
def decode_boxes(
    offsets: Floats,
    anchors: Floats,
    *,
    variances: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    clip: tuple[float, float] | None = None,
) -> Floats:
    """Turn offsets into boxes; exp in double, rounded once."""
    low, size = anchors[..., :2], anchors[..., 2:] - anchors[..., :2]
    if variances is not None:
        divisor = _four([1 / v for v in variances])
        centre = offsets[..., :2] * size / divisor[:2] + (low + anchors[..., 2:]) / F(2)
        log_ratio = offsets[..., 2:] / divisor[2:]
    else:
        assert weights is not None
        divisor = _four(weights)
        centre = offsets[..., :2] / divisor[:2] * size + (low + F(0.5) * size)
        log_ratio = np.minimum(offsets[..., 2:] / divisor[2:], F(math.log(1000 / 16)))
    half = F(0.5) * (np.exp(log_ratio.astype(np.float64)).astype(F) * size)
    boxes = np.concatenate([centre - half, centre + half], -1)
    if clip is not None:
        boxes = np.clip(boxes, F(0), np.array([clip[1], clip[0]] * 2, F))
    return boxes


@np.errstate(all="ignore")
def encode_boxes(
    boxes: Floats,
    anchors: Floats,
    *,
    variances: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> Floats:
    """Turn boxes into offsets; log in double, rounded once."""
    low, high, size = anchors[..., :2], anchors[..., 2:], anchors[..., 2:] - anchors[..., :2]
    box_size = boxes[..., 2:] - boxes[..., :2]
    if variances is not None:
        factor = _four([1 / v for v in variances])
        distance = (boxes[..., :2] + boxes[..., 2:]) / F(2) - (low + high) / F(2)
        ratio = F(1e-6) + box_size / size
    else:
        assert weights is not None
        factor = _four(weights)
        distance = (boxes[..., :2] + F(0.5) * box_size) - (low + F(0.5) * size)
        ratio = box_size / size
    logs = np.log(ratio.astype(np.float64)).astype(F)
    return np.concatenate([factor[:2] * distance / size, factor[2:] * logs], -1)


@np.errstate(all="ignore")
def iou(a: Floats, b: Floats) -> Floats:
    """Give the IoU of every pair, (len(a), len(b)), in float32 and in the order that torchvision and the book share."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    sides = np.where(sides < 0, F(0), sides)
    inter = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((c[:, 2] - c[:, 0]) * (c[:, 3] - c[:, 1]) for c in (a, b))
    ratio: Floats = inter / (area_a[:, None] + area_b - inter)
    return ratio


def multibox_target(
    anchors: Floats, labels: Floats, *, skip_padding: bool = True
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Label anchors as the book does. NumPy's argmax takes NaN first and then the lowest index, as torch's does."""
    anchors = anchors.reshape(-1, 4)
    shape = (len(labels), len(anchors))
    offsets, mask, classes = np.zeros((*shape, 4), F), np.zeros((*shape, 4), F), np.zeros(shape, np.int64)
    for image, rows in enumerate(labels):
        boxes = rows[rows[:, 0] >= 0] if skip_padding else rows
        if not len(boxes) or not len(anchors):
            continue
        overlap = iou(anchors, boxes[:, 1:])
        assigned = np.where(overlap.max(1) >= 0.5, overlap.argmax(1), -1)
        for taken in range(len(boxes)):
            if skip_padding and taken == len(anchors):
                break
            anchor, box = divmod(int(overlap.argmax()), len(boxes))
            assigned[anchor] = box
            overlap[:, box] = overlap[anchor] = -1
        for anchor in np.flatnonzero(assigned >= 0).tolist():
            row = boxes[assigned[anchor]]
            offsets[image, anchor] = encode_boxes(row[None, 1:], anchors[[anchor]], variances=(0.1, 0.2))
            mask[image, anchor], classes[image, anchor] = 1, int(row[0]) + 1
    return offsets.reshape(len(labels), -1), mask.reshape(len(labels), -1), classes


def best_first(scores: Floats) -> NDArray[np.int64]:
    """Order by falling score: NaN first, equal ones by index."""
    return np.argsort(np.where(np.isnan(scores), -np.inf, -scores), kind="stable")


def multibox_detection(
    cls_probs: Floats,
    offsets: Floats,
    anchors: Floats,
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.009999999,
) -> Floats:
    """Read the book's detector."""
    anchors, out = anchors.reshape(-1, 4), np.zeros((len(cls_probs), cls_probs.shape[2], 6), F)
    for image, probs in enumerate(cls_probs):
        boxes = decode_boxes(offsets[image].reshape(-1, 4), anchors, variances=(0.1, 0.2))
        conf, label = probs[1:].max(0), probs[1:].argmax(0)
        kept: list[int] = []
        for i in best_first(conf):
            if np.all(iou(boxes[kept], boxes[[i]]) <= F(nms_threshold)):
                kept.append(int(i))
        rest = np.setdiff1d(np.arange(len(boxes)), kept)
        label[rest] = -1
        order = np.concatenate([np.array(kept, np.int64), rest])
        below = conf[order] < F(pos_threshold)
        out[image, :, 0] = np.where(below, -1, label[order])
        out[image, :, 1] = np.where(below, 1 - conf[order], conf[order])
        out[image, :, 2:] = boxes[order]
    return out
