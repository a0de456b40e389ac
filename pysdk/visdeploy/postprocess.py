"""From logits at network resolution to masks at the source image's size."""

import math

import numpy as np
from numpy.typing import NDArray

from visdeploy import mask, ops
from visdeploy.errors import EngineError, InputError
from visdeploy.preprocess import Prepared
from visdeploy.spec import Spec
from visdeploy.types import Masks


def find_masks(logits: NDArray[np.float32], prepared: Prepared, spec: Spec, threshold: float | None = None) -> Masks:
    """Upsample, decide and encode; no image of floats or dense mask at source size is made for a binary task.

    Args:
        logits: (C, h, w) float32 for one image.
        prepared: What `preprocess.prepare` made of that image.
        spec: The bundle's.
        threshold: Probability above which a binary pixel is foreground; default, the spec's.
    """
    logits = _crop(logits, prepared)
    background = 0 if spec.background is None else spec.background
    found = _binary(logits, prepared, spec, threshold) if spec.binary else _several(logits, prepared, spec)
    labels = np.array([label for label, _ in found], np.int64)
    rles = [rle for _, rle in found]
    assert spec.activation is not None
    return Masks(rles, labels, prepared.source_size, background, logits, spec.activation)


def logit_threshold(probability: float, spec: Spec) -> float:
    """Return the output value that stands for a probability.

    Raises:
        InputError: The probability is not strictly between 0 and 1.
    """
    if not 0 < probability < 1:
        raise InputError(f"[predict] threshold: expected a probability between 0 and 1, got {probability}")
    return math.log(probability / (1 - probability)) if spec.activation == "sigmoid" else probability


def _crop(logits: NDArray[np.float32], prepared: Prepared) -> NDArray[np.float32]:
    """Drop what padding became; a network may answer at a fraction of its input's size."""
    sides = []
    for axis in (0, 1):
        answered, fed = logits.shape[axis + 1], prepared.pixels.shape[axis]
        sides.append(max(1, round(prepared.valid[axis] * answered / fed)))
    return logits[:, : sides[0], : sides[1]]


def _binary(
    logits: NDArray[np.float32], prepared: Prepared, spec: Spec, threshold: float | None
) -> list[tuple[int, dict[str, object]]]:
    limit = logit_threshold(spec.threshold if threshold is None else threshold, spec)
    foreground = 1 if spec.background is None else 1 - spec.background
    rle = mask.encode_logits(logits[0], prepared.source_size, limit)
    return [(foreground, rle)] if mask.area(rle) else []


def _several(logits: NDArray[np.float32], prepared: Prepared, spec: Spec) -> list[tuple[int, dict[str, object]]]:
    if len(logits) != len(spec.labels):
        raise EngineError(f"the network answered with {len(logits)} channels, the spec names {len(spec.labels)} labels")
    _, areas, rles = ops.semantic_map(logits, prepared.source_size)
    return [(label, rles[label]) for label in range(len(rles)) if areas[label] and label != spec.background]
