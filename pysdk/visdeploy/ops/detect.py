"""SSD's detections, from logits to boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

from visdeploy.mask import Array, _core


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first; arrays of the kind that the logits were.

    Attributes:
        boxes: (K, 4) float32 x1, y1, x2, y2 in pixels.
        scores: (K,) float32 probability of the class.
        labels: (K,) int64 class index, never 0.
    """

    boxes: Array
    scores: Array
    labels: Array


@overload
def detect(
    logits: Array,
    offsets: Array,
    anchors: Array,
    *,
    image_size: tuple[int, int],
    weights: Sequence[float] = ...,
    score_threshold: float = ...,
    iou_threshold: float = ...,
    top_k: int = ...,
    max_det: int = ...,
    mode: Literal["exact", "torchvision"] = ...,
    num_threads: int | None = ...,
    out: None = ...,
) -> list[Detections]: ...


@overload
def detect(
    logits: Array,
    offsets: Array,
    anchors: Array,
    *,
    image_size: tuple[int, int],
    weights: Sequence[float] = ...,
    score_threshold: float = ...,
    iou_threshold: float = ...,
    top_k: int = ...,
    max_det: int = ...,
    mode: Literal["exact", "torchvision"] = ...,
    num_threads: int | None = ...,
    out: tuple[Array, Array, Array, Array],
) -> tuple[Array, Array, Array, Array]: ...


def detect(
    logits: Array,
    offsets: Array,
    anchors: Array,
    *,
    image_size: tuple[int, int],
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    score_threshold: float = 0.01,
    iou_threshold: float = 0.45,
    top_k: int = 400,
    max_det: int = 200,
    mode: Literal["exact", "torchvision"] = "exact",
    num_threads: int | None = None,
    out: tuple[Array, Array, Array, Array] | None = None,
) -> list[Detections] | tuple[Array, Array, Array, Array]:
    """Find objects as torchvision's `SSD.postprocess_detections` does, in one pass over the logits.

    Softmax; of each class but the background the `top_k` best above the threshold; boxes decoded from their anchors and
    clipped to the image; NMS within each class; the `max_det` best of all. Equal scores take the lower anchor first,
    then the lower class. Scores are softmax rounded once, which torch's may miss by some last bits.

    A row of logits with a NaN or +Inf, or of -Inf alone, has NaN scores, which never pass. A NaN in an offset or an
    anchor gives a box of NaN, which takes no part in NMS; clipping makes infinite coordinates finite.

    On a CUDA device it takes about as much memory as the logits have, and 60 bytes for each of the `top_k` best of
    every class, until it is done. It waits once, for the numbers of detections; with `out` not at all.

    Args:
        logits: (B, N, C) float32; class 0 is the background.
        offsets: (B, N, 4) float32: dx, dy, dw, dh.
        anchors: (N, 4) float32 in pixels.
        image_size: (H, W) to clip boxes to.
        weights: Divisors of the offsets, as in `decode_boxes`.
        score_threshold: A score must be above it, compared as float32.
        iou_threshold: Largest IoU of two boxes of one class.
        top_k: Candidates of each class.
        max_det: Detections in each image.
        mode: "exact" keeps classes apart. "torchvision" does what its `batched_nms` does on a CPU: at most 1000
            candidates are kept apart by moving each class's coordinates, which rounds them.
        num_threads: None decides by the work.
        out: Arrays on the same CUDA device that take the answer: boxes (B, max_det, 4) and scores (B, max_det) float32,
            labels (B, max_det) and how many there are of each image (B,), int64. Behind those is zero.

    Returns:
        B detections, or `out`.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype, shape or number is wrong.

    Example:
        >>> logits, offsets = np.float32([[[0, 9, 0], [9, 0, 0]]]), np.zeros((1, 2, 4), np.float32)
        >>> anchors = np.float32([[0, 0, 10, 10], [10, 10, 20, 20]])
        >>> detect(logits, offsets, anchors, image_size=(20, 20))[0].labels
        array([1])
    """
    found = _core.detect(
        logits,
        offsets,
        anchors,
        image_size,
        weights,
        score_threshold,
        iou_threshold,
        top_k,
        max_det,
        mode,
        num_threads,
        out,
    )
    if out is not None:
        return out
    return [Detections(*one) for one in found]
