import math

import numpy as np
import pytest

import stub
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
