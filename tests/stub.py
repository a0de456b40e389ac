"""An engine without a network, to test what surrounds one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.bundle import Bundle, Manifest
from visdeploy.predictor import Predictor


class StubEngine:
    """Answers each channel's gray level minus a half, and remembers the batches it was given."""

    name = "stub"
    version = "1"
    precision = "fp32"
    lanes = 2

    def __init__(self, channels: int, before: Callable[[], None]) -> None:
        self.channels, self.before = channels, before
        self.batches: list[int] = []
        self.closed = 0
        self.alone = False
        self.notes: list[str] = []

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        self.before()
        self.batches.append(len(images))
        self.alone |= alone
        return (images.astype(np.float32) / 255 - 0.5).transpose(0, 3, 1, 2)[:, : self.channels]

    def close(self) -> None:
        self.closed += 1


def predictor(before: Callable[[], None] = lambda: None, **changes: Any) -> Predictor:
    """Return a model that calls what is red a car, or with three labels names the strongest colour."""
    spec = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5} | changes
    if len(spec["labels"]) > 1:
        spec |= {"activation": "softmax"}
    manifest = Manifest.parse(spec)
    engine = StubEngine(1 if manifest.binary else len(manifest.labels), before)
    return Predictor(Bundle(Path("stub.vdz"), manifest, {}), engine)
