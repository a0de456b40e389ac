"""COCO's twelve figures, by COCOeval of pycocotools on our mask module."""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import requires
from visdeploy.evaluate import Detected
from visdeploy.mask import install_as_pycocotools

NAMES = (
    *("map", "map50_coco", "map75", "map_small", "map_medium", "map_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
"""In the order of COCOeval's `stats`: AP over IoU 0.5 to 0.95, at 0.5, at 0.75, by area; AR by count, by area."""


def coco_figures(images: Sequence[Detected], labels: Sequence[str]) -> dict[str, float]:
    """Return COCO's figures for boxes by name; -1 is COCO's word for "there are no such objects".

    An object to be ignored counts as a crowd. Areas are those of the boxes, in pixels of the image. `pycocotools.mask`
    is `visdeploy.mask` from then on, unless something imported COCO before, which then keeps the module it found.

    Args:
        images: What `evaluate.measure` collected.
        labels: Class names by index, the background's first.

    Raises:
        MissingDependencyError: pycocotools is not installed.
    """
    with requires("COCO's figures need pycocotools", "train"):
        import pycocotools  # noqa: F401 - install_as_pycocotools would put a stand-in here

        if "pycocotools.coco" not in sys.modules:
            install_as_pycocotools()
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for index, image in enumerate(images):
        objects, boxes = image.objects, image.boxes
        for row, label, ignored in zip(objects.xyxy, objects.labels, objects.ignored, strict=True):
            truth.append(_annotation(len(truth), index, row, label) | {"iscrowd": int(ignored)})
        for row, label, score in zip(boxes.xyxy, boxes.labels, boxes.scores, strict=True):
            found.append(_annotation(len(found), index, row, label) | {"iscrowd": 0, "score": float(score)})
    sets = []
    with redirect_stdout(io.StringIO()):
        for annotations in (truth, found):
            coco = COCO()
            coco.dataset = {
                "images": [
                    {"id": index, "height": image.size[0], "width": image.size[1]} for index, image in enumerate(images)
                ],
                "categories": [{"id": index, "name": name} for index, name in enumerate(labels) if index],
                "annotations": annotations,
            }
            coco.createIndex()
            sets.append(coco)
        scored = COCOeval(*sets, iouType="bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return dict(zip(NAMES, scored.stats.tolist(), strict=True))


def _annotation(earlier: int, image: int, xyxy: NDArray[np.float32], label: int) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in xyxy)
    width, height = right - left, bottom - top
    # COCOeval takes an id of 0 for no match.
    return {
        "id": earlier + 1,
        "image_id": image,
        "category_id": int(label),
        "bbox": [left, top, width, height],
        "area": width * height,
    }
