import math

import numpy as np
import pytest

import painted
import stub
from visdeploy import answers
from visdeploy.benchmark import STAGES, measure
from visdeploy.data import Item
from visdeploy.errors import InputError
from visdeploy.evaluate import evaluate


def item(image: np.ndarray, truth: np.ndarray) -> Item:
    return Item("scene", lambda: image, lambda: truth)


def test_evaluation_counts_pixels_at_source_size() -> None:
    image = np.zeros((128, 192, 3), np.uint8)
    image[:, :96, 0] = 255
    exact = (image[..., 0] > 0).astype(np.uint8)
    shifted = np.roll(exact, 48, axis=1)
    shifted[:8] = 255
    done: list[int] = []
    model = stub.predictor()
    assert evaluate(model, [item(image, exact)] * 2, progress=done.append) == {"accuracy": 1, "dice": 1, "iou": 1}
    assert done == [1, 2]
    figures = evaluate(model, [item(image, shifted)])
    assert figures == pytest.approx({"accuracy": 0.5, "dice": 0.5, "iou": 1 / 3})


def test_evaluation_of_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="there are no labelled images"):
        evaluate(stub.predictor(), [])


def test_detections_are_counted_over_the_set() -> None:
    first, second, third, fourth = painted.PLACES.tolist()
    scene = painted.paint((1, first), (-2, second), (1, third))
    items = [
        # b is pale and below the spec's threshold, and yet counts for the average precision.
        painted.item("right", scene, [first, second, third], [1, 2, 1]),
        painted.item("wrong", painted.paint((1, fourth)), [first, fourth], [1, 2]),
        painted.item("crowd", painted.paint((2, fourth)), [fourth], [2], np.array([True])),
    ]
    figures = evaluate(painted.detector(threshold=0.9), items)
    assert figures == pytest.approx({"map50": 7 / 12, "map50_07": (7 + 6) / 22, "ap50_a": 2 / 3, "ap50_b": 0.5})
    assert list(figures)[:2] == ["map50", "map50_07"]


def test_a_detector_that_finds_nothing_has_answered() -> None:
    nothing = painted.detector()(painted.paint())
    assert len(answers.of_result(nothing)["boxes"]) == 0


def test_localization_is_measured_in_pixels_of_the_network() -> None:
    # Twice as wide as the network's picture of it; letterboxed, the width decides.
    image = painted.paint((1, [16, 8, 48, 24]), size=(64, 128))
    items = [
        painted.item("exact", image, [16, 8, 48, 24], [0], label=0),
        painted.item("shifted", image, [24, 8, 56, 24], [1], label=1),
    ]
    figures = evaluate(painted.localizer(resize="letterbox", interpolation="nearest"), items)
    iou = (1 + 24 / 40) / 2
    assert figures == pytest.approx({"loc_accuracy": 0.5, "accuracy": 0.5, "iou": iou, "l1": 1}, abs=1e-4)
    # A model of boxes alone does not ask for the class.
    boxes = painted.localizer(resize="letterbox", interpolation="nearest", labels=["object"])
    assert evaluate(boxes, items) == pytest.approx({"loc_accuracy": 1, "iou": iou, "l1": 1}, abs=1e-4)
    figures = evaluate(painted.localizer(interpolation="nearest"), items)
    assert figures["l1"] == pytest.approx(1, abs=1e-4)
    assert figures["iou"] == pytest.approx(iou, abs=1e-4)


def test_classification_is_measured_by_accuracy() -> None:
    red, green = painted.paint((1, [0, 0, 9, 9])), painted.paint((2, [0, 0, 9, 9]))
    items = [painted.item(str(k), image, label=k % 2) for k, image in enumerate((red, green, green, green))]
    assert evaluate(painted.classifier(), items) == {"accuracy": 0.75}


@pytest.mark.parametrize(
    ("model", "lacking", "message"),
    [
        (stub.predictor, {}, "x: expected a mask to compare with, and the data have none"),
        (painted.classifier, {}, "x: expected a class to compare with"),
        (painted.classifier, {"label": 2}, "x: expected a class below 2, got 2"),
        (painted.localizer, {"label": 0}, "x: expected the one main object, got 0 boxes"),
    ],
)
def test_data_that_do_not_say_what_is_needed_are_named(model, lacking, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model(), [painted.item("x", painted.paint((1, [0, 0, 9, 9])), **lacking)])


def test_benchmark_times_every_stage_of_every_model() -> None:
    images = [np.zeros((64, 64, 3), np.uint8), np.zeros((70, 30, 3), np.uint8)]
    models = [stub.predictor(), stub.predictor(labels=["a", "b", "c"])]
    measured = measure(models, images, rounds=3)
    assert [entry.samples for entry in measured] == [6, 6]
    assert [model.engine.batches for model in models] == [[1] * 8] * 2
    for entry in measured:
        assert (entry.engine, entry.precision) == ("stub 1", "fp32")
        assert set(entry.stages) == set(STAGES)
        assert all(0 < marks.p50 <= marks.p95 <= marks.p99 for marks in entry.stages.values())
        assert math.isclose(entry.images_per_second, 1000 / entry.stages["total"].p50)
        assert entry.to_dict()["stages"]["infer"]["p50"] == entry.stages["infer"].p50
    assert models[0].benchmark(images, rounds=1).samples == 2


@pytest.mark.parametrize(("images", "rounds"), [([], 3), ([np.zeros((8, 8, 3), np.uint8)], 0)])
def test_benchmark_of_nothing_is_an_error(images: list[np.ndarray], rounds: int) -> None:
    with pytest.raises(InputError, match="expected images and at least one round"):
        measure([stub.predictor()], images, rounds=rounds)
