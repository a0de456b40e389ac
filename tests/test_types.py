import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stub
from visdeploy import mask
from visdeploy.errors import InputError, MissingDependencyError
from visdeploy.image import decode
from visdeploy.types import Result

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def blocks(height: int = 100, width: int = 160) -> NDArray[np.uint8]:
    """Red, green and blue in four quarters, the last of them red again."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = COLORS[0], COLORS[1]
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = COLORS[2], COLORS[0]
    return image


@pytest.fixture
def binary() -> Result:
    return stub.predictor()(blocks())


@pytest.fixture
def several() -> Result:
    return stub.predictor(labels=["red", "green", "background"], resize="native")(blocks())


def test_repr_is_a_line(several: Result) -> None:
    noisy = stub.predictor(resize="native")(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    assert len(noisy.to_json()) > 10_000
    assert len(repr(noisy)) < 500
    assert "labels=array([0, 1])" in repr(several)
    assert repr(stub.predictor()) == "Predictor('stub.vdz', engine='stub', precision='fp32')"


@pytest.fixture
def nothing() -> Result:
    return stub.predictor()(np.zeros((30, 40, 3), np.uint8))


@pytest.fixture
def failed() -> Result:
    return next(stub.predictor().stream(["missing.jpg"]))


def test_masks_and_class_map_agree(several: Result) -> None:
    assert several.masks is not None
    assert several.boxes is None
    classes = several.masks.to_numpy()
    np.testing.assert_array_equal(classes, blocks().argmax(2))
    assert (classes.dtype, several.masks.labels.dtype, several.masks.labels.tolist()) == (np.uint8, np.int64, [0, 1])
    for rle, label in zip(several.masks.rle, several.masks.labels, strict=True):
        assert rle == mask.encode(classes == label)
        assert isinstance(rle["counts"], bytes)


def test_json_is_plain_and_complete(several: Result) -> None:
    document = json.loads(several.to_json())
    assert (document["source"], document["index"], document["size"]) == ("ndarray in memory", 0, [100, 160])
    assert [(found["name"], found["area"]) for found in document["masks"]] == [("red", 8000), ("green", 4000)]
    assert all(isinstance(found["rle"]["counts"], str) for found in document["masks"])
    decoded = mask.decode(document["masks"][1]["rle"])
    np.testing.assert_array_equal(decoded, blocks().argmax(2) == 1)
    assert set(document["timings"]) == {"decode_ms", "resize_ms", "infer_ms", "postprocess_ms"}


def test_coco_annotations(several: Result) -> None:
    annotations = json.loads(json.dumps(several.to_coco(image_id=7)))
    assert [entry["category_id"] for entry in annotations] == [0, 1]
    assert all(entry["image_id"] == 7 and entry["iscrowd"] == 0 for entry in annotations)
    assert annotations[1]["bbox"] == [80, 0, 80, 50]
    assert annotations[1]["area"] == 4000
    assert mask.area(annotations[1]["segmentation"]) == 4000


def test_kaggle_text_decodes_to_the_mask(binary: Result, several: Result) -> None:
    assert binary.masks is not None
    for order in ("row", "column"):
        text = binary.to_kaggle(order=order)
        rle = mask.from_kaggle(text, binary.size, order=order)
        np.testing.assert_array_equal(mask.decode(rle), binary.masks.to_numpy())
    green = mask.from_kaggle(several.to_kaggle(1), several.size)
    np.testing.assert_array_equal(mask.decode(green), blocks().argmax(2) == 1)


def test_nothing_found_is_empty_everywhere(nothing: Result) -> None:
    assert nothing.masks is not None
    assert nothing.to_kaggle() == ""
    assert nothing.to_coco(1) == []
    assert json.loads(nothing.to_json())["masks"] == []
    assert (nothing.masks.rle, nothing.masks.labels.shape) == ([], (0,))
    assert not nothing.masks.to_numpy().any()
    np.testing.assert_array_equal(nothing.plot().array, np.zeros((30, 40, 3)))


@pytest.mark.parametrize("label", [None, 2, 3, -1])
def test_kaggle_asks_for_a_class_that_has_masks(several: Result, label: int | None) -> None:
    with pytest.raises(InputError, match=r"label: expected one of \[0, 1\], got"):
        several.to_kaggle(label)


def test_kaggle_asks_for_the_class_where_none_is_background() -> None:
    result = stub.predictor(labels=["red", "green"])(blocks())
    with pytest.raises(InputError, match=r"label: expected one of \[0, 1\], got None"):
        result.to_kaggle()
    assert result.to_kaggle(1) != ""


@pytest.mark.parametrize("opacity", [-0.1, 2, float("nan"), "x"])
def test_an_opacity_that_is_none_is_refused(several: Result, opacity: Any) -> None:
    with pytest.raises(InputError, match=r"\[plot\] opacity: expected a "):
        several.plot(opacity)


def test_plot_colours_what_was_found_and_nothing_else(several: Result) -> None:
    drawn = several.plot(opacity=1.0).array
    palette = np.array(several.palette)
    assert (drawn.shape, drawn.dtype) == ((100, 160, 3), np.uint8)
    np.testing.assert_array_equal(drawn[25, 40], palette[0])
    np.testing.assert_array_equal(drawn[25, 120], palette[1])
    np.testing.assert_array_equal(drawn[75, 40], COLORS[2])
    half = several.plot(opacity=0.5).array[25, 40]
    np.testing.assert_allclose(half, (palette[0] + COLORS[0]) / 2, atol=1)


def test_plot_names_classes_where_there_is_room() -> None:
    model = stub.predictor(labels=["red", "green", "background"])
    large, small = (model(blocks(*size)).plot(opacity=0).array for size in ((300, 400), (100, 110)))
    # White letters: pure colours have a channel at zero.
    assert (large[5:60, 30:140].min(2) > 150).any()
    assert not (small.min(2) > 150).any()


def test_plot_can_be_saved(several: Result, tmp_path: Any) -> None:
    picture = several.plot()
    picture.save(tmp_path / "overlay.png")
    np.testing.assert_array_equal(decode(tmp_path / "overlay.png"), picture.array)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (121, 1)])
def test_thin_images_can_be_drawn(size: tuple[int, int]) -> None:
    picture = stub.predictor()(np.full((*size, 3), 255, np.uint8)).plot()
    assert picture.array.shape == (*size, 3)


def test_failed_item_says_why(failed: Result) -> None:
    document = json.loads(failed.to_json())
    assert (document["source"], document["index"], document["size"]) == ("missing.jpg", 0, [0, 0])
    assert "cannot be read" in document["error"]
    for use in (failed.plot, failed.to_kaggle, lambda: failed.to_coco(1)):
        with pytest.raises(InputError, match="cannot be read"):
            use()


def test_missing_supervision_names_the_package(binary: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match="pip install supervision"):
        binary.to_supervision()


def test_supervision_gets_a_mask_and_a_box_per_class(
    several: Result, nothing: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("supervision")
    package.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", package)
    detections = several.to_supervision()
    assert (detections.mask.shape, detections.mask.dtype) == ((2, 100, 160), bool)
    np.testing.assert_array_equal(detections.mask[1], blocks().argmax(2) == 1)
    np.testing.assert_array_equal(detections.xyxy, [[0, 0, 160, 100], [80, 0, 160, 50]])
    assert detections.class_id.tolist() == [0, 1]
    empty = nothing.to_supervision()
    assert (empty.mask.shape, empty.xyxy.shape) == ((0, 30, 40), (0, 4))


@pytest.mark.parametrize("size", [(192, 256), (288, 384)])
def test_names_stand_on_a_dark_box_that_holds_all_of_them(size: tuple[int, int]) -> None:
    model = stub.predictor(labels=["vehicle", "gypsum wall", "background"])
    picture = blocks(*size) // 2 + 127  # bright, and of the same classes
    result = model(picture)
    drawn = result.plot(opacity=0).array
    dark = np.flatnonzero((drawn[:90] < 60).all(2).any(0))
    white = np.flatnonzero((drawn[:90] > 200).all(2).any(0))
    assert result.masks is not None
    assert len(result.masks.labels) == 2
    assert dark[0] < white[0]
    assert white[-1] < dark[-1]
    untouched = drawn[:90, dark[-1] + 1 :].min(2)
    assert untouched.max() < 200
