"""The native ops, as documented thin calls."""

from visdeploy.ops.nms import batched_nms, box_iou, nms
from visdeploy.ops.null import null
from visdeploy.ops.semantic_map import semantic_map

__all__ = ["batched_nms", "box_iou", "nms", "null", "semantic_map"]
