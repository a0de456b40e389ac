"""Non-maximum suppression and box overlap, with the answers of torchvision's CPU ops."""

from typing import Literal

from visdeploy.mask import Array, _core

__all__ = ["batched_nms", "box_iou", "nms"]


def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_output: int | None = None,
    num_threads: int | None = None,
    out: tuple[Array, Array] | None = None,
) -> Array:
    """Return the indices of the boxes to keep, best score first, as `torchvision.ops.nms` does on the CPU.

    A box is dropped when its IoU with a better box that was kept exceeds `iou_threshold`. The IoU is rounded to the
    precision of the boxes, the threshold is a double: IoU 0.3 in float32 exceeds 0.3. Equal scores keep their order;
    a NaN score counts as the best. A box with an area that is zero, negative, infinite or NaN drops no other and is
    never dropped, unless the threshold is negative.

    Args:
        boxes: (N, 4) float32 or float64 corners x1, y1, x2, y2.
        scores: (N,) of the same dtype.
        iou_threshold: Overlap limit, usually in [0, 1]; from 1 on nothing is dropped.
        score_threshold: Leave out boxes whose score is not above this.
        max_output: Return at most this many.
        num_threads: As the other ops have it, and without effect: one set of boxes is decided on one thread, because
            looking ahead on a second one was measured to cost more than it saves. `batched_nms` uses them.
        out: For arrays on a CUDA device, contiguous int64 arrays there that take the answer: the indices, and in one
            number how many there are, which may be more than fit. Then nothing waits for the device; otherwise the
            number is waited for.

    Returns:
        (K,) int64, or `out`.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype or shape is wrong, or a threshold is NaN, or `out` is given for arrays on the CPU.

    Example:
        >>> boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 0, 29, 9]], np.float32)
        >>> nms(boxes, np.array([0.8, 0.9, 0.7], np.float32), 0.5)
        array([1, 2])
    """
    return _core.nms(boxes, scores, iou_threshold, score_threshold, max_output, num_threads, out)


def batched_nms(
    boxes: Array,
    scores: Array,
    labels: Array,
    iou_threshold: float,
    *,
    mode: Literal["exact", "torchvision"] = "exact",
    score_threshold: float | None = None,
    max_output: int | None = None,
    num_threads: int | None = None,
    out: tuple[Array, Array] | None = None,
) -> Array:
    """Suppress within each label, see `nms`, and return what all of them keep, best score first.

    Args:
        boxes: (N, 4) float32 or float64 corners x1, y1, x2, y2.
        scores: (N,) of the same dtype.
        labels: (N,) int64, any values.
        iou_threshold: Overlap limit.
        mode: "exact" takes each label by itself. "torchvision" does as `torchvision.ops.batched_nms` on the CPU: up to
            1000 boxes are shifted apart by label and suppressed together, which rounds their coordinates and lets
            boxes with negative coordinates meet those of other labels.
        score_threshold: Leave out boxes whose score is not above this.
        max_output: Return at most this many, of all labels together.
        num_threads: Labels taken at a time; None decides by the work.
        out: As in `nms`.

    Returns:
        (K,) int64, or `out`.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype, shape or mode is wrong, or a threshold is NaN, or `out` is given for arrays on the CPU.
    """
    return _core.batched_nms(boxes, scores, labels, iou_threshold, mode, score_threshold, max_output, num_threads, out)


def box_iou(a: Array, b: Array, *, num_threads: int | None = None, out: Array | None = None) -> Array:
    """Return the intersection over union of every box of `a` with every box of `b`, as `torchvision.ops.box_iou` does.

    Args:
        a: (N, 4) float32 or float64 corners x1, y1, x2, y2.
        b: (M, 4) of the same dtype.
        num_threads: Rows computed at a time; None decides by the work.
        out: A contiguous array on the same CUDA device that takes the answer; then nothing is allocated for it.

    Returns:
        (N, M) of the dtype of the boxes; NaN where the union is zero.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype or shape is wrong.
    """
    return _core.box_iou(a, b, num_threads, out)
