"""Figures of whole sets: of class maps from one confusion matrix over every pixel, of pictures PSNR and SSIM."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError

IGNORE_INDEX = 255

MAX_PSNR = 100.0
"""What equal pictures have, in dB; the truth, infinity, has no mean."""

# Of the window, and what keeps the quotient from 0 / 0: the values of the paper, for samples of 0..255.
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


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


class Fidelity:
    """How near restored pictures are to the clean ones, and how near the bad ones were."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float, float]] = []

    def add(self, restored: NDArray[np.uint8], before: NDArray[np.uint8], clean: NDArray[np.uint8]) -> None:
        """Compare three (H, W, 3) uint8 pictures of one size."""
        self.rows.append((psnr(restored, clean), ssim(restored, clean), psnr(before, clean), ssim(before, clean)))

    def metrics(self) -> dict[str, float]:
        """Return the means over all pictures by name: `psnr` in dB, `ssim`, and both of the bad pictures."""
        names = ("psnr", "ssim", "psnr_before", "ssim_before")
        return dict(zip(names, np.mean(self.rows, axis=0).tolist(), strict=True))


def psnr(picture: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB over all samples, at most `MAX_PSNR`.

    Args:
        picture: (H, W, 3) uint8.
        clean: Likewise.

    Raises:
        InputError: They differ in size.
    """
    _check_pair("psnr", picture, clean)
    error = cv2.norm(picture, clean, cv2.NORM_L2SQR) / clean.size
    return min(MAX_PSNR, 10 * float(np.log10(255**2 / error))) if error else MAX_PSNR


def ssim(picture: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Return the structural similarity (Wang et al. 2004), the mean over channels and pixels.

    A Gaussian window of 11x11 with sigma 1.5; at borders the picture is mirrored, as torchmetrics does.

    Args:
        picture: (H, W, 3) uint8.
        clean: Likewise.

    Raises:
        InputError: They differ in size.
    """
    _check_pair("ssim", picture, clean)
    channels = range(clean.shape[2])  # one at a time, as a large photograph takes much memory
    return float(np.mean([_ssim(picture[..., channel], clean[..., channel]) for channel in channels]))


def _ssim(picture: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    x, y = (np.ascontiguousarray(plane, np.float32) for plane in (picture, clean))
    mean_x, mean_y = _blur(x), _blur(y)
    product = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    similarity = (2 * product + _C1) * (2 * (_blur(x * y) - product) + _C2)
    similarity /= (squares + _C1) * (_blur(x * x) + _blur(y * y) - squares + _C2)
    return float(similarity.mean(dtype=np.float64))


def _blur(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(plane, (_WINDOW, _WINDOW), _SIGMA), np.float32)


def _check_pair(name: str, picture: NDArray[np.uint8], clean: NDArray[np.uint8]) -> None:
    if picture.shape != clean.shape or picture.dtype != np.uint8 or clean.dtype != np.uint8:
        raise InputError(
            f"[{name}] expected two uint8 pictures of one size, got {picture.dtype} {picture.shape} and "
            f"{clean.dtype} {clean.shape}"
        )


def headline(figures: Mapping[str, float]) -> str:
    """Return the name of the metric that picks the best checkpoint and stands for the others: the first present."""
    names = ("map50", "loc_accuracy", "psnr", "miou", "dice", "iou", "accuracy")
    return next(name for name in names if name in figures)


def _or_one(value: float) -> float:
    # Nothing to find and nothing found is a perfect answer.
    return 1.0 if np.isnan(value) else float(value)
