"""Predictors of detectors, localizers and classifiers, over an engine that answers what a test says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visdeploy.bundle import Bundle
from visdeploy.errors import EngineError, InputError
from visdeploy.postprocess import find_boxes
from visdeploy.predictor import Predictor
from visdeploy.preprocess import prepare
from visdeploy.spec import Manifest

SIZE = (60, 100)
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


def manifest(task: str = "detection", **changes: Any) -> Manifest:
    spec = {"task": task, "labels": ["cat", "dog"], "size": SIZE, "mean": 0.5, "std": 0.5, "activation": "softmax"}
    if task == "detection":
        spec["anchors"] = {"rule": "boxes", "corners": ANCHORS}
    return Manifest.parse(spec | changes)


def says(answer: Any, task: str = "detection", **changes: Any) -> Predictor:
    return Predictor(Bundle(Path("says.vdz"), manifest(task, **changes), {}), SaysEngine(answer))


def rows(*probabilities: tuple[float, float, float], offsets: Any = 0) -> NDArray[np.float32]:
    """(4, 3 + 4) whose softmax is what is given for the first anchors, and background for the others."""
    given = np.array([*probabilities, *[(1 - 2e-6, 1e-6, 1e-6)] * (4 - len(probabilities))])
    return np.concatenate([np.log(given), np.zeros((4, 4)) + offsets], 1).astype(np.float32)


TWO = rows((0.05, 0.9, 0.05), (0.1, 0.1, 0.8), (0.3, 0.65, 0.05))


def photo(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)


def test_boxes_come_best_first_in_pixels_of_the_source() -> None:
    """A stretched image of twice the height and thrice the width; the third anchor's box overlaps the first."""
    result = says(TWO)(photo(120, 300))
    boxes = result.boxes
    assert boxes is not None
    assert result.masks is result.classes is None
    np.testing.assert_allclose(boxes.xyxy, [[30, 20, 90, 60], [150, 40, 270, 100]], rtol=1e-5)
    np.testing.assert_allclose(boxes.scores, [0.9, 0.8], rtol=1e-5)
    assert boxes.labels.tolist() == [1, 2]
    assert boxes.names == ("cat", "dog")
    assert [x.dtype for x in (boxes.xyxy, boxes.scores, boxes.labels)] == [np.float32, np.float32, np.int64]


def test_letterboxed_boxes_are_cut_at_the_image_and_dropped_in_the_padding() -> None:
    """A square image takes 60 of 100 columns: one box begins in them, one lies behind."""
    answer = rows((0.05, 0.9, 0.05), (0.1, 0.1, 0.8), (1, 1e-9, 1e-9), (0.1, 0.8, 0.1))
    boxes = says(answer, resize="letterbox")(photo(120, 120)).boxes
    assert boxes is not None
    np.testing.assert_allclose(boxes.xyxy, [[20, 20, 60, 60], [100, 40, 120, 100]], rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["cat", "dog"]),
        ({"conf": 0.85}, ["cat"]),
        ({"conf": 0.95}, []),
        ({"iou": 0.9}, ["cat", "dog", "cat"]),
        ({"max_det": 1}, ["cat"]),
        ({"classes": ["dog"]}, ["dog"]),
        ({"classes": [2], "max_det": 1}, ["dog"]),
        ({"classes": np.array([1, 2])}, ["cat", "dog"]),
        ({"classes": ["cat"], "iou": 0.9, "max_det": 1}, ["cat"]),
    ],
)
def test_what_is_asked_for(asked: dict[str, Any], names: list[str]) -> None:
    model = says(TWO)
    images = [photo(60, 100), photo(30, 50)]
    for result in [*model(images, **asked), *model.stream(images, batch_size=2, **asked)]:
        assert result.boxes is not None
        assert list(result.boxes.names) == names


def test_one_image_alone_is_answered_as_in_a_predictor() -> None:
    spec, image = manifest(), photo(90, 70)
    assert spec.anchors is not None
    alone = find_boxes(TWO, prepare(image, spec), spec, spec.anchors.boxes(spec.size), conf=0.3, classes=["cat"])
    there = says(TWO)(image, conf=0.3, classes=["cat"]).boxes
    assert there is not None
    np.testing.assert_array_equal(alone.xyxy, there.xyxy)
    assert alone.names == there.names == ("cat",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"classes": ["dgo"]}, "the model knows no class 'dgo'; did you mean 'dog'?"),
        ({"classes": [7]}, "the model knows no class 7; it has cat, dog"),
        ({"classes": ["background"]}, "the model knows no class 'background'"),
        ({"classes": [0]}, "the model knows no class 0"),
        ({"classes": "dog"}, "classes: expected a list of names or indices, got 'dog'"),
        ({"classes": []}, r"classes: expected a list of names or indices, got \[\]"),
        ({"conf": 1.5}, "conf: expected a number from 0 to 1, got 1.5"),
        ({"conf": float("nan")}, "conf: expected a number from 0 to 1, got nan"),
        ({"iou": -1}, "iou: expected a number from 0 to 1, got -1"),
        ({"iou": "half"}, "iou: expected a number from 0 to 1, got 'half'"),
        ({"max_det": 0}, "max_det: expected a whole number of at least 1, got 0"),
        ({"max_det": 1.5}, "max_det: expected a whole number of at least 1, got 1.5"),
        ({"threshold": 0.5}, "threshold: only a binary model has one; a detector has conf"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], message: str) -> None:
    model = says(TWO)
    with pytest.raises(InputError, match=message):
        model(photo(60, 100), **asked)
    with pytest.raises(InputError, match=message):
        model.stream([], **asked)


@pytest.mark.parametrize("task", ["localization", "classification", "segmentation"])
@pytest.mark.parametrize("asked", [{"conf": 0.5}, {"iou": 0.5}, {"max_det": 3}, {"classes": ["cat"]}])
def test_other_tasks_take_no_arguments_of_detectors(task: str, asked: dict[str, Any]) -> None:
    model = says(np.zeros(2), task, **({"size": 64} if task == "segmentation" else {}))
    with pytest.raises(InputError, match=f"{next(iter(asked))}: only a detector has it; this model's task is {task}"):
        model(photo(60, 100), **asked)


@pytest.mark.parametrize(
    ("task", "answer", "message"),
    [
        ("detection", np.zeros((4, 6)), r"shape \(1, 4, 6\), where its spec says \(B, 4, 7\) for detection"),
        ("detection", np.zeros((5, 7)), r"shape \(1, 5, 7\), where its spec says \(B, 4, 7\)"),
        ("detection", np.zeros((3, 60, 100)), r"shape \(1, 3, 60, 100\), where its spec says \(B, 4, 7\)"),
        ("localization", np.zeros(4), r"shape \(1, 4\), where its spec says \(B, 6\) for localization"),
        ("classification", np.zeros(3), r"shape \(1, 3\), where its spec says \(B, 2\)"),
        ("classification", np.array([np.nan, 0]), "answered with NaN"),
        ("localization", np.array([0, 0, np.nan, 1, 2, 3]), "answered with NaN"),
    ],
)
def test_answers_that_the_spec_does_not_allow(task: str, answer: Any, message: str) -> None:
    model = says(answer, task)
    with pytest.raises(EngineError, match=message):
        model(photo(60, 100))
    (result,) = model.stream([photo(60, 100)])
    assert isinstance(result.error, EngineError)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_anchor_with_numbers_that_are_not_finite_finds_nothing(wrong: float) -> None:
    answer = TWO.copy()
    answer[1, 0] = wrong
    answer[0, 3:5] = np.nan
    boxes = says(answer)(photo(60, 100)).boxes
    assert boxes is not None
    assert boxes.names == ("cat",)  # the third anchor's, which nothing suppresses any more
    np.testing.assert_allclose(boxes.scores, [0.65], rtol=1e-5)
    answer = TWO.copy()
    answer[0, 5:] = wrong
    boxes = says(answer)(photo(60, 100)).boxes
    assert boxes is not None
    assert np.isfinite(boxes.xyxy).all()
    assert "dog" in boxes.names


def test_a_bad_item_of_a_stream_does_not_cost_the_others() -> None:
    results = list(says(TWO).stream([photo(60, 100), b"no image", photo(61, 99)], batch_size=3))
    assert [result.error is None for result in results] == [True, False, True]
    assert results[2].boxes is not None


def logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


@pytest.mark.parametrize("with_class", [True, False])
def test_localizer_answers_one_box(with_class: bool) -> None:
    corners = [logit(share) for share in (0.1, 0.25, 0.5, 0.75)]
    answer = np.array(corners + ([np.log(0.2), np.log(0.8)] if with_class else []))
    model = says(answer, "localization", labels=["cat", "dog"] if with_class else ["face"])
    boxes = model(photo(120, 300)).boxes
    assert boxes is not None
    np.testing.assert_allclose(boxes.xyxy, [[30, 30, 150, 90]], rtol=1e-5)
    assert (boxes.labels.tolist(), boxes.names) == (([1], ("dog",)) if with_class else ([0], ("face",)))
    np.testing.assert_allclose(boxes.scores, [0.8 if with_class else 1], rtol=1e-6)
    assert [x.dtype for x in (boxes.xyxy, boxes.scores, boxes.labels)] == [np.float32, np.float32, np.int64]


def test_letterboxed_localizer_knows_the_padding() -> None:
    answer = np.array([logit(0.1), logit(0.5), logit(0.9), logit(0.75), 0, 1])
    boxes = says(answer, "localization", resize="letterbox")(photo(120, 120)).boxes
    assert boxes is not None
    np.testing.assert_allclose(boxes.xyxy, [[20, 60, 120, 90]], rtol=1e-5)


def test_classifier_answers_probabilities() -> None:
    classes = says(np.array([0.0, np.log(3)]), "classification")(photo(33, 44)).classes
    assert classes is not None
    np.testing.assert_allclose(classes.probabilities, [0.25, 0.75], rtol=1e-6)
    assert (classes.label, classes.name) == (1, "dog")
    assert classes.score == pytest.approx(0.75)
    certain = says(np.array([np.inf, 0.0]), "classification")(photo(33, 44)).classes
    assert certain is not None
    assert (certain.name, certain.score) == ("cat", 1)
