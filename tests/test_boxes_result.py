"""Predictors of detectors, localizers and classifiers, over an engine that answers what a test says."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stub import TWO, says
from stub import probabilities as rows
from visdeploy import cli, image
from visdeploy.drawing import draw_boxes, draw_text
from visdeploy.errors import EngineError, InputError
from visdeploy.prediction_files import PredictionFiles


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


def test_repr_is_short() -> None:
    text = repr(says(TWO)(photo(60, 100)))
    assert "boxes=Boxes(2)" in text
    assert "array(" not in text


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["cat", "dog"]),
        ({"conf": 0.85}, ["cat"]),
        ({"conf": 0.95}, []),
        ({"iou": 0.9}, ["cat", "dog", "cat"]),
        ({"max_det": 1}, ["cat"]),
        ({"classes": ["dog"]}, ["dog"]),
        ({"classes": "dog"}, ["dog"]),
        ({"classes": np.int64(1)}, ["cat"]),
        ({"classes": [2], "max_det": 1}, ["dog"]),
        ({"conf": np.float32(0.85), "max_det": np.int64(7)}, ["cat"]),
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


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"classes": ["dgo"]}, "the model knows no class 'dgo'; did you mean 'dog'?"),
        ({"classes": [7]}, "the model knows no class 7; it has cat, dog"),
        ({"classes": ["background"]}, "the model knows no class 'background'"),
        ({"classes": [0]}, "the model knows no class 0"),
        ({"classes": []}, r"classes: expected a list of names or indices, got \[\]"),
        ({"conf": 1.5}, "conf: expected a number from 0 to 1, got 1.5"),
        ({"conf": float("nan")}, "conf: expected a number from 0 to 1, got nan"),
        ({"iou": -1}, "iou: expected a number from 0 to 1, got -1"),
        ({"conf": [0.5]}, r"conf: expected a number from 0 to 1, got \[0.5\]"),
        ({"conf": 1j}, "conf: expected a number from 0 to 1, got 1j"),
        ({"max_det": True}, "max_det: expected a whole number of at least 1, got True"),
        ({"classes": "do"}, "knows no class 'do'; did you mean 'dog'"),
        ({"classes": (name for name in ["cat"])}, "classes: expected a list of names or indices"),
        ({"classes": np.array([[1]])}, "the model knows no class array"),
        ({"classes": [True]}, "the model knows no class True"),
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
        ("detection", np.zeros((4, 6)), "the network scores 2 classes, the spec names 3 labels"),
        ("detection", np.zeros((5, 7)), "the rule gives 4 boxes, the network answers 5"),
        ("detection", np.zeros((3, 60, 100)), r"shape \(1, N, C \+ 4\) for detection, got \(1, 3, 60, 100\)"),
        ("localization", np.zeros(4), "the network scores 0 classes, the spec names 2 labels"),
        ("classification", np.zeros(3), "the network scores 3 classes, the spec names 2 labels"),
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


def test_boxes_as_plain_values() -> None:
    result = says(TWO)(photo(120, 300))
    document = json.loads(result.to_json())
    assert "masks" not in document
    first, second = document["boxes"]
    assert (first["label"], first["name"], second["name"]) == (1, "cat", "dog")
    assert first["score"] == pytest.approx(0.9)
    assert first["xyxy"] == pytest.approx([30, 20, 90, 60], rel=1e-5)
    annotation = result.to_coco(5)[1]
    assert annotation["bbox"] == pytest.approx([150, 40, 120, 60], rel=1e-5)
    assert annotation["score"] == pytest.approx(0.8)
    assert (annotation["image_id"], annotation["category_id"], annotation["iscrowd"]) == (5, 2, 0)
    assert annotation["area"] == pytest.approx(7200, rel=1e-5)
    with pytest.raises(InputError, match=r"to_kaggle.*expected masks, got boxes or a class"):
        result.to_kaggle()


def test_pycocotools_takes_boxes_as_results() -> None:
    coco = pytest.importorskip("pycocotools.coco")
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": 5}], "categories": [{"id": 1}, {"id": 2}], "annotations": [], "info": {}}
    truth.createIndex()
    loaded = truth.loadRes(says(TWO)(photo(120, 300)).to_coco(5))
    assert [entry["category_id"] for entry in loaded.loadAnns(loaded.getAnnIds())] == [1, 2]


def test_a_class_as_plain_values() -> None:
    result = says(np.array([0.0, np.log(3)]), "classification")(photo(33, 44))
    document = json.loads(result.to_json())["classes"]
    assert (document["label"], document["name"]) == (1, "dog")
    assert document["probabilities"] == pytest.approx([0.25, 0.75])
    with pytest.raises(InputError, match=r"to_coco.*the class of a whole image"):
        result.to_coco(1)


def test_supervision_gets_boxes_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("supervision")
    package.Detections = package.Classifications = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", package)
    given = says(TWO)(photo(120, 300)).to_supervision()
    np.testing.assert_allclose(given.xyxy[0], [30, 20, 90, 60], rtol=1e-5)
    assert given.class_id.tolist() == [1, 2]
    assert given.data["class_name"].tolist() == ["cat", "dog"]
    np.testing.assert_allclose(given.confidence, [0.9, 0.8], rtol=1e-5)
    assert says(TWO)(photo(60, 100), conf=0.99).to_supervision().data["class_name"].shape == (0,)
    classes = says(np.array([0.0, np.log(3)]), "classification")(photo(33, 44)).to_supervision()
    np.testing.assert_allclose(classes.confidence, [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("level", [0, 127, 255])
def test_boxes_and_names_stand_out_on_any_background(level: int) -> None:
    """Along a frame, and where its name is, lie both black and white; elsewhere nothing has changed."""
    pixels = np.full((300, 500, 3), level, np.uint8)
    drawn = says(TWO)(pixels, classes=["cat"]).plot().array
    assert drawn.dtype == np.uint8
    frame, inside, outside = drawn[100, 50:60], drawn[52:90, 52:150], drawn[:48]
    for part in (frame, inside.reshape(-1, 3)):
        assert (part < 30).all(1).any()
        assert (part > 225).all(1).any()
    assert (frame == says(TWO).spec.palette[1]).all(1).any()
    assert (outside == level).all()
    assert (pixels == level).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 1), (20, 20), (40, 600), (600, 40)])
def test_images_of_any_shape_can_be_drawn(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    assert says(TWO)(pixels).plot().array.shape == (*size, 3)
    assert says(np.array([1.0, 2.0]), "classification")(pixels).plot().array.shape == (*size, 3)


def test_names_stay_inside_the_image() -> None:
    """The same box in each corner of an image: as much white is drawn as in the middle."""
    corners = [[0, 0, 9, 6], [91, 0, 100, 6], [0, 54, 9, 60], [91, 54, 100, 60], [45, 27, 54, 33]]
    whites = []
    for corner in corners:
        anchors = {"rule": "boxes", "corners": [corner]}
        model = says(rows((0.05, 0.9, 0.05))[:1], anchors=anchors)
        whites.append(int((model(np.zeros((240, 400, 3), np.uint8)).plot().array > 225).all(2).sum()))
    assert max(whites) - min(whites) <= 0.02 * min(whites)


@pytest.mark.parametrize("text", ["", "i", "car 0.87", "Platelets 0.87", "a class with a very long name 0.99"])
def test_a_text_fits_into_an_image_of_any_width(text):
    corners = np.array([[5, 5, 60, 90]], np.float32)
    drawn = 0
    for width in range(1, 260):
        pixels = np.zeros((100, width, 3), np.uint8)
        drawn += draw_text(pixels, text).any()
        draw_boxes(pixels, corners, [text], [(255, 0, 0)])
    assert drawn > 0 or not text.strip()


def test_what_was_found_first_lies_on_top() -> None:
    answer = rows((0.01, 0.98, 0.01), (1, 1e-9, 1e-9), (0.3, 0.01, 0.69))
    drawn = says(answer)(np.zeros((300, 500, 3), np.uint8)).plot().array
    assert (drawn[52, 70:140] == says(answer).spec.palette[1]).all()  # where the frames of both run


@pytest.mark.parametrize("task", ["detection", "localization", "classification"])
def test_prediction_files(task: str, tmp_path: Path) -> None:
    answers = {"detection": TWO, "localization": np.array([-1, -1, 1, 1, 0, 1.0]), "classification": np.array([0, 1.0])}
    path = tmp_path / "a.png"
    image.write(path, photo(60, 100))
    model = says(answers[task], task)
    files = PredictionFiles(tmp_path / "out", model.spec)
    for result in model.stream([path, path]):
        files.add(result)
    files.close()
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {*files.tables, "a.png", "a-2.png"}
    name = "classes.csv" if task == "classification" else "boxes.csv"
    with (tmp_path / "out" / name).open(newline="") as file:
        heading, *lines = csv.reader(file)
    assert heading == ["file", "label", "score", *([] if task == "classification" else ["x1", "y1", "x2", "y2"])]
    if task == "classification":
        assert files.tables == ("classes.csv",)
        assert [line[:2] for line in lines] == [["a.png", "dog"], ["a-2.png", "dog"]]
        return
    document = json.loads((tmp_path / "out" / "coco.json").read_text())
    boxes = result.boxes
    assert boxes is not None
    assert len(lines) == len(document["annotations"]) == 2 * len(boxes)
    assert [line[1] for line in lines[: len(boxes)]] == list(boxes.names)
    np.testing.assert_allclose(np.array([line[3:] for line in lines[: len(boxes)]], float), boxes.xyxy)
    categories = {entry["id"]: entry["name"] for entry in document["categories"]}
    assert categories == ({1: "cat", 2: "dog"} if task == "detection" else {0: "cat", 1: "dog"})
    for line, annotation in zip(lines, document["annotations"], strict=True):
        assert categories[annotation["category_id"]] == line[1]
        assert annotation["score"] == float(line[2])


def test_predict_command_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image.write(tmp_path / "a.png", photo(60, 100))
    monkeypatch.setattr("visdeploy.predictor.load", lambda *_, **__: says(TWO))

    def run(*options: str) -> tuple[int, str, str]:
        folder = ["predict", "says.vdz", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["visdeploy", *folder, *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    code, shown, _ = run("--iou", "0.9", "--conf", "0.5", "--max-det", "9", "--classes", "cat, 2")
    assert code == 0
    assert "1 of 1 images, 3 boxes (2 cat, 1 dog) -> " in shown
    assert "(coco.json, boxes.csv, overlays)" in shown
    code, _, complaint = run("--classes", "cta")
    assert code == 2
    assert "the model knows no class 'cta'; did you mean 'cat'?" in complaint
