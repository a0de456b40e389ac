"""Training on boxes: a detector and a localizer learn, resume exactly, and say what they cannot learn from."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from visdeploy import data
from visdeploy.data.dataset import Dataset, Item, Objects
from visdeploy.errors import InputError
from visdeploy.train import TrainOptions, checkpoint, fit
from visdeploy.train.fit import _save_golden
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
    result = fit(dataset, options(tmp_path / "run", epochs=(40,), ema=0.0, **still))
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


def test_the_parts_that_stand_still_stand_still(tmp_path):
    import lightning

    from visdeploy import models
    from visdeploy.train.freezing import names_up_to

    fit(drawn(4, 2), options(tmp_path / "run", epochs=(1,), freeze_to=4, ema=0.0))
    _, spec = checkpoint.load(tmp_path / "run")
    lightning.seed_everything(0, verbose=False)
    net = models.create(**spec.architecture)
    names = {f"encoder.{name}" for name in names_up_to(net, 4)}
    fresh, trained = net.state_dict(), weights(tmp_path / "run")
    frozen_statistics = {name.replace("weight", "running_mean") for name in names} & fresh.keys()
    assert frozen_statistics
    for name in names | frozen_statistics:
        assert torch.equal(trained[name], fresh[name]), name
    later = [name for name, _ in net.encoder.named_parameters() if f"encoder.{name}" not in names]
    assert later
    moved = [name for name in later if not torch.equal(trained[f"encoder.{name}"], fresh[f"encoder.{name}"])]
    assert len(moved) > len(later) / 2
    with pytest.raises(InputError, match=r"freeze_to: expected 0 or one of the strides \[2, 4, 8, 16, 32\], got 5"):
        names_up_to(net, 5)


def test_a_detector_that_ends_with_ignored_objects_alone_still_trains(tmp_path):
    dataset = drawn(4, 2)
    found = dataset.train[0].load_objects()
    ignored = replace(found, ignored=np.ones(len(found.labels), bool))
    items = [replace(dataset.train[0], load_objects=lambda: ignored), *dataset.train[1:]]
    empty = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    items[1] = replace(items[1], load_objects=lambda: empty)
    assert "map50" in fit(replace(dataset, train=items), options(tmp_path / "run", epochs=(1,))).metrics


def test_the_joint_model_reports_both_halves(tmp_path, capsys):
    result = fit(drawn(6, 2), options(tmp_path / "run", task="localization"))
    assert result.metrics.keys() == {"loc_accuracy", "accuracy", "iou", "l1"}
    line = capsys.readouterr().out
    assert all(f"{name} " in line for name in result.metrics)
    net, spec = checkpoint.load(result.checkpoint)
    assert (spec.task, spec.labels) == ("localization", LABELS[1:])
    assert spec.architecture["size"] == [64, 64]
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 4 + 2)


def test_a_box_alone_is_of_an_object(tmp_path):
    changes = {"task": "localization", "model": {"predicts": "box"}, "epochs": (1,)}
    result = fit(drawn(6, 2), options(tmp_path / "run", **changes))
    assert result.metrics.keys() == {"loc_accuracy", "iou", "l1"}
    assert checkpoint.load(result.checkpoint)[1].labels == ("object",)


def test_images_with_a_class_and_no_box_are_enough_to_classify(tmp_path):
    dataset = data.largest_objects(drawn(6, 2, objects=1))
    bare = [[replace(item, load_objects=None) for item in items] for items in (dataset.train, dataset.val)]
    dataset = replace(dataset, train=bare[0], val=bare[1])
    result = fit(dataset, options(tmp_path / "run", task="classification", epochs=(1,)))
    assert result.metrics.keys() == {"accuracy"}
    assert checkpoint.load(result.checkpoint)[1].labels == LABELS[1:]
    with pytest.raises(InputError, match="expected boxes of objects, as the task is localization"):
        fit(dataset, options(tmp_path / "boxes", task="localization"))


def test_the_loss_of_the_joint_model_is_pixels_and_twenty_times_entropy(tmp_path):
    from torch.nn import functional

    from visdeploy import models
    from visdeploy.spec import Spec
    from visdeploy.train.localization import LocalizationTask

    fields = {"task": "localization", "labels": ("a", "b"), "size": (64, 96), "mean": 0.5, "std": 0.5}
    net = models.create("localizer", encoder=ENCODER, num_classes=2, size=(64, 96))
    task = LocalizationTask(net, Spec.parse(fields), options(tmp_path, task="localization"), 0)
    answer = torch.tensor([[0.0, 0.0, 0.0, 0.0, 2.0, -1.0]])
    target = torch.tensor([[[1.0, 40.0, 30.0, 50.0, 36.0, 0.0]]])
    corners = (abs(48 - 40) + abs(32 - 30) + abs(48 - 50) + abs(32 - 36)) / 4
    entropy = functional.cross_entropy(answer[:, 4:], torch.tensor([1])).item()
    assert task.loss(answer, target).item() == pytest.approx(corners + 20 * entropy)
    task.start_measuring()
    two = torch.cat([target, target * 0 + torch.tensor([0, 47, 31, 49, 33, 0])])
    task.measure(torch.cat([answer, answer]), two, torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    figures = task.measured()
    assert figures["accuracy"] == 0.5
    assert figures["loc_accuracy"] == 0.0
    assert figures["l1"] == pytest.approx((corners + 1) / 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dice": 1.0}, "dice: goes with segmentation, got the task detection"),
        ({"task": "localization", "class_loss": "focal"}, "class_loss: goes with detection, got the task localization"),
        ({"arch": "unet"}, "arch: unet is for segmentation, got the task detection"),
        ({"task": "localization", "sizes": ((64, 64), (96, 96))}, "sizes: expected one"),
        ({"task": "detektion"}, "task: expected"),
        ({"box_loss": "l2"}, "box_loss: expected 'smooth_l1' or 'l1', got 'l2'"),
        ({"class_loss": "focl"}, "class_loss: expected 'mining' or 'focal', got 'focl'"),
        ({"scale": (0.0, 1.0)}, "scale: expected the smallest zoom and the largest, of 0.01 to 100"),
        ({"scale": (1.2, 0.8)}, "scale: expected the smallest zoom and the largest, in this order"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        options(tmp_path, **changes)


def test_data_that_a_task_cannot_learn_from_are_named(tmp_path):
    dataset = drawn(4, 2, objects=0)
    with pytest.raises(InputError, match="expected objects to learn from, got none in 4 images"):
        fit(dataset, options(tmp_path / "run"))
    with pytest.raises(InputError, match="expected a mask for every image"):
        fit(drawn(4, 2), options(tmp_path / "run", task="segmentation", model={}))
    with pytest.raises(InputError, match="expected predicts=both or box for localization, got 'label'"):
        fit(drawn(4, 2), options(tmp_path / "run", task="localization", model={"predicts": "label"}))
    with pytest.raises(InputError, match="model: num_classes follows from the other options and the data, and is 2"):
        fit(drawn(4, 2), options(tmp_path / "run", model={"num_classes": 7}))
    ignored = [replace(item, load_objects=partial(all_ignored, item.load_objects())) for item in drawn(4, 2).train]
    with pytest.raises(InputError, match="expected objects to learn from"):
        fit(replace(drawn(4, 2), train=ignored), options(tmp_path / "run"))
    with pytest.raises(InputError, match="expected classes to tell apart, got disc alone"):
        fit(one_class(drawn(4, 2)), options(tmp_path / "run", task="classification"))
    assert not (tmp_path / "run").exists()


def all_ignored(objects: Objects) -> Objects:
    return replace(objects, ignored=np.ones(len(objects.labels), bool))


def one_class(dataset: Dataset) -> Dataset:
    def relabelled(items):
        return [replace(item, label=0) for item in items]

    return replace(dataset, labels=("disc",), train=relabelled(dataset.train), val=relabelled(dataset.val))


@pytest.mark.parametrize(
    ("images", "changes"),
    [
        (4, {"task": "localization", "batch": 1}),
        (1, {"task": "localization"}),
        (1, {"task": "classification"}),
        (4, {"batch": 1, "model": {"channels": 32}}),  # whose coarsest map is one cell
    ],
)
def test_a_step_of_one_image_needs_a_network_that_can_take_it(tmp_path, images, changes):
    with pytest.raises(InputError, match="batch: expected at least 2 images in a step"):
        fit(drawn(images, 1), options(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_recipe_of_a_detector_with_weights(tmp_path):
    plain, taught = options(tmp_path), options(tmp_path, weights="some.pth")
    assert (plain.freeze_to, plain.freeze_bn, plain.rotate) == (0, False, 0.0)
    assert (taught.freeze_to, taught.freeze_bn) == (4, True)
    tiny = TrainOptions(tmp_path, task="detection", arch="tinyssd")
    assert tiny.encoder is None


def test_golden_images_are_those_with_the_most_objects(tmp_path: Path) -> None:
    val = [replace(drawn(0, 1, count).val[0], name=f"with{count}") for count in (0, 1, 3, 2)]
    _save_golden(replace(drawn(1, 0), val=val), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["with2.png", "with3.png"]
