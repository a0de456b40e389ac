"""Training on boxes: a detector and a localizer learn, resume exactly, and say what they cannot learn from."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from visdeploy import data, ops
from visdeploy.data.dataset import Dataset, Item, Objects
from visdeploy.errors import InputError
from visdeploy.train import TrainOptions, checkpoint, fit
from visdeploy.train.journal import Journal
from visdeploy.train.loader import Boxes

ENCODER = "mobilenetv3_small_050"
LABELS = ("background", "disc", "square")
COLORS = {1: (230, 90, 40), 2: (40, 200, 220)}


def draw(seed: int, objects: int) -> tuple[np.ndarray, Objects]:
    """A 60x80 image of dark noise with discs and squares in a row, and where they are."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (60, 80, 3), dtype=np.uint8)
    boxes, labels = [], []
    for index in range(objects):
        side, label = int(rng.integers(16, 25)), int(rng.integers(1, 3))
        x, y = 2 + 26 * index + int(rng.integers(0, 26 - side)), int(rng.integers(2, 58 - side))
        if label == 1:
            mask = np.zeros((60, 80), np.uint8)
            cv2.circle(mask, (x + side // 2, y + side // 2), side // 2, 1, -1)
            image[mask > 0] = COLORS[1]
            side = side // 2 * 2 + 1
        else:
            image[y : y + side, x : x + side] = COLORS[2]
        boxes.append((x, y, x + side, y + side))
        labels.append(label)
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return image, Objects(xyxy, np.array(labels, np.int64), np.zeros(len(labels), bool))


def drawn(train: int, val: int, objects: int = 3) -> Dataset:
    pictures = [draw(seed, objects) for seed in range(train + val)]
    items = [
        Item(f"drawn{index}", lambda image=image: image, load_objects=lambda found=found: found)
        for index, (image, found) in enumerate(pictures)
    ]
    return Dataset(LABELS, ((0, 0, 0), (255, 0, 0), (0, 255, 0)), items[:train], items[train:], 0)


def options(out: Path, **changes) -> TrainOptions:
    given = {"task": "detection", "sizes": ((64, 64),), "epochs": (2,), "batch": 4, "lr": 5e-3, "encoder_lr": 1.0}
    given |= {"encoder": ENCODER, "precision": "fp32", "scale": (0.9, 1.2)}
    if changes.get("task", "detection") == "detection":
        given["model"] = {"channels": 32, "extras": 0, "scales": [0.25, 0.35, 0.5, 0.7]}
    return TrainOptions(**{"out": out, **given, **changes})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(out)[0].state_dict()


def kill_at(epoch: int):
    def kill(self, trainer, module):
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt

    return kill


def test_a_detector_learns_four_images_by_heart(tmp_path, capsys):
    dataset = drawn(4, 0)
    dataset = replace(dataset, val=dataset.train)
    still = {"flip": False, "scale": (1.0, 1.0), "lighting": 0.0}
    result = fit(dataset, options(tmp_path / "run", epochs=(60,), ema=0.0, **still))
    assert result.metrics["map50"] > 0.9
    assert "map50 " in capsys.readouterr().out
    net, spec = checkpoint.load(result.checkpoint)
    assert (spec.task, spec.labels, spec.size) == ("detection", LABELS, (64, 64))
    assert spec.anchors is not None
    anchors = spec.anchors.boxes(spec.size)
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, len(anchors), len(LABELS) + 4)


@pytest.mark.parametrize("task", ["detection", "localization"])
def test_resuming_after_a_kill_gives_the_run_that_was_not_killed(tmp_path, monkeypatch, task):
    dataset = drawn(6, 2)
    fit(dataset, options(tmp_path / "whole", task=task))
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "on_train_epoch_start", kill_at(1))
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, options(tmp_path / "killed", task=task))
    fit(dataset, options(tmp_path / "killed", task=task), resume=True)
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "killed").items())


def test_boxes_are_where_the_objects_are_at_network_size(tmp_path):
    dataset = drawn(3, 0)
    fit_spec = {"task": "localization", "labels": ("a", "b"), "size": (64, 96), "mean": 0.5, "std": 0.5}
    from visdeploy.spec import Spec

    for resize, wide in (("stretch", 96), ("letterbox", 85)):
        examples = Boxes(dataset.train, Spec.parse(fit_spec | {"resize": resize}))
        image, rows, name = examples[1]
        assert (image.shape, name) == ((3, 64, 96), "drawn1")
        objects = dataset.train[1].load().objects
        scale = np.array([wide / 80, 64 / 60] * 2)
        np.testing.assert_allclose(rows[:, 1:5].numpy(), objects.xyxy * scale, rtol=1e-5)
        for label, (x1, y1, x2, y2) in zip(rows[:, 0].int().tolist(), rows[:, 1:5].tolist(), strict=True):
            middle = image[:, int((y1 + y2) / 2), int((x1 + x2) / 2)]
            np.testing.assert_allclose(middle.numpy(), COLORS[label], atol=8)
    few = Boxes(drawn(1, 0, objects=0).train, examples.spec)[0][1]
    assert few.shape == (0, 6)
    joined = Boxes.join([rows, few])
    assert joined.shape == (2, 3, 6)
    assert (joined[1, :, 0] == -1).all()
