"""Models without a network that read coloured rectangles: red is class a, green class b, and black is nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stub import StubEngine
from visdeploy.bundle import Bundle, Manifest
from visdeploy.data import Item, Objects
from visdeploy.predictor import Predictor

Image = NDArray[np.uint8]
Read = Callable[[NDArray[np.float32]], NDArray[np.float32]]
PLACES = np.array([[0, 0, 20, 20], [30, 0, 60, 20], [0, 30, 20, 60], [30, 30, 60, 60]], np.float32)


def paint(*rectangles: tuple[int, list[float]], size: tuple[int, int] = (64, 64)) -> Image:
    """Draw (label from 1, corners) in full colour; a label that is negated is pale, and less sure."""
    image = np.zeros((*size, 3), np.uint8)
    for label, corners in rectangles:
        left, top, right, bottom = (int(value) for value in corners)
        image[top:bottom, left:right, abs(label) - 1] = 255 if label > 0 else 128
    return image


def item(
    name: str, image: Image, xyxy: Any = (), labels: Any = (), ignored: Any = None, label: int | None = None
) -> Item:
    """Say what is in an image."""
    corners = np.array(xyxy, np.float32).reshape(-1, 4)
    objects = Objects(corners, np.array(labels, np.int64), np.zeros(len(corners), bool) if ignored is None else ignored)
    return Item(name, lambda: image, load_objects=lambda: objects, label=label)


def detector(**changes: Any) -> Predictor:
    """Look at the middle of each place."""
    rows, columns = ((PLACES[:, k] + PLACES[:, k + 2]).astype(int) // 2 for k in (1, 0))

    def read(image: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = np.zeros((4, len(model.spec.labels) + 4), np.float32)
        logits[:, 0] = 8
        logits[:, 1:3] = 16 * image[rows, columns][:, :2]
        return logits

    corners = [tuple(map(float, place)) for place in PLACES]
    model = _predictor(read, {"task": "detection", "anchors": {"rule": "boxes", "corners": corners}} | changes)
    return model


def localizer(**changes: Any) -> Predictor:
    """Return the rectangle around what is not black, and its colour."""

    def read(image: NDArray[np.float32]) -> NDArray[np.float32]:
        rows, columns = np.nonzero(image.any(-1))
        height, width = image.shape[:2]
        shares = columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height
        x = np.clip(shares, 1e-6, 1 - 1e-6)
        box = np.log(x / (1 - x))
        return box if len(model.spec.labels) == 1 else np.append(box, 8 * image.sum((0, 1))[:2])

    model = _predictor(read, {"task": "localization"} | changes)
    return model


def classifier(**changes: Any) -> Predictor:
    """Return the colour."""
    return _predictor(lambda image: image.sum((0, 1))[:2], {"task": "classification"} | changes)


def _predictor(read: Read, changes: dict[str, Any]) -> Predictor:
    manifest = Manifest.parse(
        {"labels": ["a", "b"], "size": 64, "mean": 0.5, "std": 0.5, "activation": "softmax"} | changes
    )
    engine = StubEngine(0, lambda: None)
    engine.infer = lambda images, *, alone=True: np.stack(  # type: ignore[method-assign]
        [read(image.astype(np.float32) / 255) for image in images]
    ).astype(np.float32)
    return Predictor(Bundle(Path("painted.vdz"), manifest, {}), engine)
