import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

import stub
from visdeploy import answers, cli, image, mask
from visdeploy.clean_up import clean
from visdeploy.engines.answering_file import _predicted
from visdeploy.errors import InputError
from visdeploy.instances import Instances, split
from visdeploy.prediction_files import PredictionFiles
from visdeploy.preprocess import prepare
from visdeploy.spec import Manifest, Spec
from visdeploy.types import Masks

Map = NDArray[np.uint8]
NOTHING = 9

SIDES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def maps(classes: int) -> st.SearchStrategy[Map]:
    """Small class maps; `NOTHING` is what has no class."""
    values = st.sampled_from([*range(classes), NOTHING])
    sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
    return sizes.flatmap(lambda size: arrays(np.uint8, size, elements=values, fill=st.nothing()))


def found_in(classes: Map) -> list[tuple[int, mask.Rle]]:
    return [(label, mask.encode(classes == label)) for label in np.unique(classes).tolist() if label != NOTHING]


def drawn(found: list[tuple[int, mask.Rle]], size: tuple[int, int]) -> Map:
    classes = np.full(size, NOTHING, np.uint8)
    for label, rle in found:
        classes[mask.decode(rle).view(bool)] = label
    return classes


def parts_of(pixels: NDArray[np.bool_], steps: tuple[tuple[int, int], ...]) -> list[set[tuple[int, int]]]:
    """The connected parts, by flooding: what the results are compared with."""
    left = {(int(y), int(x)) for y, x in np.argwhere(pixels)}
    parts = []
    while left:
        part, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy, dx in steps} & left
            left -= near
            border += near
        parts.append(part)
    return parts


def filled(classes: Map) -> Map:
    """The map without holes, by definition."""
    result = classes.copy()
    for part in parts_of(classes == NOTHING, SIDES):
        near = {(y + dy, x + dx) for y, x in part for dy, dx in SIDES} - part
        inside = all(0 <= y < classes.shape[0] and 0 <= x < classes.shape[1] for y, x in near)
        if inside and len(around := {int(classes[spot]) for spot in near}) == 1:
            for spot in part:
                result[spot] = around.copy().pop()
    return result


def without_small(classes: Map, min_area: int) -> Map:
    result = classes.copy()
    for label in set(np.unique(classes).tolist()) - {NOTHING}:
        for part in parts_of(classes == label, SIDES + CORNERS):
            for spot in part if len(part) < min_area else ():
                result[spot] = NOTHING
    return result


def painted(size: tuple[int, int], *shapes: tuple[slice, slice]) -> Map:
    pixels = np.zeros(size, np.uint8)
    for shape in shapes:
        pixels[shape] = 1
    return pixels


def of(pixels: Map) -> Instances:
    return split([(1, mask.encode(pixels))], pixels.shape, None)


# Parts


@settings(deadline=None, max_examples=60)
@given(maps(3))
def test_instances_are_the_connected_parts(classes: Map) -> None:
    found = split(found_in(classes), classes.shape, None)
    expected = [
        (label, part)
        for label in sorted(set(np.unique(classes).tolist()) - {NOTHING})
        for part in parts_of(classes == label, SIDES + CORNERS)
    ]
    assert len(found) == len(expected)
    union = np.full(classes.shape, NOTHING, np.uint8)
    for rle, label, area, box in zip(found.rle, found.labels, found.areas, found.boxes, strict=True):
        pixels = mask.decode(rle)
        assert rle == coco.encode(np.asfortranarray(pixels)) | {"size": [*classes.shape]}
        assert (int(label), {(int(y), int(x)) for y, x in np.argwhere(pixels)}) in expected
        assert area == pixels.sum()
        x, y, width, height = coco.toBbox(rle)
        np.testing.assert_array_equal(box, [x, y, x + width, y + height])
        union[pixels.view(bool)] = label
    np.testing.assert_array_equal(union, classes)
    order = [(label, -area) for label, area in zip(found.labels.tolist(), found.areas.tolist(), strict=True)]
    assert order == sorted(order)
    assert [found.labels.dtype, found.areas.dtype, found.boxes.dtype] == [np.int64, np.int64, np.float32]
    assert found.scores is None


def test_nothing_has_no_instances() -> None:
    for found in ([], [(1, mask.encode(np.zeros((4, 6), np.uint8)))]):
        none = split(found, (4, 6), None)
        assert (len(none), none.labels.shape, none.boxes.shape, none.contours()) == (0, (0,), (0, 4), [])
        assert none.labels.dtype == np.int64


def test_parts_of_one_area_come_as_they_stand_in_the_columns() -> None:
    found = of(painted((6, 9), np.s_[4:6, 0:1], np.s_[0:1, 2:4], np.s_[3:5, 2:3], np.s_[0:3, 7:9]))
    assert found.areas.tolist() == [6, 2, 2, 2]
    assert found.boxes[:, :2].tolist() == [[7, 0], [0, 4], [2, 0], [2, 3]]
    many = np.zeros((20, 40), np.uint8)
    many[::2, ::2] = many[1, ::4] = many[13, 2::6] = 1
    found = of(many)
    keys = np.stack([-found.areas, *found.boxes[:, :2].T], 1).tolist()
    assert len({key[0] for key in keys}) == 2
    assert keys == sorted(keys)


def test_a_run_goes_on_in_the_next_column_only_within_a_part() -> None:
    pixels = np.ones((4, 3), np.uint8)
    assert of(pixels).rle == [mask.encode(pixels)]
    # The bottom of a column and the top of the next one follow each other in the counts, and do not touch.
    apart = painted((3, 2), np.s_[2, 0], np.s_[0, 1])
    assert len(of(apart)) == 2


def test_255_classes() -> None:
    classes = np.arange(255, dtype=np.uint8).repeat(2)[:510].reshape(17, 30)
    found = split([(label, mask.encode(classes == label)) for label in range(255)], classes.shape, None)
    assert found.labels.tolist() == [*range(255)]
    assert found.areas.tolist() == [2] * 255


# Clean-up


@settings(deadline=None, max_examples=60)
@given(maps(1) | maps(3), st.integers(0, 6), st.booleans())
def test_clean_up_is_what_it_says(classes: Map, min_area: int, fill_holes: bool) -> None:
    expected = filled(classes) if fill_holes else classes
    expected = without_small(expected, min_area)
    expected = filled(expected) if fill_holes else expected
    cleaned = clean(found_in(classes), classes.shape, min_area=min_area, fill_holes=fill_holes)
    np.testing.assert_array_equal(drawn(cleaned, classes.shape), expected)
    assert [label for label, _ in cleaned] == [label for label, _ in found_in(expected)]
    assert clean(cleaned, classes.shape, min_area=min_area, fill_holes=fill_holes) == cleaned


def test_a_speck_in_an_object_becomes_the_object() -> None:
    classes = np.zeros((9, 9), np.uint8)
    classes[3:5, 3:5] = 1
    both = clean(found_in(classes), (9, 9), min_area=5, fill_holes=True)
    assert both == [(0, mask.encode(np.ones((9, 9), np.uint8)))]
    assert len(clean(found_in(classes), (9, 9), min_area=0, fill_holes=True)) == 2


def binary(**changes: Any) -> Manifest:
    return Manifest.parse({"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5} | changes)


@pytest.fixture
def spotted() -> Map:
    """A ring of 144 pixels around 25, and a spot of 6, as a picture that `stub` calls cars where it is red."""
    pixels = painted((64, 64), np.s_[4:17, 4:17], np.s_[40:42, 40:43])
    pixels[8:13, 8:13] = 0
    return np.stack([pixels * 255, pixels * 0, pixels * 0], -1)


@pytest.mark.parametrize("changes", [{}, {"resize": "tile", "size": 32}, {"labels": ["red", "green", "background"]}])
def test_the_manifest_and_the_caller_say_what_is_cleaned(spotted: Map, changes: dict[str, Any]) -> None:
    if len(changes.get("labels", ())) > 1:
        spotted = spotted.copy()
        spotted[..., 2] = np.where(spotted[..., 0], 0, 255)
    whole = stub.predictor(**changes)
    cleaning = stub.predictor(**changes, min_area=7, fill_holes=True)

    def area(model: Any, **asked: Any) -> list[int]:
        (streamed,) = model.stream([spotted], **asked)
        result = model(spotted, **asked)
        assert streamed.masks.rle == result.masks.rle
        return [mask.area(rle) for rle in result.masks.rle]

    assert area(whole) == area(cleaning, min_area=0, fill_holes=False) == [150]
    assert area(cleaning) == area(whole, min_area=7, fill_holes=True) == [169]
    assert area(whole, min_area=7) == area(cleaning, fill_holes=False) == [144]
    assert area(whole, fill_holes=True) == area(cleaning, min_area=6) == [175]
    assert area(whole, min_area=170, fill_holes=True) == []


def test_untouched_masks_cost_nothing(spotted: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("visdeploy.postprocess.clean", never)
    assert stub.predictor(min_area=1)(spotted).masks is not None
    with pytest.raises(AssertionError):
        stub.predictor(min_area=2)(spotted)


def test_recorded_answers_and_files_are_cleaned_alike(spotted: Map) -> None:
    model = stub.predictor(min_area=7, fill_holes=True)
    served = model(spotted).masks
    assert served is not None
    logits = model.engine.infer(spotted[None])[0]
    recorded = answers.read(logits, prepare(spotted, model.spec), model.spec)
    np.testing.assert_array_equal(recorded["classes"], served.to_numpy())

    text = np.frombuffer(mask.encode(spotted[..., 0] > 0)["counts"], np.uint8)
    parts = [np.array([1]), text, np.array([0, len(text)])]
    answered = _predicted([SimpleNamespace(numpy=lambda part=part: part) for part in parts], (64, 64), model.spec)
    assert isinstance(answered, Masks)
    assert (answered.rle, answered.labels.tolist()) == (served.rle, [1])


@pytest.mark.parametrize("options", [{"min_area": 9}, {"fill_holes": True}])
def test_clean_up_needs_a_background(options: dict[str, Any]) -> None:
    three = {"task": "segmentation", "labels": ["sky", "road", "car"], "size": 64, "mean": 0.5, "std": 0.5}
    with pytest.raises(InputError, match="min_area, fill_holes: expected a background among the labels"):
        Spec.parse(three | options)
    (name,) = options
    with pytest.raises(InputError, match=f"{name}: this model has no background"):
        stub.predictor(labels=three["labels"])(np.zeros((9, 9, 3), np.uint8), **options)
    # The two of one channel have one: what the channel does not find.
    assert Spec.parse(three | options | {"labels": ["left", "right"], "activation": "sigmoid"}).has_background


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_area": -1}, "min_area: expected a whole number of pixels, got -1"),
        ({"min_area": 2.5}, "min_area: expected a whole number of pixels, got 2.5"),
        ({"fill_holes": 1}, "fill_holes: expected True or False, got 1"),
    ],
)
def test_wrong_clean_up_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        stub.predictor()(np.zeros((9, 9, 3), np.uint8), **options)


def test_clean_up_is_of_masks_alone() -> None:
    with pytest.raises(InputError, match="min_area: only a segmenter has it; this model's task is detection"):
        stub.says(stub.TWO)(np.zeros((9, 9, 3), np.uint8), min_area=3)


# Outlines


@settings(deadline=None, max_examples=60)
@given(maps(2))
def test_polygons_are_drawn_as_the_masks_they_came_from(classes: Map) -> None:
    found = split(found_in(classes), classes.shape, None)
    for rle, polygons, outlines in zip(found.rle, found.polygons(), found.contours(), strict=True):
        (polygon,) = polygons
        assert len(polygon) >= 8
        for peer in (coco, mask):
            (again,) = peer.frPyObjects(polygons, *classes.shape)
            assert again["counts"] == rle["counts"]
        pixels = np.pad(mask.decode(rle), 1)
        assert len(outlines) - 1 == len(parts_of(pixels == 0, SIDES)) - 1
        doubled = [float(np.cross(_wide(loop), _wide(np.roll(loop, -1, 0)))[:, 2].sum()) for loop in outlines]
        assert doubled[0] < 0  # counterclockwise, where y points down
        assert all(area > 0 for area in doubled[1:])
        assert -sum(doubled) == 2 * mask.area(rle)


def _wide(points: NDArray[Any]) -> NDArray[np.float64]:
    return np.pad(points.astype(np.float64), ((0, 0), (0, 1)))


def test_outlines_of_single_pixels_lines_and_all() -> None:
    pixel, line, diagonal, whole = (
        of(pixels).polygons()[0][0]
        for pixels in (
            painted((5, 7), np.s_[2, 3]),
            painted((5, 7), np.s_[2, 1:6]),
            np.eye(3, dtype=np.uint8),
            np.ones((5, 7), np.uint8),
        )
    )
    assert sorted(zip(pixel[::2], pixel[1::2], strict=True)) == [(3, 2), (3, 3), (4, 2), (4, 3)]
    assert sorted(zip(line[::2], line[1::2], strict=True)) == [(1, 2), (1, 3), (6, 2), (6, 3)]
    assert sorted(zip(whole[::2], whole[1::2], strict=True)) == [(0, 0), (0, 5), (7, 0), (7, 5)]
    assert len(diagonal) == 2 * 12


def test_simplified_outlines_are_short_and_close() -> None:
    disk = cv2.circle(np.zeros((200, 220), np.uint8), (110, 100), 70, 1, -1)
    cv2.circle(disk, (110, 100), 20, 0, -1)
    found = of(disk)
    exact, simple = found.polygons()[0], found.polygons(1.5)[0]
    assert len(simple[0]) < len(exact[0]) / 6
    again = mask.frPyObjects(simple, *disk.shape)
    assert mask.iou(again, found.rle, [False])[0, 0] > 0.97
    # Nothing would be left of a pixel.
    assert of(painted((5, 5), np.s_[2, 2])).contours(3.0)[0][0].shape == (4, 2)


@pytest.mark.parametrize("epsilon", [-1, float("nan"), float("inf"), 1e300, True, "1", None])
def test_a_wrong_epsilon_is_refused(epsilon: Any) -> None:
    with pytest.raises(InputError, match="epsilon: expected a distance of 0 to 1e6 pixels"):
        of(np.ones((2, 2), np.uint8)).polygons(epsilon)


# Results


@pytest.fixture
def picture() -> Map:
    rng = np.random.default_rng(5)
    blurred = cv2.GaussianBlur(rng.normal(0, 1, (70, 90, 3)), (0, 0), 4)
    return cv2.normalize(blurred, np.empty(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.mark.parametrize(
    "changes",
    [{}, {"resize": "letterbox"}, {"labels": ["a", "b", "background"]}, {"activation": "none", "threshold": 0.01}],
)
def test_scores_are_mean_probabilities(picture: Map, changes: dict[str, Any]) -> None:
    masks = stub.predictor(**changes)(picture).masks
    assert masks is not None
    assert masks.logits is not None
    if len(masks.logits) > 1:
        masks.logits[...] *= 1000  # whose exp would overflow
    probability, found = np.atleast_3d(masks.probability().T).T, masks.instances()
    assert found.scores is not None
    assert len(found) > 3
    planes = found.labels if len(probability) > 1 else np.zeros(len(found), int)
    expected = [probability[c][mask.decode(rle).view(bool)].mean() for c, rle in zip(planes, found.rle, strict=True)]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-6)
    assert found.scores.dtype == np.float32


def test_tiles_of_several_classes_have_no_scores(picture: Map) -> None:
    result = stub.predictor(labels=["a", "b", "background"], resize="tile", size=32)(picture)
    assert result.masks is not None
    assert result.masks.instances().scores is None
    assert "score" not in result.to_coco(1, instances=True)[0]


def test_instances_can_be_cleaned(spotted: Map) -> None:
    result = stub.predictor()(spotted)
    assert result.masks is not None
    assert result.masks.instances().areas.tolist() == [144, 6]
    assert result.masks.instances(min_area=7, fill_holes=True).areas.tolist() == [169]
    for wrong in (-1, 2.5):
        with pytest.raises(InputError, match=r"\[instances\] min_area: expected a whole number"):
            result.masks.instances(min_area=wrong)  # type: ignore[arg-type]


def test_coco_annotations_of_parts(spotted: Map, tmp_path: Path) -> None:
    result = stub.predictor()(spotted)
    assert result.masks is not None
    large, small = result.to_coco(7, instances=True)
    assert small["bbox"] == [40, 40, 3, 2]
    assert (small["area"], small["category_id"], small["image_id"], small["iscrowd"]) == (6, 1, 7, 0)
    assert small["score"] == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert mask.area(large["segmentation"]) == 144
    polygons = result.masks.instances().to_coco(7, epsilon=0)
    assert mask.area(mask.frPyObjects(polygons[0]["segmentation"], 64, 64)).tolist() == [144]
    json.dumps([large, polygons])


def test_supervision_gets_parts(spotted: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("supervision")
    package.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", package)
    parts = stub.predictor()(spotted).to_supervision(instances=True)
    assert (parts.mask.shape, parts.mask.dtype, parts.mask.sum((1, 2)).tolist()) == ((2, 64, 64), bool, [144, 6])
    assert parts.xyxy[1].tolist() == [40, 40, 43, 42]
    assert parts.confidence.shape == parts.class_id.shape == (2,)


def test_parts_are_of_masks_alone() -> None:
    result = stub.says(stub.TWO)(np.zeros((9, 9, 3), np.uint8))
    for method in (lambda: result.to_coco(1, instances=True), lambda: result.to_supervision(instances=True)):
        with pytest.raises(InputError, match="instances: expected masks, whose parts they are"):
            method()


# Files


def test_predict_writes_parts_and_probabilities(
    spotted: Map, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image.write(tmp_path / "a.png", spotted)
    monkeypatch.setattr("visdeploy.predictor.load", lambda *_, **__: stub.predictor())
    (tmp_path / "stub.vdz").touch()
    words = "predict stub.vdz a.png --out out --instances --min-area 5 --fill-holes --probabilities --no-overlays"
    monkeypatch.setattr("sys.argv", ["visdeploy", *words.split()])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "2 parts -> out/ (coco.json, kaggle.csv, probabilities)" in capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [(entry["id"], entry["area"]) for entry in document["annotations"]] == [(1, 169), (2, 6)]
    gray = cv2.imread(str(tmp_path / "out" / "a-probability.png"), cv2.IMREAD_UNCHANGED)
    assert (gray.shape, gray.dtype) == ((64, 64), np.uint8)
    probability = stub.predictor()(spotted).masks.probability()  # type: ignore[union-attr]
    assert np.abs(gray - 255 * probability).max() <= 0.5 + 1e-4


def test_files_that_a_model_cannot_fill_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="instances: only masks have parts; this model's task is detection"):
        PredictionFiles(tmp_path / "out", stub.boxes_spec(), instances=True)
    with pytest.raises(InputError, match="probabilities: only a binary model's are written"):
        PredictionFiles(tmp_path / "out", stub.predictor(labels=["a", "b", "c"]).spec, probabilities=True)
    with pytest.raises(InputError, match=r"probabilities: .*; this model's task is detection"):
        PredictionFiles(tmp_path / "out", stub.boxes_spec(), probabilities=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.realdata
def test_parts_of_real_nuclei(data_dir: Path) -> None:
    nuclei = merged = 0
    for path in sorted((data_dir / "binary_nuclei" / "instances16").glob("*.png"))[::8]:
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        found = of((ids > 0).view(np.uint8))
        _, parts, stats, _ = cv2.connectedComponentsWithStats((ids > 0).view(np.uint8), connectivity=8)
        expected = {tuple(row) for row in stats[1:].tolist()}
        x1, y1, x2, y2 = found.boxes.T
        assert {*zip(x1, y1, x2 - x1, y2 - y1, found.areas, strict=True)} == expected
        drawn_again = [mask.frPyObjects(polygons, *ids.shape)[0] for polygons in found.polygons()]
        assert drawn_again == found.rle
        pairs = np.unique(np.stack([parts[ids > 0], ids[ids > 0]]), axis=1)
        in_part = np.bincount(pairs[0])
        nuclei, merged = nuclei + in_part.sum(), merged + in_part[in_part > 1].sum()
    # What touches is one part: to tell nuclei apart takes more than a mask of them all.
    assert 0.1 < merged / nuclei < 0.6
