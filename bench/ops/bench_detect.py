"""How long does SSD take from logits to boxes, on one thread, against torchvision's own postprocessing?"""

import types
from typing import Any

import numpy as np
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from timing import Row, compare, main, place
from visdeploy import ops

SIZE = (300, 300)
CLASSES = 91

# What postprocess_detections reads of its model, with torchvision's defaults for SSD300.
MODEL = types.SimpleNamespace(
    box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)),
    score_thresh=0.01,
    nms_thresh=0.45,
    topk_candidates=400,
    detections_per_img=200,
)


def ssd300_anchors() -> torch.Tensor:
    return torch.from_numpy(
        ops.default_boxes(
            SIZE,
            [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)],
            [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
            steps=[8, 16, 32, 64, 100, 300],
        )
    )


def noisy(images: int, anchors: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """What an untrained network says: a third of all scores are above the threshold."""
    return rng.normal(0, 1, (images, len(anchors), CLASSES)).astype(np.float32)


def confident(images: int, anchors: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Background all over but for some fifteen anchors around each of ten objects."""
    logits = noisy(images, anchors, rng)
    logits[..., 0] += 12
    corners = anchors.numpy()
    for image in range(images):
        for at in rng.choice(len(corners), 10, replace=False):
            distance = np.abs(corners - corners[at]).max(1)
            near = np.argsort(distance)[:15]
            logits[image, near, rng.integers(1, CLASSES)] += rng.normal(13, 2, 15).astype(np.float32)
    return logits


def nearly_same(ours: list[ops.Detections], theirs: list[dict[str, Any]]) -> bool:
    """Torch's exp differs in the last bit."""
    return all(
        torch.equal(a.labels, b["labels"])
        and torch.allclose(a.scores, b["scores"], rtol=0, atol=1e-6)
        and torch.allclose(a.boxes, b["boxes"], rtol=0, atol=1e-3)
        for a, b in zip(ours, theirs, strict=True)
    )


def cases() -> list[Row]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    anchors, rows = ssd300_anchors(), []
    placed = place(anchors)
    for images in (1, 8):
        for kind in (confident, noisy):
            logits = place(torch.from_numpy(kind(images, anchors, rng)))
            offsets = place(torch.from_numpy(rng.normal(0, 1, (images, len(anchors), 4)).astype(np.float32)))
            heads = {"cls_logits": logits, "bbox_regression": offsets}

            def ours(mode: Any, logits: torch.Tensor = logits, offsets: torch.Tensor = offsets) -> Any:
                return ops.detect(logits, offsets, placed, image_size=SIZE, mode=mode, num_threads=1)

            def theirs(heads: dict[str, torch.Tensor] = heads, images: int = images) -> Any:
                return SSD.postprocess_detections(MODEL, heads, [placed] * images, [SIZE] * images)

            contenders = {
                "visdeploy": lambda ours=ours: ours("exact"),
                'visdeploy mode="torchvision"': lambda ours=ours: ours("torchvision"),
                "torchvision": theirs,
            }
            rows += compare(f"detect {images}x8732x91 {kind.__name__}", contenders, same)
    return rows


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs[0], ops.Detections):
        theirs = [{"boxes": x.boxes, "scores": x.scores, "labels": x.labels} for x in theirs]
    return nearly_same(ours, theirs)


if __name__ == "__main__":
    main(cases, ["visdeploy", "torch", "torchvision"])
