"""What a bundle answers of one image, as arrays that can be recorded and compared."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from visdeploy.asked import Asked
from visdeploy.postprocess import find
from visdeploy.preprocess import Prepared
from visdeploy.spec import Manifest
from visdeploy.types import Boxes, Found, Masks, Picture, Result

Answer = Mapping[str, NDArray[Any]]
"""Arrays by the names in `FIELDS`: `classes` (H, W) uint8 class map; `boxes` (K, 4) float32 corners in pixels of the
source image, with `scores` (K,) float32 and `labels` (K,) int64; `probabilities` (C,) float32; or `picture` (H', W', 3)
uint8 RGB."""

_BOXES = ("boxes", "scores", "labels")
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "segmentation": ("classes",),
    "detection": _BOXES,
    "localization": _BOXES,
    "classification": ("probabilities",),
    "restoration": ("picture",),
}


def read(logits: NDArray[np.float32], prepared: Prepared, spec: Manifest, **asked: Any) -> Answer:
    """Return what the network's output says of an image, at the size of its source.

    Args:
        logits: What the network answered for it, without the batch.
        prepared: What `preprocess.prepare` made of the image.
        spec: The bundle's.
        **asked: See `asked.Asked`.
    """
    anchors = None if spec.anchors is None else spec.anchors.boxes(spec.size)
    return _arrays(next(find(logits[None], [prepared], spec, anchors, Asked(**asked))))


def candidates(logits: NDArray[np.float32], prepared: Prepared, spec: Manifest) -> Answer:
    """Return the boxes that `read` chose from: a detector's before NMS, a localizer's with each of its labels."""
    if spec.anchors is not None:
        unlimited = spec.model_copy(update={"top_k": spec.anchors.count})
        return read(logits, prepared, unlimited, iou=1.0, max_det=spec.anchors.count * len(spec.labels))
    found, labels = read(logits, prepared, spec), np.arange(len(spec.labels))
    if len(labels) == 1:
        return found
    shares = np.exp(logits[4:] - logits[4:].max())
    return {"boxes": found["boxes"].repeat(len(labels), 0), "scores": shares / shares.sum(), "labels": labels}


def of_result(result: Result) -> Answer:
    """Return what a prediction found.

    Raises:
        VisdeployError: It found nothing but an error.
    """
    return _arrays(result.found)


def _arrays(found: Found) -> Answer:
    if isinstance(found, Masks):
        return {"classes": found.to_numpy()}
    if isinstance(found, Boxes):
        return {"boxes": found.xyxy, "scores": found.scores, "labels": found.labels}
    if isinstance(found, Picture):
        return {"picture": found.array}
    return {"probabilities": found.probabilities}
