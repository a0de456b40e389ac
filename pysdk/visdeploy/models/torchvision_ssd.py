"""Torchvision's own SSDs, cut to the part that is a network, with what the rest of them knows as fields of a spec."""

from typing import Any

import torch
from torch import Tensor, nn

from visdeploy.anchors import DefaultBoxes
from visdeploy.errors import InputError
from visdeploy.models.encoders import map_sizes


class TorchvisionSsd(nn.Module):
    """Backbone and head of a `torchvision.models.detection.ssd.SSD`, whose parameters these are."""

    def __init__(self, ssd: Any) -> None:
        super().__init__()
        self.backbone, self.head = ssd.backbone, ssd.head
        self._fields = _fields(ssd)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to (B, N, C + 4), as `bundle.Spec` says of detection."""
        features = self.backbone(x)
        if isinstance(features, Tensor):
            out = self.head([features])
        else:
            out = self.head(list(features.values()))
        return torch.cat([out["cls_logits"], out["bbox_regression"]], 2)

    def spec_fields(self) -> dict[str, Any]:
        """Return the fields of a `bundle.Spec` with which this answers as torchvision's module does, but for `labels`.

        Torchvision resizes after it normalised, in floating point; here images are resized as uint8, so that pixels
        differ by the rounding where an image has another size than the network's.
        """
        return dict(self._fields)


def _fields(ssd: Any) -> dict[str, Any]:
    width, height = ssd.transform.fixed_size
    boxes = ssd.anchor_generator
    anchors = DefaultBoxes(
        feature_sizes=map_sizes(ssd.backbone, (height, width)),
        aspect_ratios=boxes.aspect_ratios,
        scales=boxes.scales,
        steps=boxes.steps,
        clip=boxes.clip,
    )
    return {
        "task": "detection",
        "size": (height, width),
        "mean": tuple(ssd.transform.image_mean),
        "std": tuple(ssd.transform.image_std),
        "resize": "stretch",
        "interpolation": "bilinear",
        "antialias": False,
        "anchors": anchors,
        "box_weights": tuple(ssd.box_coder.weights),
        "threshold": ssd.score_thresh,
        "iou_threshold": ssd.nms_thresh,
        "top_k": ssd.topk_candidates,
        "max_det": ssd.detections_per_img,
        "nms": "torchvision",
    }


def from_torchvision(ssd: nn.Module) -> TorchvisionSsd:
    """Cut a detector of torchvision's, such as `ssd300_vgg16`, to the network that `export.export` takes.

    Args:
        ssd: A `torchvision.models.detection.ssd.SSD` with any backbone and head; the parameters are shared, not copied.

    Returns:
        The network in the same mode, whose `spec_fields()` complete a spec but for the `labels`.

    Raises:
        InputError: It is another kind of network.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> net = from_torchvision(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval())
        >>> spec = {**net.spec_fields(), "labels": [f"class {k}" for k in range(1, 91)]}
    """
    from torchvision.models.detection.ssd import SSD

    if not isinstance(ssd, SSD):
        raise InputError(
            f"[from_torchvision] ssd: expected torchvision.models.detection.ssd.SSD, got {type(ssd).__name__}"
        )
    return TorchvisionSsd(ssd).train(ssd.training)
