"""Dice, IoU and pixel accuracy, all from one confusion matrix over every pixel that counts."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255


class Confusion:
    """Pixel counts of truth (rows) against prediction (columns), summed over a data set."""

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def add(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Count two class maps of one shape; truth may hold `IGNORE_INDEX`."""
        classes = len(self.counts)
        keep = truth != IGNORE_INDEX
        pairs = truth[keep].astype(np.int64) * classes + predicted[keep]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def metrics(self, labels: Sequence[str], background: int | None) -> dict[str, float]:
        """Return the figures by name.

        `dice` and `iou` are the foreground's for a binary task; for several classes `dice` and `miou` average the
        classes that occur in truth or prediction. A class that occurs in neither has no figure of its own.
        """
        hit = self.counts.diagonal().astype(float)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        present = union > 0
        with np.errstate(invalid="ignore"):
            iou = hit / union
            dice = 2 * hit / (union + hit)
        figures = {"accuracy": float(hit.sum() / max(1, self.counts.sum()))}
        if len(labels) == 2 and background is not None:
            foreground = 1 - background
            return figures | {"dice": _or_one(dice[foreground]), "iou": _or_one(iou[foreground])}
        figures |= {"miou": float(iou[present].mean()) if present.any() else 1.0}
        figures |= {"dice": float(dice[present].mean()) if present.any() else 1.0}
        return figures | {f"iou_{labels[i]}": float(iou[i]) for i in range(len(labels)) if present[i]}


def headline(figures: Mapping[str, float]) -> str:
    """Return the name of the metric that picks the best checkpoint and stands for the others: the first present."""
    names = ("map50", "loc_accuracy", "psnr", "miou", "dice", "iou", "accuracy")
    return next(name for name in names if name in figures)


def _or_one(value: float) -> float:
    # Nothing to find and nothing found is a perfect answer.
    return 1.0 if np.isnan(value) else float(value)
