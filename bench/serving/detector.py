"""The detector that serving is timed with: torchvision's SSD300 over VGG16 with 91 classes, untrained.

What it takes to compute does not hang on the weights, but what follows does: the heads are scaled so that about as many
candidates pass the threshold as a trained network lets pass, a few hundred of an image's 785,880.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from visdeploy.data.scenes import write_scenes

FOLDER = Path(__file__).parent.parent.parent / "build" / "serving"
BUNDLE = FOLDER / "ssd300.vdz"
SCENES = FOLDER / "scenes640"
CLASSES = 91
CANDIDATES = 500
PHOTOGRAPHS = 16


def prepare() -> Any:
    """Draw the scenes and export the bundle where they are missing, and return torchvision's module."""
    if not SCENES.is_dir():
        unfinished = FOLDER / "unfinished640"
        write_scenes(unfinished, PHOTOGRAPHS, size=(480, 640), seed=6)
        unfinished.rename(SCENES)
    ssd = torchvision_ssd()
    if not BUNDLE.is_file():
        from visdeploy.export import export

        labels = [f"class {index}" for index in range(1, CLASSES)]
        export(ssd, BUNDLE, spec={"labels": labels}, golden=photographs()[:2])
    return ssd


def photographs() -> list[Path]:
    return sorted(path for path in SCENES.rglob("*.jpg") if path.is_file())


@torch.inference_mode()
def torchvision_ssd() -> Any:
    """Return the module in eval mode, the same each time."""
    from torchvision.models.detection import ssd300_vgg16

    with torch.random.fork_rng():
        torch.manual_seed(0)
        ssd = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    images = [torch.from_numpy(decode(path.read_bytes())).permute(2, 0, 1) / 255 for path in photographs()[:2]]
    batch, _ = ssd.transform(images)
    features = list(ssd.backbone(batch.tensors).values())
    logits = []
    for kind, spread in ((ssd.head.classification_head, 1.5), (ssd.head.regression_head, 1.0)):
        for conv, feature in zip(kind.module_list, features, strict=True):
            conv.weight *= spread / conv(feature).std()
            if kind is ssd.head.classification_head:
                logits.append(conv(feature).unflatten(1, (-1, CLASSES)).transpose(1, 2).flatten(2).transpose(1, 2))
    rows = torch.cat(logits, 1)
    low, high = 0.0, 40.0
    for _ in range(20):  # the background's lead that leaves so many candidates
        lead = (low + high) / 2
        shifted = torch.cat([rows[..., :1] + lead, rows[..., 1:]], 2)
        passed = (shifted.softmax(2)[..., 1:] > ssd.score_thresh).sum() / len(images)
        low, high = (lead, high) if passed > CANDIDATES else (low, lead)
    for conv in ssd.head.classification_head.module_list:
        conv.bias.view(-1, CLASSES)[:, 0] += lead
    return ssd


def decode(file: bytes) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB."""
    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)


if __name__ == "__main__":
    prepare()
