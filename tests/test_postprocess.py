from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from visdeploy import mask, tolerance
from visdeploy.asked import logit_threshold
from visdeploy.errors import EngineError, InputError
from visdeploy.postprocess import find_masks
from visdeploy.preprocess import prepare
from visdeploy.spec import Manifest

SOURCES = [(64, 64), (1, 1), (61, 67), (130, 257), (1, 400), (400, 1), (33, 20)]


def spec(labels: list[str] | None = None, **changes: Any) -> Manifest:
    given = {"task": "segmentation", "labels": labels or ["car"], "size": 64, "mean": 0.5, "std": 0.5}
    return Manifest.parse(given | ({"activation": "softmax"} if labels else {}) | changes)


def image(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.zeros((*size, 3), np.uint8)


def smooth(channels: int, height: int, width: int) -> NDArray[np.float32]:
    """Logits with broad regions and curved borders, as networks give them."""
    rng = np.random.default_rng(channels * height * width)
    coarse = rng.normal(0, 4, (channels, 6, 6)).astype(np.float32)
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in coarse])


def enlarge(planes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in planes])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("side", [64, 32, 16])
@pytest.mark.parametrize("threshold", [None, 0.2, 0.9])
def test_binary_mask_is_the_enlarged_logits_above_the_threshold(
    source: tuple[int, int], side: int, threshold: float | None
) -> None:
    logits = smooth(1, side, side)
    masks = find_masks(logits, prepare(image(source), spec()), spec(), threshold)
    limit = np.log((threshold or 0.5) / (1 - (threshold or 0.5)))
    wide = enlarge(logits, source)[0]
    near = np.abs(wide - limit) <= tolerance.UPSAMPLE * np.abs(logits).max()
    np.testing.assert_array_equal(masks.to_numpy()[~near], (wide > limit)[~near])
    assert masks.labels.tolist() == ([1] if masks.to_numpy().any() else [])
    assert masks.size == source


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("side", [64, 32, 16])
@pytest.mark.parametrize("background", [None, 1])
def test_class_map_is_the_argmax_of_the_enlarged_logits(
    source: tuple[int, int], side: int, background: int | None
) -> None:
    logits = smooth(4, side, side)
    described = spec(["a", "b", "c", "d"], background=background)
    masks = find_masks(logits, prepare(image(source), described), described)
    wide = enlarge(logits, source)
    best, second = np.sort(wide, axis=0)[[-1, -2]]
    clear = best - second > 2 * tolerance.UPSAMPLE * np.abs(logits).max()
    np.testing.assert_array_equal(masks.to_numpy()[clear], wide.argmax(0)[clear])
    present = [label for label in np.unique(masks.to_numpy()) if label != background]
    assert masks.labels.tolist() == present
    assert [mask.area(rle) for rle in masks.rle] == [(masks.to_numpy() == label).sum() for label in present]


def test_ties_go_to_the_lower_class() -> None:
    described = spec(["a", "b", "c"])
    logits = np.array([0, 1, 1], np.float32)[:, None, None].repeat(64, 1).repeat(64, 2)
    masks = find_masks(logits, prepare(image((50, 70)), described), described)
    assert masks.labels.tolist() == [1]
    assert mask.area(masks.rle[0]) == 50 * 70


def test_threshold_is_strict() -> None:
    logits = np.full((1, 64, 64), logit_threshold(0.7, spec()), np.float32)
    masks = find_masks(logits, prepare(image((64, 64)), spec()), spec(), 0.7)
    assert masks.rle == []


def test_probabilities_are_compared_as_they_are() -> None:
    described = spec(activation="none")
    logits = np.linspace(0, 1, 64, dtype=np.float32)[None, None].repeat(64, 1)
    found = find_masks(logits, prepare(image((64, 64)), described), described, 0.75)
    np.testing.assert_array_equal(found.to_numpy(), logits[0] > 0.75)
    np.testing.assert_array_equal(found.probability(), logits[0])


def test_foreground_may_come_first() -> None:
    described = spec(["car", "background"], activation="sigmoid")
    masks = find_masks(np.full((1, 64, 64), 3, np.float32), prepare(image((9, 9)), described), described)
    assert masks.labels.tolist() == [0]
    assert not masks.to_numpy().any()


@pytest.mark.parametrize("mode", ["letterbox", "native"])
@pytest.mark.parametrize("source", [(61, 67), (97, 33), (50, 70), (1, 1), (1, 90), (90, 1), (64, 64)])
@pytest.mark.parametrize("stride", [1, 4])
def test_padding_leaves_no_trace(mode: str, source: tuple[int, int], stride: int) -> None:
    """A border at a third of the image must come back there, to the pixel, whatever was padded."""
    described = spec(resize=mode)
    prepared = prepare(image(source), described)
    rows, columns = prepared.pixels.shape[:2]
    border = prepared.valid[0] / 3
    centres = (np.arange(rows // stride) + 0.5) * stride
    logits = np.repeat((centres - border).astype(np.float32)[None, :, None], columns // stride, 2)
    found = find_masks(logits, prepared, described).to_numpy()
    assert found.shape == source
    source_rows = np.arange(source[0]) + 0.5
    clear = np.abs(source_rows - source[0] / 3) > 0.02 * source[0] / prepared.valid[0]
    np.testing.assert_array_equal(found[clear, 0], (source_rows > source[0] / 3)[clear])
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize("described", [spec(), spec(["a", "b", "c"])], ids=["binary", "classes"])
def test_logits_that_are_not_finite_give_a_defined_answer(described: Manifest) -> None:
    logits = smooth(1 if described.binary else 3, 64, 64)
    expected = find_masks(logits, prepare(image((64, 64)), described), described).to_numpy()
    logits[:, 0, 0] = np.nan
    logits[0, 9, 9] = np.inf
    logits[:, 20, 20] = -np.inf
    masks = find_masks(logits, prepare(image((64, 64)), described), described)
    classes = masks.to_numpy()
    assert classes[0, 0] == 0
    assert classes[9, 9] == int(described.binary)
    assert classes[20, 20] == 0
    for spot in (0, 9, 20):
        expected[spot, spot] = classes[spot, spot]
    np.testing.assert_array_equal(classes, expected)
    probability = masks.probability()
    undefined = np.isnan(probability)
    assert undefined.any()
    assert undefined[..., 1:, 1:].sum() == 0
    inside = probability[~undefined]
    assert ((inside >= 0) & (inside <= 1)).all()


@pytest.mark.parametrize("described", [spec(), spec(["a", "b", "c"])], ids=["binary", "classes"])
@pytest.mark.parametrize("channels", [2, 4])
def test_other_number_of_channels_is_refused(described: Manifest, channels: int) -> None:
    with pytest.raises(EngineError, match=f"answered with {channels} channels, its spec says"):
        find_masks(smooth(channels, 64, 64), prepare(image((64, 64)), described), described)


@pytest.mark.parametrize("value", [0.0, 1.0, -3, 50, float("nan")])
def test_threshold_must_be_a_probability(value: float) -> None:
    with pytest.raises(InputError, match=r"threshold: expected a probability between 0 and 1"):
        find_masks(smooth(1, 64, 64), prepare(image((64, 64)), spec()), spec(), value)


@pytest.mark.parametrize("source", [(61, 67), (130, 257)])
def test_probability_agrees_with_the_mask(source: tuple[int, int]) -> None:
    logits = smooth(1, 32, 32)
    masks = find_masks(logits, prepare(image(source), spec()), spec(), 0.3)
    probability = masks.probability()
    assert (probability.shape, probability.dtype) == (source, np.float32)
    clear = np.abs(probability - 0.3) > 1e-4
    np.testing.assert_array_equal(masks.to_numpy()[clear], (probability > 0.3)[clear])


def test_probabilities_of_classes_add_up_to_one() -> None:
    described = spec(["a", "b", "c"])
    masks = find_masks(30 * smooth(3, 32, 32), prepare(image((61, 67)), described), described)
    probability = masks.probability()
    assert (probability.shape, probability.dtype) == ((3, 61, 67), np.float32)
    np.testing.assert_allclose(probability.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(probability.argmax(0), masks.to_numpy())
