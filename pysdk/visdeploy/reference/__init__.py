"""What the native ops must answer, in plain NumPy. Slow and readable; only tests and benches import it."""

from visdeploy.reference.anchors import (
    decode_boxes,
    default_boxes,
    encode_boxes,
    grid_anchors,
    multibox_detection,
    multibox_prior,
    multibox_target,
)
from visdeploy.reference.detect import detect
from visdeploy.reference.letterbox import letterbox
from visdeploy.reference.nms import batched_nms, box_iou, nms
from visdeploy.reference.null import null
from visdeploy.reference.rle import (
    area,
    counts_from_bytes,
    counts_to_bytes,
    decode,
    encode,
    encode_logits,
    semantic_map,
    to_kaggle,
    toBbox,
    upsample,
)
from visdeploy.reference.rle_sets import frBbox, frPoly, frPyObjects, frUncompressedRLE, iou, merge

__all__ = [
    "area",
    "batched_nms",
    "box_iou",
    "counts_from_bytes",
    "counts_to_bytes",
    "decode",
    "decode_boxes",
    "default_boxes",
    "detect",
    "encode",
    "encode_boxes",
    "encode_logits",
    "frBbox",
    "frPoly",
    "frPyObjects",
    "frUncompressedRLE",
    "grid_anchors",
    "iou",
    "letterbox",
    "merge",
    "multibox_detection",
    "multibox_prior",
    "multibox_target",
    "nms",
    "null",
    "semantic_map",
    "toBbox",
    "to_kaggle",
    "upsample",
]
