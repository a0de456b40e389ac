"""What the native ops must answer, in plain NumPy. Slow and readable; only tests and benches import it."""

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
    "encode",
    "encode_logits",
    "frBbox",
    "frPoly",
    "frPyObjects",
    "frUncompressedRLE",
    "iou",
    "merge",
    "nms",
    "null",
    "semantic_map",
    "toBbox",
    "to_kaggle",
    "upsample",
]
