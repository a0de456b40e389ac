"""VOC's average precision against a transcription of its rule, torchmetrics, and cases counted by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.detection import MeanAveragePrecision

from visdeploy.average_precision import AveragePrecision
from visdeploy.errors import InputError
from visdeploy.metrics import headline

LABELS = ("background", "a", "b", "c")
Image = dict[str, NDArray]


def images(seed: int, count: int = 12) -> Iterator[Image]:
    """Objects, and detections near some of them with scores that often tie; some images have none of either."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        objects, found = rng.integers(0, 6), rng.integers(0, 12)
        start = rng.uniform(0, 60, (objects, 2))
        truth = np.concatenate([start, start + rng.uniform(8, 40, (objects, 2))], 1)
        xyxy = np.concatenate([truth, truth, np.tile([0.0, 0, 9, 9], (12, 1))])[:found]
        labels = rng.integers(1, 3, objects)
        yield {
            "xyxy": (xyxy + rng.normal(0, 3, xyxy.shape)).astype(np.float32),
            "scores": np.round(rng.uniform(0, 1, found), 1).astype(np.float32),
            "labels": np.where(rng.random(found) < 0.8, np.resize(np.append(labels, 1), found), 2),
            "truth_xyxy": truth.astype(np.float32),
            "truth_labels": labels,
            "truth_ignored": rng.random(objects) < 0.2,
        }


def iou(a: NDArray, b: NDArray) -> float:
    width, height = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0)
    return width * height / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - width * height)


def by_the_book(data: list[Image], label: int) -> tuple[float, float]:
    """One class as the development kit of VOC does it: detection by detection, then recall by recall."""
    found = [(-one["scores"][k], i, k) for i, one in enumerate(data) for k in np.flatnonzero(one["labels"] == label)]
    objects = sum(int(np.sum((one["truth_labels"] == label) & ~one["truth_ignored"])) for one in data)
    seen: set[tuple[int, int]] = set()
    hits = misses = 0
    precision, recall = [], []
    for _, i, k in sorted(found, key=lambda entry: entry[0]):
        one = data[i]
        best, nearest = -1.0, -1
        for j in np.flatnonzero(one["truth_labels"] == label):
            overlap = iou(one["xyxy"][k].astype(float), one["truth_xyxy"][j].astype(float))
            if overlap > best:
                best, nearest = overlap, j
        if best >= 0.5 and one["truth_ignored"][nearest]:
            continue
        if best >= 0.5 and (i, nearest) not in seen:
            seen.add((i, nearest))
            hits += 1
        else:
            misses += 1
        precision.append(hits / (hits + misses))
        recall.append(hits / objects)
    recalls, precisions = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for k in range(len(precisions) - 2, -1, -1):
        precisions[k] = max(precisions[k], precisions[k + 1])
    area = sum((recalls[k] - recalls[k - 1]) * precisions[k] for k in range(1, len(recalls)))
    reached = [[p for p, r in zip(precision, recall, strict=True) if r >= t / 10] for t in range(11)]
    return area, sum(max(row, default=0.0) for row in reached) / 11


@pytest.mark.parametrize("seed", range(8))
def test_random_sets_agree_with_the_rule_written_out(seed: int) -> None:
    data = list(images(seed))
    scored = AveragePrecision(len(LABELS))
    for one in data:
        scored.add(**one)
    areas, points = zip(*(by_the_book(data, label) for label in (1, 2)), strict=True)
    figures = scored.metrics(LABELS)
    assert figures == pytest.approx(
        {"map50": np.mean(areas), "map50_07": np.mean(points), "ap50_a": areas[0], "ap50_b": areas[1]}
    )
    assert 0 < figures["map50"] < 1
    assert headline(figures) == "map50"


def test_torchmetrics_samples_the_same_curve() -> None:
    rng = np.random.default_rng(0)
    other = MeanAveragePrecision(iou_thresholds=[0.5])
    scored = AveragePrecision(2)
    for _ in range(20):
        corners = np.array([[0, 0], [40, 0], [0, 40], [40, 40]]) + rng.uniform(0, 9, (4, 2))
        truth = np.concatenate([corners, corners + 20], 1).astype(np.float32)
        found = np.concatenate([truth, truth]) + rng.normal(0, 4, (8, 4)).astype(np.float32)
        scores = rng.random(8).astype(np.float32)
        scored.add(found, scores, np.ones(8, int), truth, np.ones(4, int))
        ones = torch.ones(8, dtype=torch.int)
        other.update(
            [{"boxes": torch.tensor(found), "scores": torch.tensor(scores), "labels": ones}],
            [{"boxes": torch.tensor(truth), "labels": ones[:4]}],
        )
    _, curve = scored.curves()
    theirs = other.compute()
    assert curve.recall[-1] == pytest.approx(theirs["mar_100"].item())
    # COCO's AP is the mean of 101 samples of the envelope, VOC's the area below it.
    samples = curve.precision_from(torch.linspace(0, 1, 101).double().numpy())
    assert samples.mean() == pytest.approx(theirs["map"].item(), abs=1e-6)
    assert curve.area == pytest.approx(theirs["map"].item(), abs=0.01)
    assert 0.3 < curve.area < 0.9


def square(x: float, side: float = 10) -> list[float]:
    return [x, 0, x + side, side]


def boxes(*xs: float) -> NDArray:
    return np.array([square(x) for x in xs], np.float32).reshape(-1, 4)


def test_an_object_is_found_once_and_equal_scores_keep_their_order() -> None:
    scored = AveragePrecision(2)
    scored.add(boxes(0, 0, 50), np.array([0.5, 0.9, 0.5]), np.ones(3, int), boxes(0, 50), np.ones(2, int))
    _, curve = scored.curves()
    assert curve.scores.tolist() == [0.9, 0.5, 0.5]
    assert curve.precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.area == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert curve.eleven_points == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert curve.at(0.5) == (1, 0.5)
    assert curve.at(0.4) == pytest.approx((2 / 3, 1))
    assert np.isnan(curve.at(0.9)[0])
    assert curve.at(0.9)[1] == 0


def test_ignored_objects_neither_reward_nor_punish() -> None:
    scored = AveragePrecision(2)
    ignored = np.array([True, False])
    scored.add(boxes(0, 0, 50), np.array([0.9, 0.8, 0.7]), np.ones(3, int), boxes(0, 50), np.ones(2, int), ignored)
    assert scored.metrics(("background", "a")) == {"map50": 1, "map50_07": 1, "ap50_a": 1}
    assert scored.curves()[1].objects == 1
    assert scored.confusion.tolist() == [[0, 0], [0, 1]]


def test_half_is_enough_and_a_box_without_area_is_none() -> None:
    scored = AveragePrecision(2, confidence=0.1)
    found = np.array([[0, 0, 5, 10], [20, 0, 20, 0], [40, 0, 44.9, 10]], np.float32)
    scored.add(
        found, np.array([0.9, 0.8, 0.7]), np.ones(3, int), np.array([square(0), square(20, 0), square(40)]), [1] * 3
    )
    assert scored.curves()[1].precision == pytest.approx([1, 1 / 2, 1 / 3])


def test_classes_without_objects_have_no_figure() -> None:
    scored = AveragePrecision(3)
    none = boxes(), np.zeros(0), np.zeros(0, int)
    assert scored.metrics(LABELS[:3]) == {"map50": 1, "map50_07": 1}
    scored.add(*none, boxes(), np.zeros(0, int))
    assert scored.metrics(LABELS[:3]) == {"map50": 1, "map50_07": 1}
    scored.add(boxes(0), np.ones(1), np.array([2]), boxes(), np.zeros(0, int))
    assert scored.metrics(LABELS[:3]) == {"map50": 0, "map50_07": 0}
    scored.add(*none, boxes(0), np.array([1]))
    assert scored.metrics(LABELS[:3]) == {"map50": 0, "map50_07": 0, "ap50_a": 0}


def test_confusion_counts_what_was_taken_for_what() -> None:
    scored = AveragePrecision(3, confidence=0.3)
    truth = boxes(0, 50, 100), np.array([1, 2, 1])
    # a for a; a for b, and b for the same b, which is taken; b for nothing; and one that is not sure enough.
    found = boxes(0, 51, 50, 200, 100), np.array([0.6, 0.9, 0.8, 0.7, 0.3]), np.array([1, 1, 2, 2, 1])
    scored.add(*found, *truth)
    assert scored.confusion.tolist() == [[0, 0, 2], [1, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("labels", "truth", "message"),
    [
        ([1, 1], [1], r"labels: expected as many as boxes, got lengths \[2, 1, 1\]"),
        ([0], [1], "labels: expected classes from 1 to 1, got 0 to 0"),
        ([1], [2], "truth_labels: expected classes from 1 to 1, got 2 to 2"),
    ],
)
def test_wrong_arguments_are_named(labels: list[int], truth: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AveragePrecision(2).add(boxes(0), np.ones(1), np.array(labels), boxes(0), np.array(truth))
