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


BOXES_SIZE = (60, 100)
ANCHORS = ((10, 10, 30, 30), (50, 20, 90, 50), (12, 10, 32, 30), (70, 45, 99, 59))


class SaysEngine:
    """Answers every image with one array."""

    name, version, precision, lanes = "says", "1", "fp32", 2

    def __init__(self, answer: NDArray[np.float32] | Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> None:
        self.answer = answer
        self.notes: list[str] = []

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        answers = [self.answer(image) if callable(self.answer) else self.answer for image in images]
        return np.stack(answers).astype(np.float32)

    def close(self) -> None: ...


def boxes_spec(task: str = "detection", **changes: Any) -> Manifest:
    spec = {
        "task": task,
        "labels": ["cat", "dog"],
        "size": BOXES_SIZE,
        "mean": 0.5,
        "std": 0.5,
        "activation": "softmax",
    }
    if task == "detection":
        spec["anchors"] = {"rule": "boxes", "corners": ANCHORS}
    return Manifest.parse(spec | changes)


def says(answer: Any, task: str = "detection", **changes: Any) -> Predictor:
    """Return a model of cats and dogs that answers every image with one array, or with what a function makes of it."""
    return Predictor(Bundle(Path("says.vdz"), boxes_spec(task, **changes), {}), SaysEngine(answer))


def probabilities(*given: tuple[float, float, float], offsets: Any = 0) -> NDArray[np.float32]:
    """(4, 3 + 4) whose softmax is what is given for the first anchors, and background for the others."""
    shares = np.array([*given, *[(1 - 2e-6, 1e-6, 1e-6)] * (4 - len(given))])
    return np.concatenate([np.log(shares), np.zeros((4, 4)) + offsets], 1).astype(np.float32)


TWO = probabilities((0.05, 0.9, 0.05), (0.1, 0.1, 0.8), (0.3, 0.65, 0.05))
