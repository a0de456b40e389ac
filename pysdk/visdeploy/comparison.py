"""Whether two answers for one image are the same: class maps and pictures pixel by pixel, boxes one to one.

Probabilities are compared by value.

Note [boxes at a threshold]
A box may be missing on one side for no other reason than rounding: its score is at the threshold, or at that of the
last box where as many were found as are returned, or at that of the last candidate of its class that NMS looks at; its
overlap with a better box is where NMS decides; or of two candidates for one object, equally sure of it, NMS chose the
other. Such boxes are not counted. The last case could hide a wrong box, so the other candidate must be one that the
reference itself had before NMS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from visdeploy import ops, tolerance
from visdeploy.answers import Answer
from visdeploy.spec import Manifest

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Expected:
    """What the reference says of one image.

    Attributes:
        image: Its name.
        size: Height and width of the source image.
        answer: See `answers.Answer`.
        candidates: Returns the boxes that it had before NMS; asked for only where boxes differ.
    """

    image: str
    size: tuple[int, int]
    answer: Answer
    candidates: Callable[[], Answer]


@dataclass(frozen=True)
class Compared:
    """One image's answer beside the expected one.

    Attributes:
        image: Its name.
        changed: Pixels of another class, boxes without a counterpart on either side, 1 if the best class is another, or
            samples of a picture that differ by more levels than they may.
        total: Pixels, boxes of both sides, 1, or samples: three to a pixel.
        error: `changed` of `total`; of a classifier, the largest difference of a probability.
        dice: Of everything that is not background, for masks.
    """

    image: str
    changed: int
    total: int
    error: float
    dice: float | None = None


def compare(
    answered: Answer | None, expected: Expected, spec: Manifest, precision: str, *, levels: int | None = None
) -> Compared:
    """Compare an answer, None where there was an error instead, with what a reference in fp32 says.

    Args:
        answered: What was computed in `precision`.
        expected: What the reference says.
        spec: The bundle's.
        precision: Decides how far boxes, scores and samples may lie apart; see `tolerance`.
        levels: How far samples may; default, by the precision.
    """
    reference = expected.answer
    if spec.task == "segmentation":
        return _classes(expected.image, answered, reference["classes"], spec.background)
    if spec.task == "classification":
        return _probabilities(expected.image, answered, reference["probabilities"])
    if spec.task == "restoration":
        allowed = tolerance.RESTORED_LEVELS[precision] if levels is None else levels
        return _picture(expected.image, answered, reference["picture"], allowed)
    if answered is None:
        total = len(reference["scores"])
        return Compared(expected.image, total, total, float("inf"))
    return _Matching(answered, expected, spec, precision).compared()


def relative_error(answered: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return max |a - b| / max(1, max |b|); infinite where shapes differ or a value is not finite."""
    if answered.shape != reference.shape or not np.isfinite(answered).all() or not np.isfinite(reference).all():
        return float("inf")
    differences = np.abs(answered.astype(np.float64) - reference)
    return float(differences.max() / max(1.0, float(np.abs(reference).max())))


def _classes(image: str, answer: Answer | None, reference: NDArray[np.uint8], background: int | None) -> Compared:
    answered = None if answer is None else answer["classes"]
    if answered is None or answered.shape != reference.shape:
        return Compared(image, reference.size, reference.size, 1.0, 0.0)
    same = answered == reference
    found = [
        classes != background if background is not None else np.ones_like(same) for classes in (answered, reference)
    ]
    covered = int(found[0].sum()) + int(found[1].sum())
    agreed = int((same & found[0]).sum())
    changed = same.size - int(same.sum())
    return Compared(image, changed, same.size, changed / same.size, 2 * agreed / covered if covered else 1.0)


def _probabilities(image: str, answer: Answer | None, reference: NDArray[np.float32]) -> Compared:
    if answer is None or answer["probabilities"].shape != reference.shape:
        return Compared(image, 1, 1, float("inf"))
    answered = answer["probabilities"]
    error = float(np.abs(answered - reference).max())
    return Compared(image, int(answered.argmax() != reference.argmax()), 1, error if np.isfinite(error) else np.inf)


def _picture(image: str, answer: Answer | None, reference: NDArray[np.uint8], levels: int) -> Compared:
    answered = None if answer is None else answer["picture"]
    if answered is None or (answered.shape, answered.dtype) != (reference.shape, reference.dtype):
        return Compared(image, reference.size, reference.size, 1.0)
    # Row by row, as the differences of a large photo would take as much as both pictures.
    pairs = zip(answered, reference, strict=True)
    changed = sum(int((np.maximum(one, other) - np.minimum(one, other) > levels).sum()) for one, other in pairs)
    return Compared(image, changed, reference.size, changed / reference.size)


class _Matching:
    """The boxes of two answers, paired."""

    def __init__(self, answered: Answer, expected: Expected, spec: Manifest, precision: str) -> None:
        self._sides = expected.answer, answered
        self._expected, self._spec = expected, spec
        self._score = tolerance.FOUND_SCORES[precision]
        self._overlap = tolerance.FOUND_OVERLAP[precision]
        fed = (side / size for side, size in zip(expected.size, spec.size, strict=True))
        # A pixel of the network, in pixels of the image.
        self._pixel = tolerance.FOUND_PIXELS * (max(fed) if spec.resize == "letterbox" else np.array([*fed][::-1] * 2))

    def compared(self) -> Compared:
        lonely = self._pair()
        total = sum(map(len, lonely))
        counted = [*lonely]
        if self._spec.task == "detection":
            counted = [self._not_at_a_threshold(side, lonely[side]) for side in (0, 1)]
        self._pair_rivals(counted)
        changed = int(sum(flags.sum() for flags in counted))
        return Compared(self._expected.image, changed, total, changed / max(1, total))

    def _pair(self) -> tuple[Flags, Flags]:
        """Return which boxes of either side have no counterpart; the best choose first, the closest."""
        reference, answered = self._sides
        alone = np.ones(len(reference["scores"]), bool), np.ones(len(answered["scores"]), bool)
        for row in range(len(alone[0])):
            fits = alone[1] & self._same(reference, row, answered)
            if fits.any():
                distances = np.abs(answered["boxes"] - reference["boxes"][row]).max(1)
                alone[0][row] = alone[1][np.where(fits, distances, np.inf).argmin()] = False
        return alone

    def _same(self, one: Answer, row: int, others: Answer) -> Flags:
        """Return which of `others` are the box of a row: its label, about its score, about its place."""
        box, boxes = one["boxes"][row], others["boxes"]
        near = np.asarray((np.abs(boxes - box) <= self._pixel).all(1))
        if self._overlap < 1:
            near |= _overlaps(box, boxes) >= self._overlap
        scores = np.abs(others["scores"] - one["scores"][row]) <= self._score
        flags: Flags = near & scores & (others["labels"] == one["labels"][row])
        return flags

    @cached_property
    def _candidates(self) -> Answer:
        return self._expected.candidates()

    def _not_at_a_threshold(self, side: int, lonely: Flags) -> Flags:
        """Return which boxes of a side count, of those without a counterpart; see Note [boxes at a threshold]."""
        mine, other = self._sides[side], self._sides[1 - side]
        last = float(other["scores"].min()) if len(other["scores"]) >= self._spec.max_det else 0.0
        counted = lonely & (mine["scores"] > max(self._spec.threshold, last) + self._score)
        for row in np.flatnonzero(counted).tolist():
            counted[row] = not self._where_nms_decides(mine, row) and not self._last_candidate(mine, row)
        # No rounding makes a box of one that is far below the threshold.
        flags: Flags = counted | (lonely & ~(mine["scores"] >= self._spec.threshold - self._score))
        return flags

    def _where_nms_decides(self, mine: Answer, row: int) -> bool:
        for found in self._sides:
            rivals = (found["labels"] == mine["labels"][row]) & (found["scores"] >= mine["scores"][row])
            overlaps = _overlaps(mine["boxes"][row], found["boxes"][rivals])
            if (np.abs(overlaps - self._spec.iou_threshold) <= tolerance.NMS_OVERLAP).any():
                return True
        return False

    def _last_candidate(self, mine: Answer, row: int) -> bool:
        top_k, candidates = self._spec.top_k, self._candidates
        scores = candidates["scores"][candidates["labels"] == mine["labels"][row]]
        if len(scores) < top_k:
            return False
        return bool(abs(np.partition(scores, -top_k)[-top_k] - mine["scores"][row]) <= self._score)

    def _pair_rivals(self, counted: list[Flags]) -> None:
        """Take out the pairs of which NMS chose one here and one there; the last case of the Note."""
        reference, answered = self._sides
        for row in np.flatnonzero(counted[0]):
            rivals = counted[1] & (np.abs(answered["scores"] - reference["scores"][row]) <= self._score)
            rivals &= _overlaps(reference["boxes"][row], answered["boxes"]) > self._spec.iou_threshold
            if self._spec.task == "detection":
                rivals &= answered["labels"] == reference["labels"][row]
            for rival in np.flatnonzero(rivals):
                if self._same(answered, int(rival), self._candidates).any():
                    counted[0][row] = counted[1][rival] = False
                    break


def _overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    overlaps: NDArray[np.float32] = ops.box_iou(box[None], boxes)[0]
    return overlaps
