"""Average precision of detections by the rule of Pascal VOC, and what was taken for what."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import ops
from visdeploy.errors import InputError

MIN_IOU = 0.5
"""The least IoU at which a detection is of an object."""

MEASURED_FROM = 0.01
"""The score above which boxes are measured: far below a threshold of use, as high recall comes from low scores."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class as the score goes down.

    Attributes:
        scores: (K,) scores of the detections that count, best first.
        precision: (K,) share of right ones among the detections so far.
        recall: (K,) share of the objects found so far; NaN where there are no objects.
        objects: Number of objects, those to be ignored left out.
    """

    scores: Floats = field(repr=False)
    precision: Floats = field(repr=False)
    recall: Floats = field(repr=False)
    objects: int

    @property
    def area(self) -> float:
        """Area below the curve, precision being the best at this recall or a higher one: VOC's AP since 2010."""
        return float(np.sum(np.diff(self.recall, prepend=0) * self._envelope()))

    @property
    def eleven_points(self) -> float:
        """Mean of the best precision from recall 0, 0.1, ... 1 on: VOC's AP until 2009."""
        return float(self.precision_from(np.arange(11) / 10).mean())

    def precision_from(self, recall: Floats) -> Floats:
        """Return the best precision at each recall or a higher one; 0 where none was reached."""
        return np.append(self._envelope(), 0)[np.searchsorted(self.recall, recall)]

    def at(self, confidence: float) -> tuple[float, float]:
        """Return precision and recall of the detections above a score; NaN where the ratio has no meaning."""
        count = int(np.count_nonzero(self.scores > confidence))
        if count:
            return float(self.precision[count - 1]), float(self.recall[count - 1])
        return float("nan"), 0.0 if self.objects else float("nan")

    def _envelope(self) -> Floats:
        return np.maximum.accumulate(self.precision[::-1])[::-1]


class AveragePrecision:
    """Collects detections and objects image by image, and scores them over the whole set.

    A detection, best score first, is right if the object of its class that it overlaps most has an IoU of at least 0.5
    and no better detection was of it; a second one of the same object is wrong. One whose object is to be ignored is
    neither right nor wrong. Equal scores keep the order in which they were added.

    Attributes:
        confusion: (C, C) int64 number of objects by class (rows) and what they were taken for (columns), of the
            detections above `confidence`. Row 0 counts detections of nothing, column 0 objects that were not found.
            Here each detection, best first, is of the object of any class that it overlaps most and that is still free.
    """

    def __init__(self, num_classes: int, *, confidence: float = 0.5) -> None:
        """Start with nothing.

        Args:
            num_classes: The background, which is class 0, included.
            confidence: Score that `confusion` asks for.
        """
        self.confidence = confidence
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self._objects = np.zeros(num_classes, np.int64)
        # Scores and classes of an image's detections, and which are right; without those that do not count.
        self._found = [(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool))]

    def add(
        self,
        xyxy: NDArray[Any],
        scores: NDArray[Any],
        labels: NDArray[Any],
        truth_xyxy: NDArray[Any],
        truth_labels: NDArray[Any],
        truth_ignored: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take one image.

        Args:
            xyxy: (N, 4) corners of the detections.
            scores: (N,) their scores, in any order.
            labels: (N,) their classes, from 1 on.
            truth_xyxy: (M, 4) corners of the objects, in the same pixels.
            truth_labels: (M,) their classes.
            truth_ignored: (M,) which of them, difficult ones and crowds, neither reward nor punish; default, none.

        Raises:
            InputError: Lengths differ, or a class is not one of those that were announced.
        """
        ignored = np.zeros(len(truth_labels), bool) if truth_ignored is None else np.asarray(truth_ignored, bool)
        self._check("labels", labels, xyxy, scores)
        self._check("truth_labels", truth_labels, truth_xyxy, ignored)
        order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
        scores, labels = np.asarray(scores, np.float64)[order], np.asarray(labels, np.int64)[order]
        truth_labels = np.asarray(truth_labels, np.int64)
        # A box without area has no IoU with another one.
        overlaps = np.nan_to_num(ops.box_iou(_corners(xyxy)[order], _corners(truth_xyxy)))
        right, aside = _judge(np.where(labels[:, None] == truth_labels, overlaps, 0), ignored)
        self._found.append((scores[~aside], labels[~aside], right[~aside]))
        self._objects += np.bincount(truth_labels[~ignored], minlength=len(self._objects))
        sure = scores > self.confidence
        self._confuse(overlaps[sure], labels[sure], truth_labels, ignored)

    def curves(self) -> list[Curve]:
        """Return the curve of every class by index, that of the background being empty."""
        scores, labels, right = (np.concatenate(column) for column in zip(*self._found, strict=True))
        order = np.argsort(-scores, kind="stable")
        scores, labels, right = scores[order], labels[order], right[order]
        curves = []
        for index, objects in enumerate(self._objects):
            mine = labels == index
            hits = np.cumsum(right[mine], dtype=np.float64)
            recall = hits / objects if objects else np.full(len(hits), np.nan)
            curves.append(Curve(scores[mine], hits / np.arange(1, len(hits) + 1), recall, int(objects)))
        return curves

    def best_f1(self) -> tuple[float, float] | None:
        """Return the best F1 of all classes together and the lowest score it counts; None where nothing is right."""
        scores, _, right = (np.concatenate(column) for column in zip(*self._found, strict=True))
        if not right.any():
            return None
        order = np.argsort(-scores, kind="stable")
        scores = scores[order]
        f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(scores) + 1) + self._objects.sum())
        f1[:-1][scores[:-1] == scores[1:]] = 0  # a threshold does not part equal scores
        best = int(f1.argmax())
        return float(f1[best]), float(scores[best])

    def metrics(self, labels: Sequence[str]) -> dict[str, float]:
        """Return `map50` (by area), `map50_07` (by eleven points), and `ap50_<label>` of each class that has objects.

        The means are over the classes that have objects. Where none has, they are 1 if nothing was found, else 0.

        Args:
            labels: Class names by index, the background's first.
        """
        present = [(name, curve) for name, curve in zip(labels, self.curves(), strict=True) if curve.objects]
        if not present:
            nothing = float(not any(len(scores) for scores, _, _ in self._found))
            return {"map50": nothing, "map50_07": nothing}
        figures = {"map50": float(np.mean([curve.area for _, curve in present]))}
        figures["map50_07"] = float(np.mean([curve.eleven_points for _, curve in present]))
        return figures | {f"ap50_{name}": curve.area for name, curve in present}

    def _check(self, what: str, labels: NDArray[Any], *others: NDArray[Any]) -> None:
        lengths = [len(labels), *(len(other) for other in others)]
        if len(set(lengths)) > 1:
            raise InputError(f"[average_precision] {what}: expected as many as boxes, got lengths {lengths}")
        if len(labels) and not (np.min(labels) >= 1 and np.max(labels) < len(self._objects)):
            raise InputError(
                f"[average_precision] {what}: expected classes from 1 to {len(self._objects) - 1}, got "
                f"{np.min(labels)} to {np.max(labels)}"
            )

    def _confuse(
        self,
        overlaps: Floats,
        labels: NDArray[np.int64],
        truth_labels: NDArray[np.int64],
        ignored: NDArray[np.bool_],
    ) -> None:
        free = ~ignored
        near = overlaps >= MIN_IOU
        # Most are near nothing, and need no turn of their own.
        alone = ~near.any(1)
        np.add.at(self.confusion[0], labels[alone], 1)
        for row in np.flatnonzero(~alone):
            if np.any(near[row] & free):
                taken = int(np.where(free, overlaps[row], 0).argmax())
                self.confusion[truth_labels[taken], labels[row]] += 1
                free[taken] = False
            elif not np.any(near[row] & ignored):
                self.confusion[0, labels[row]] += 1
        np.add.at(self.confusion[:, 0], truth_labels[free], 1)


def _judge(overlaps: Floats, ignored: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which detections, sorted by score, are right, and which are to be left aside."""
    right = np.zeros(len(overlaps), bool)
    if not overlaps.size:
        return right, right
    nearest = overlaps.argmax(1)
    matched = overlaps.max(1) >= MIN_IOU
    aside = matched & ignored[nearest]
    of_objects = np.flatnonzero(matched & ~aside)
    _, first = np.unique(nearest[of_objects], return_index=True)
    right[of_objects[first]] = True
    return right, aside


def _corners(xyxy: NDArray[Any]) -> Floats:
    return np.asarray(xyxy, np.float64).reshape(-1, 4)
