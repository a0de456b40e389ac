"""How long do masks take to be compared, merged and drawn from outlines, with one thread and the call included?"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rlemasklib
from faster_coco_eval.core import mask as faster
from pycocotools import mask as coco
from ultrafast_pycocotools import mask as ultrafast

from timing import Row, compare, main
from visdeploy import mask

SIZE = 480, 640
RIVALS = {"pycocotools": coco, "ultrafast-pycocotools": ultrafast, "faster-coco-eval": faster}


def real_masks(folder: Path) -> tuple[list[Any], list[Any]]:
    """The masks of one image size among COCO's example results and their truth, and all outlines of that truth."""
    found = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    rles = [f["segmentation"] for f in found if sizes[f["image_id"]] == SIZE]
    polygons = [a["segmentation"] for a in truth["annotations"] if isinstance(a["segmentation"], list)]
    here = [a for a in truth["annotations"] if sizes[a["image_id"]] == SIZE and isinstance(a["segmentation"], list)]
    rles += [coco.merge(coco.frPyObjects(a["segmentation"], *SIZE)) for a in here]
    for rle in rles:
        rle["counts"] = rle["counts"].encode() if isinstance(rle["counts"], str) else rle["counts"]
    return rles, [outline for shape in polygons for outline in shape]


def generated_masks(rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    """Blobs and outlines of the sizes that objects of COCO have."""
    rles, polygons = [], []
    for _ in range(600):
        around = np.linspace(0, 2 * np.pi, rng.integers(6, 40), endpoint=False)
        radius = np.exp(rng.uniform(1, 5)) * rng.uniform(0.7, 1.3, around.size)
        x = rng.uniform(0, SIZE[1]) + radius * np.cos(around)
        y = rng.uniform(0, SIZE[0]) + radius * np.sin(around)
        outline = np.stack([x.clip(0, SIZE[1]), y.clip(0, SIZE[0])], -1)
        polygons.append(outline.round(2).ravel().tolist())
        smooth = cv2.fillPoly(np.zeros(SIZE, np.float32), [outline.astype(np.int32)], 1.0)
        noise = cv2.GaussianBlur(rng.normal(size=SIZE).astype(np.float32), (0, 0), 3)
        rles.append(mask.encode(cv2.GaussianBlur(smooth, (0, 0), 3) + noise > 0.5))
    return rles, polygons


def masks_and_outlines() -> tuple[str, list[Any], list[Any]]:
    folder = Path(os.environ.get("VISDEPLOY_DATA", "")) / "coco_rle"
    if "VISDEPLOY_DATA" in os.environ and folder.exists():
        return "COCO's", *real_masks(folder)
    return "generated", *generated_masks(np.random.default_rng(0))


def rivals(call: Callable[[Any], Any], ours: Callable[[], Any], **more: Callable[[], Any]) -> dict[str, Any]:
    """Our call, the same of each module that has pycocotools' interface, and others."""
    return {"visdeploy": ours, **{name: lambda m=m: call(m) for name, m in RIVALS.items()}, **more}


def iou_rivals(case: str, dt: Any, gt: Any) -> list[Row]:
    crowd = [0] * len(gt)

    def matrix() -> Any:
        masks = [[rlemasklib.RLEMask.from_dict(rle) for rle in rles] for rles in (dt, gt)]
        return rlemasklib.RLEMask.iou_matrix(*masks)

    more = {"rlemasklib": matrix} if isinstance(dt[0], dict) else {}
    return compare(case, rivals(lambda m: m.iou(dt, gt, crowd), lambda: mask.iou(dt, gt, crowd, num_threads=1), **more))


def merge_rivals(case: str, rles: list[Any]) -> list[Row]:
    return compare(
        case, rivals(lambda m: m.merge(rles), lambda: mask.merge(rles), rlemasklib=lambda: rlemasklib.union(rles))
    )


def outline_rivals(case: str, polygons: list[Any]) -> list[Row]:
    def one_by_one() -> Any:
        return [rlemasklib.from_polygon(polygon, SIZE) for polygon in polygons]

    call = lambda m: m.frPyObjects(polygons, *SIZE)  # noqa: E731
    return compare(case, rivals(call, lambda: mask.frPyObjects(polygons, *SIZE), rlemasklib=one_by_one))


def box_rivals(case: str, boxes: np.ndarray) -> list[Row]:
    return compare(case, rivals(lambda m: m.frPyObjects(boxes, *SIZE), lambda: mask.frPyObjects(boxes, *SIZE)))


def cases() -> list[Row]:
    kind, rles, polygons = masks_and_outlines()
    many = np.resize(np.arange(len(polygons)), 1000)
    # Every size is among any few of them.
    dt, gt = rles[:300], rles[-300:]
    typical = sorted(rles, key=lambda rle: len(rle["counts"]))[len(rles) // 2 :]
    boxes = np.array([coco.toBbox(rle) for rle in rles])
    rows = iou_rivals(f"iou 300x300 masks, {kind}", dt, gt)
    rows += iou_rivals(f"iou 5x3 masks, {kind}", typical[:5], typical[5:8])
    rows += iou_rivals(f"iou 1x1 mask, {kind}", typical[:1], typical[1:2])
    rows += iou_rivals("iou 300x300 boxes", boxes[:300], boxes[-300:])
    rows += iou_rivals("iou 5x3 boxes, lists", boxes[:5].tolist(), boxes[5:8].tolist())
    rows += iou_rivals("iou 1x1 box, list", boxes[:1].tolist(), boxes[1:2].tolist())
    rows += merge_rivals(f"merge 100 masks, {kind}", rles[:100])
    rows += merge_rivals(f"merge 2 masks, {kind}", typical[:2])
    rows += merge_rivals(f"merge 2 large masks, {kind}", typical[-2:])
    rows += outline_rivals(f"frPyObjects 1000 polygons, {kind}", [polygons[i] for i in many])
    rows += outline_rivals(f"frPyObjects 1 polygon, {kind}", polygons[:1])
    rows += box_rivals("frPyObjects 300 boxes", boxes[:300])
    rows += box_rivals("frPyObjects 1 box", boxes[:1])
    return rows


if __name__ == "__main__":
    main(
        cases,
        ["visdeploy", "numpy", "pycocotools", "ultrafast-pycocotools", "rlemasklib", "faster-coco-eval"],
    )
