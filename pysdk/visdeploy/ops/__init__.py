"""The native ops, as documented thin calls."""

from visdeploy.ops.anchors import (
    decode_boxes,
    default_boxes,
    encode_boxes,
    grid_anchors,
    multibox_detection,
    multibox_prior,
    multibox_target,
)
from visdeploy.ops.detect import Detections, detect
from visdeploy.ops.letterbox import letterbox
from visdeploy.ops.nms import batched_nms, box_iou, nms
from visdeploy.ops.null import null
from visdeploy.ops.semantic_map import semantic_map

__all__ = [
    "Detections",
    "batched_nms",
    "box_iou",
    "decode_boxes",
    "default_boxes",
    "detect",
    "encode_boxes",
    "grid_anchors",
    "letterbox",
    "multibox_detection",
    "multibox_prior",
    "multibox_target",
    "nms",
    "null",
    "semantic_map",
]
