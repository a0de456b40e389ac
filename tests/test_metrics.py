"""The figures against torchmetrics, and at the edges where a ratio has no meaning."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from visdeploy.metrics import Confusion, headline


def test_several_classes_agree_with_torchmetrics():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (3, 20, 20)), rng.integers(0, 4, (3, 20, 20))
    truth[:, :3] = 255
    confusion = Confusion(4)
    for one, other in zip(truth, predicted, strict=True):
        confusion.add(one, other)
    figures = confusion.metrics(("a", "b", "c", "d"), None)
    arguments = {"num_classes": 4, "ignore_index": 255}
    tensors = torch.from_numpy(predicted), torch.from_numpy(truth)
    assert figures["miou"] == pytest.approx(MulticlassJaccardIndex(**arguments)(*tensors).item(), abs=1e-6)
    assert figures["accuracy"] == pytest.approx(MulticlassAccuracy(**arguments, average="micro")(*tensors).item())
    assert headline(figures) == "miou"


def test_binary_figures_are_the_foregrounds():
    confusion = Confusion(2)
    confusion.add(np.array([0, 0, 1, 1, 255]), np.array([0, 1, 1, 1, 0]))
    figures = confusion.metrics(("background", "car"), 0)
    assert figures == pytest.approx({"accuracy": 0.75, "dice": 0.8, "iou": 2 / 3})
    assert headline(figures) == "dice"


def test_nothing_to_find_and_nothing_found_is_perfect():
    confusion = Confusion(2)
    confusion.add(np.zeros(4, int), np.zeros(4, int))
    assert confusion.metrics(("background", "car"), 0) == {"accuracy": 1.0, "dice": 1.0, "iou": 1.0}


def test_a_class_that_never_occurs_has_no_figure():
    confusion = Confusion(3)
    confusion.add(np.array([0, 1]), np.array([0, 1]))
    figures = confusion.metrics(("a", "b", "c"), None)
    assert figures["miou"] == 1.0
    assert "iou_c" not in figures
