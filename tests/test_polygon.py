from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import _mask as coco_native
from pycocotools import mask as coco

from visdeploy import mask, reference
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("isa")

SIZES = [(1, 1), (1, 9), (7, 1), (8, 8), (9, 31), (33, 15), (63, 64), (64, 63), (65, 129), (130, 70)]


def assert_polygons(polygons: list[Any], height: int, width: int) -> None:
    expected = coco.frPyObjects(polygons, height, width)
    assert mask.frPyObjects(polygons, height, width) == expected
    assert mask.frPoly(polygons, height, width) == expected
    assert reference.frPyObjects(polygons, height, width) == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("corners", [3, 4, 5, 12, 60])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_polygons(size: tuple[int, int], corners: int, spread: float) -> None:
    rng = np.random.default_rng(size[0] * 100 + corners)
    around = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    scale = np.array(size[::-1]) * spread
    for kind in range(4):
        radius = rng.uniform(0.2, 0.6, (corners, 1)) * scale
        points = scale / 2 + radius * np.stack([np.cos(around), np.sin(around)], -1)
        if kind == 1:
            points = rng.uniform(-0.3, 1.3, (corners, 2)) * scale
        if kind == 2:
            points = np.repeat(points.round(), 2, axis=0)
        if kind == 3:
            points = np.round(points * 5) / 5
        assert_polygons([points.ravel().tolist(), points[::-1].ravel()], *size)


COORDINATES = st.floats(-30, 60) | st.integers(-30, 60) | st.integers(-150, 300).map(lambda n: n / 5)


@given(
    st.lists(st.lists(COORDINATES, min_size=5, max_size=20), min_size=1, max_size=3),
    st.integers(1, 33),
    st.integers(1, 33),
)
def test_any_polygon(polygons: list[list[float]], height: int, width: int) -> None:
    assert_polygons(polygons, height, width)


@given(st.lists(st.floats(-2e4, 2e4), min_size=6, max_size=10))
@settings(max_examples=30)
def test_polygons_far_outside(polygon: list[float]) -> None:
    assert_polygons([polygon], 40, 50)


@given(
    st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES), min_size=1, max_size=4), st.integers(1, 40)
)
def test_boxes(boxes: list[tuple[float, ...]], width: int) -> None:
    array = np.array(boxes, np.float64)
    expected = coco.frPyObjects(array, 31, width)
    assert mask.frPyObjects(array, 31, width) == expected == reference.frPyObjects(array, 31, width)
    assert mask.frBbox(array, 31, width) == expected
    assert mask.frBbox(np.asfortranarray(array), 31, width) == expected
    assert mask.frBbox(np.repeat(array, 2, axis=0)[::2], 31, width) == expected


def test_short_polygons_behind_the_first_one_are_empty_masks() -> None:
    triangle = [1.0, 1.0, 8.0, 1.0, 4.0, 8.0]
    for odd in ([], [3.0], [3.0, 3.0], [3.0, 3.0, 9.0], [1.0, 1.0, 8.0, 8.0], [1, 1, 8, 8, 5]):
        expected = coco.frPyObjects([triangle, odd], 9, 10)
        assert mask.frPyObjects([triangle, odd], 9, 10) == expected


def test_images_without_pixels() -> None:
    triangle = [1.0, 1.0, 8.0, 1.0, 4.0, 8.0]
    for height, width in ((0, 0), (0, 5), (5, 0)):
        expected = [{"size": [height, width], "counts": b"0"}]
        assert mask.frPyObjects([triangle], height, width) == expected
        assert mask.frPyObjects(np.array([[1.0, 1, 3, 3]]), height, width) == expected


def test_gigantic_polygons_are_cut_off_at_once() -> None:
    far = 4e8
    everything = [{"size": [30, 40], "counts": reference.counts_to_bytes([0, 1200])}]
    assert mask.frPyObjects([[-far, -far, -far, far, far, far, far, -far]], 30, 40) == everything
    assert mask.frPyObjects(np.array([[-4e8, -4e8, 8e8, 8e8]]), 30, 40) == everything
    (half,) = mask.frPyObjects([[-far, -far, far, far, far, -far]], 40, 40)
    (nearer,) = coco.frPyObjects([[-1e4, -1e4, 1e4, 1e4, 1e4, -1e4]], 40, 40)
    assert half == nearer
    assert mask.frPyObjects([[far, far, far + 5, far, far, far + 5]], 30, 40) == [
        {"size": [30, 40], "counts": reference.counts_to_bytes([1200])}
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9, -1e9, 1e300, 429496730.0])
def test_coordinates_that_have_no_place(value: float) -> None:
    for i in range(6):
        polygon = [1.0, 1.0, 8.0, 1.0, 4.0, 8.0]
        polygon[i] = value
        with pytest.raises(InputError, match=rf"\[frPyObjects\] coordinate {i}: expected a finite number"):
            mask.frPyObjects([polygon], 9, 9)
    with pytest.raises(InputError, match="coordinate"):
        mask.frPyObjects(np.array([[1.0, 2.0, value, 3.0]]), 9, 9)


def test_outlines_too_long_to_draw() -> None:
    zigzag = [0.0, 0.0, 2e8, 1.0] * 3
    with pytest.raises(InputError, match="cross more than 16777216 pixel columns"):
        mask.frPyObjects([zigzag], 1, 2**31 - 1)


@pytest.mark.parametrize(
    "pyobj",
    [
        [],
        None,
        7,
        "abc",
        (1, 2),
        b"bytes",
        [1.0, 2.0, 3.0, 4.0],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0]],
        [[1.0, 2.0]] * 4,
        [[1.0, 2.0]] * 5,
        [[]],
        [None],
        [[None] * 5 + [{}]],
        [["a"] * 6],
        [["1", "2", "8", "2", "5", "7"]],
        ["1", "2", "8", "2", "5", "7"],
        ["123456"],
        [[1.0, 2.0, 3.0, 4.0, 5.0, [6.0]]],
        [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]],
        [np.zeros((6, 2))],
        [np.arange(6)],
        [np.arange(6, dtype=np.float32)],
        [[True, False, 3, 4, 5, 6]],
        [np.array([1 + 2j] * 6, object)],
        [[10**400] * 6],
        [{"a": 1}],
        [{"size": [4, 5]}],
        [{"counts": [20]}],
        [{"size": [4, 5], "counts": [20], "id": 1, "x": 2}],
        {"size": [4, 5]},
        {},
        {"size": [4, 5], "counts": [3, 4, 13]},
        {"size": [4, 5], "counts": np.array([3, 4, 13], np.int64)},
        {"size": (4, 5), "counts": (3, 4, 13)},
        {"size": [4, 5], "counts": b"34="},
        {"size": [4, 5], "counts": "34="},
        {"size": [4, 5], "counts": None},
        {"size": [4, 5], "counts": 7},
        {"size": [4, 5], "counts": [3, -1]},
        {"size": [4, 5], "counts": [2**33]},
        {"size": [4, 5], "counts": ["x"]},
        {"size": [], "counts": [3]},
        {"size": None, "counts": [3]},
        {"size": [-4, 5], "counts": [3]},
        [{"size": [4, 5], "counts": [20]}, {"size": [2, 2], "counts": [1, 3]}],
        [{"size": [4, 5], "counts": [20]}, None],
        np.zeros(4),
        np.zeros((2, 4), np.int64),
        np.zeros((2, 4), np.float32),
        np.zeros((2, 4), ">f8"),
        np.zeros((1, 2, 4)),
        np.zeros((0, 4)),
    ],
    ids=repr,
)
def test_frPyObjects_takes_and_refuses_what_pycocotools_does(pyobj: Any) -> None:
    try:
        expected = coco.frPyObjects(pyobj, 9, 10)
    except Exception as error:
        refused = error
    else:
        assert mask.frPyObjects(pyobj, 9, 10) == expected
        return
    if isinstance(pyobj, list) and not pyobj:
        assert mask.frPyObjects(pyobj, 9, 10) == []  # an IndexError there
        return
    with pytest.raises((TypeError, ValueError, KeyError)) as raised:
        mask.frPyObjects(pyobj, 9, 10)
    if isinstance(refused, TypeError):
        assert isinstance(raised.value, (TypeError, InputError))


@pytest.mark.parametrize(
    ("pyobj", "message"),
    [
        ([1.0, 2.0, 8.0, 2.0, 5.0, 7.0], "got a list of float; a single polygon goes into a list of its own"),
        ([[1.0, 2.0, 3.0, 4.0]], r"expected an \(N, 4\) float64 array, got list; wrap them in np.array"),
        ([[1.0, 2.0]], "polygons of at least three corners"),
        (7, r"expected an \(N, 4\) array of boxes, a list of polygons, or uncompressed RLEs, got int"),
    ],
)
def test_frPyObjects_says_what_it_takes(pyobj: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mask.frPyObjects(pyobj, 9, 10)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.zeros((2, 5)), r"expected boxes of shape \(N, 4\), got shape \(2, 5\)"),
        (np.zeros(4), r"got shape \(4,\)"),
        (np.zeros((2, 4), np.float32), r"expected float64, got float32; convert them with .astype\(np.float64\)"),
    ],
)
def test_boxes_refused(boxes: np.ndarray, message: str) -> None:
    for call in (mask.frPyObjects, mask.frBbox):
        with pytest.raises(InputError, match=message):
            call(boxes, 9, 9)


@pytest.mark.parametrize(("h", "w", "error"), [(-1, 5, InputError), (5, 2**40, InputError), (2**80, 1, InputError)])
@pytest.mark.parametrize("call", [mask.frPyObjects, mask.frPoly])
def test_sizes_refused(call: Any, h: int, w: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="h, w: expected"):
        call([[1.0, 1.0, 8.0, 1.0, 4.0, 8.0]], h, w)
    with pytest.raises(TypeError):
        call([[1.0, 1.0, 8.0, 1.0, 4.0, 8.0]], 5.0, 5)
    with pytest.raises(TypeError):
        call([[1.0, 1.0, 8.0, 1.0, 4.0, 8.0]], 5, None)


def test_uncompressed() -> None:
    rles = [{"size": [4, 5], "counts": [3, 4, 13]}, {"size": [2, 3], "counts": [0, 6]}]
    expected = coco_native.frUncompressedRLE(rles, 1, 1)
    assert mask.frUncompressedRLE(rles, 1, 1) == expected == reference.frUncompressedRLE(rles, 1, 1)
    assert mask.frPyObjects(rles, 1, 1) == expected
    assert mask.frPyObjects(rles[0], 1, 1) == expected[0]
    with pytest.raises(InputError, match="compressed already"):
        mask.frUncompressedRLE(expected, 1, 1)
    with pytest.raises(InputError, match="at most 4294967295 pixels, got 4294967296"):
        mask.frUncompressedRLE([{"size": [2**31 - 1, 2**31 - 1], "counts": [2**32]}], 1, 1)
    with pytest.raises(TypeError):
        mask.frUncompressedRLE([7], 1, 1)


@pytest.mark.realdata
def test_real_outlines_of_the_coco_folder(data_dir: Path) -> None:
    files = sorted((data_dir / "coco" / "inst_yoloseg").rglob("*.txt"))
    polygons = [
        (np.array(line.split()[1:], np.float64).reshape(-1, 2) * [640, 427]).ravel().tolist()
        for path in files
        for line in path.read_text().splitlines()
    ]
    polygons = [polygon for polygon in polygons if len(polygon) > 4]
    assert len(polygons) > 500
    assert mask.frPyObjects(polygons, 427, 640) == coco.frPyObjects(polygons, 427, 640)
    assert mask.frPoly(polygons[:20], 427, 640) == reference.frPoly(polygons[:20], 427, 640)
