"""From logits at network resolution to masks at the source image's size."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import mask, ops
from visdeploy.errors import EngineError, InputError
from visdeploy.preprocess import Prepared
from visdeploy.spec import Manifest
from visdeploy.tiling import enlarge
from visdeploy.types import Masks, Rle


def find_masks(logits: mask.Array, prepared: Prepared, spec: Manifest, threshold: float | None = None) -> Masks:
    """Upsample, decide and encode; no image of floats or dense mask at source size is made for a binary task.

    Args:
        logits: (C, h, w) float32 for one image; where they lie on a CUDA device, masks are found there.
        prepared: What `preprocess.prepare` made of that image.
        spec: The bundle's.
        threshold: Probability above which a binary pixel is foreground; default, the spec's.

    Raises:
        EngineError: The logits have another number of channels than the spec says.
        InputError: The threshold is not a probability.
    """
    _check_channels(logits, spec)
    logits = _crop(logits, prepared)
    found = _binary(logits, prepared, spec, threshold) if spec.binary else _several(logits, prepared, spec)
    return _masks(found, prepared, spec, _on_host(logits))


def find_tiled_masks(
    parts: Iterable[tuple[int, NDArray[np.float32]]], prepared: Prepared, spec: Manifest, threshold: float | None = None
) -> Masks:
    """Do the same with the logits of an image in tiles, of which those of several classes are never all in memory.

    Args:
        parts: What `tiling.blend` yields.
        prepared: As in `find_masks`.
        spec: The bundle's.
        threshold: As in `find_masks`.
    """
    height, width = prepared.valid
    logits = np.empty((1, height, width), np.float32) if spec.binary else None
    classes = np.empty((0 if spec.binary else height, width), np.uint8)
    for top, rows in parts:
        _check_channels(rows, spec)
        if top >= height:  # all padding
            continue
        bottom = min(height, top + rows.shape[1])
        if logits is not None:
            logits[:, top:bottom] = rows[:, : bottom - top, :width]
        else:
            classes[top:bottom] = ops.semantic_map(rows[:, : bottom - top, :width], (bottom - top, width))[0]
    if logits is not None:
        return _masks(_binary(logits, prepared, spec, threshold), prepared, spec, logits)
    present = np.flatnonzero(np.bincount(classes.reshape(-1), minlength=len(spec.labels)))
    found = [(int(label), mask.encode(classes == label)) for label in present if label != spec.background]
    return _masks(found, prepared, spec, None)


def logit_threshold(probability: float, spec: Manifest) -> float:
    """Return the output value that stands for a probability.

    Raises:
        InputError: The probability is not strictly between 0 and 1.
    """
    if not 0 < probability < 1:
        raise InputError(f"[predict] threshold: expected a probability between 0 and 1, got {probability}")
    return math.log(probability / (1 - probability)) if spec.activation == "sigmoid" else probability


def _check_channels(logits: mask.Array, spec: Manifest) -> None:
    channels = 1 if spec.binary else len(spec.labels)
    if len(logits) != channels:
        raise EngineError(f"the network answered with {len(logits)} channels, its spec says {channels}")


def _masks(
    found: list[tuple[int, Rle]], prepared: Prepared, spec: Manifest, logits: NDArray[np.float32] | None
) -> Masks:
    labels = np.array([label for label, _ in found], np.int64)
    rles = [rle for _, rle in found]
    return Masks(rles, labels, prepared.source_size, spec.background, logits, spec.activation)


def _on_host(array: mask.Array) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else array.numpy()


def _crop(logits: mask.Array, prepared: Prepared) -> mask.Array:
    """Drop what padding became."""
    fed = prepared.pixels.shape[:2]
    if prepared.valid == fed:
        return logits
    if logits.shape[1:] != fed:
        # Padding may begin inside a cell of a network that answers at a fraction of its input's size.
        logits = enlarge(_on_host(logits), (fed[0], fed[1]))
    return logits[:, : prepared.valid[0], : prepared.valid[1]]


def _binary(logits: mask.Array, prepared: Prepared, spec: Manifest, threshold: float | None) -> list[tuple[int, Rle]]:
    limit = logit_threshold(spec.threshold if threshold is None else threshold, spec)
    rle = mask.encode_logits(logits[0], prepared.source_size, limit)
    return [(0 if spec.background == 1 else 1, rle)] if mask.area(rle) else []


def _several(logits: mask.Array, prepared: Prepared, spec: Manifest) -> list[tuple[int, Rle]]:
    _, areas, rles = ops.semantic_map(logits, prepared.source_size)
    present = np.flatnonzero(_on_host(areas))
    return [(label, rles[label]) for label in present.tolist() if label != spec.background]


def find_boxes(logits: Any, prepared: Prepared, spec: Manifest) -> Any:
    """Provisional."""
    from visdeploy.types import Boxes

    size, classes = spec.size, len(spec.labels)
    if spec.task == "detection":
        assert spec.anchors is not None
        found = ops.detect(
            np.ascontiguousarray(logits[None, :, :classes]),
            np.ascontiguousarray(logits[None, :, classes:]),
            spec.anchors.boxes(size),
            image_size=size,
            weights=spec.box_weights,
            score_threshold=spec.threshold,
            iou_threshold=spec.iou_threshold,
            top_k=spec.top_k,
            max_det=spec.max_det,
            mode=spec.nms,
        )[0]
        boxes, scores, labels = found.boxes, found.scores, found.labels
    else:
        shares = 1 / (1 + np.exp(-logits[:4]))
        boxes = (shares * np.array([size[1], size[0]] * 2, np.float32))[None].astype(np.float32)
        p = np.exp(logits[4:] - logits[4:].max()) if len(logits) > 4 else np.ones(1, np.float32)
        p /= p.sum()
        labels = np.array([p.argmax()], np.int64)
        scores = p[labels].astype(np.float32)
    h, w = prepared.valid
    H, W = prepared.source_size
    boxes = boxes * np.array([W / w, H / h] * 2, np.float32)
    boxes = np.clip(boxes, 0, np.array([W, H, W, H], np.float32)).astype(np.float32)
    return Boxes(boxes, scores, labels, tuple(spec.labels[i] for i in labels))


def find_classes(logits: Any, spec: Manifest) -> Any:
    """Provisional."""
    from visdeploy.types import Classes

    p = np.exp(logits - logits.max())
    p /= p.sum()
    i = int(p.argmax())
    return Classes(p.astype(np.float32), i, spec.labels[i], float(p[i]))
