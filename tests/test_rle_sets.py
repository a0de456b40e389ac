import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from visdeploy import mask, reference
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("isa")

SIZES = [(1, 1), (1, 9), (7, 1), (8, 8), (9, 31), (33, 15), (63, 64), (64, 63), (65, 129), (130, 70)]


def masks_of(rng: np.random.Generator, height: int, width: int, n: int) -> list[dict[str, Any]]:
    """Blobs and noise, full and empty ones, everywhere or in a corner."""
    stack = []
    for i in range(n):
        noise = rng.normal(size=(height, width))
        m = (cv2.GaussianBlur(noise, (0, 0), 2) > 0.1) if i % 3 else noise > rng.normal()
        top, left = rng.integers(0, height), rng.integers(0, width)
        if i % 2:
            m[:top], m[:, :left] = 0, 0
        stack.append(m.astype(np.uint8))
    stack += [np.zeros((height, width), np.uint8), np.ones((height, width), np.uint8)]
    return coco.encode(np.asfortranarray(np.stack(stack, -1)))


def assert_iou(dt: Any, gt: Any, crowd: Any) -> None:
    expected = coco.iou(dt, gt, crowd)
    ours = mask.iou(dt, gt, crowd)
    assert type(ours) is type(expected)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(ours, reference.iou(dt, gt, crowd))
    if len(ours):
        assert ours.dtype == expected.dtype
        assert ours.flags.f_contiguous
        assert ours.strides == expected.strides
    np.testing.assert_array_equal(mask.iou(dt, gt, crowd, num_threads=3), ours)


def assert_merge(rles: list[dict[str, Any]]) -> None:
    for intersect in (False, True):
        expected = coco.merge(rles, intersect)
        assert mask.merge(rles, intersect) == expected == reference.merge(rles, intersect)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("m", "n"), [(0, 0), (1, 1), (4, 0), (3, 6), (7, 5)])
def test_iou_of_masks(size: tuple[int, int], m: int, n: int) -> None:
    rng = np.random.default_rng(size[0] * 100 + m)
    dt, gt = masks_of(rng, *size, m), masks_of(rng, *size, n)
    assert_iou(dt[:m], gt[:n], [0] * n)
    assert_iou(dt, gt, [i % 2 for i in range(n + 2)])
    assert_iou(dt[:1], gt, np.ones(n + 2, bool))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 20])
def test_merge(size: tuple[int, int], n: int) -> None:
    rles = masks_of(np.random.default_rng(size[1] * 100 + n), *size, n)
    assert_merge(rles[:n])
    assert_merge(rles)
    assert_merge(rles[:n] + rles[-1:])
    assert_merge([rles[0]] * n)


def test_merge_few_runs_in_a_large_image() -> None:
    empty = {"size": [3000, 4000], "counts": reference.counts_to_bytes([3000 * 4000])}
    dots = [{"size": [3000, 4000], "counts": reference.counts_to_bytes([k, 5, 12_000_000 - k - 5])} for k in range(9)]
    for n in range(1, 9):
        for rles in (dots[:n], [*dots[:n], empty]):
            for intersect in (False, True):
                assert mask.merge(rles, intersect) == coco.merge(rles, intersect)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_any_masks(height: int, width: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rles = masks_of(rng, height, width, n)
    assert_merge(rles)
    assert_iou(rles[: n // 2 + 1], rles, rng.integers(0, 2, n + 2))


def test_sizes_that_differ() -> None:
    a, b = masks_of(np.random.default_rng(0), 20, 30, 5), masks_of(np.random.default_rng(1), 30, 20, 5)
    assert_iou(a, b, [0] * 7)
    assert (mask.iou(a, b, [0] * 7) == -1).any()
    assert mask.merge([a[0], b[0]]) == coco.merge([a[0], b[0]]) == {"size": [0, 0], "counts": b""}
    assert mask.merge([a[0], a[1], b[0]]) == coco.merge([a[0], a[1], b[0]])
    assert mask.merge([]) == {"size": [0, 0], "counts": b""}


def runs(*counts: int, size: tuple[int, int] = (4, 5)) -> dict[str, Any]:
    return {"size": list(size), "counts": reference.counts_to_bytes(list(counts))}


def test_counts_that_fall_short_end_in_background() -> None:
    short, long, full = runs(3, 4), runs(2, 3, 1, 6), runs(2, 3, 1, 6, 8)
    assert mask.merge([short]) == short
    assert mask.merge([short, long]) == runs(2, 10)
    assert mask.merge([short, full]) == runs(2, 10, 8)
    assert mask.merge([short, long, full]) == runs(2, 10, 8)
    assert mask.merge([short, full], True) == runs(3, 2, 1, 1, 13)
    assert mask.merge([short, full, full], True) == runs(3, 2, 1, 1, 13)
    assert mask.iou([short], [full], [0]) == 3 / 10
    assert mask.iou([short] * 5, [full] * 5, [1] * 5).tolist() == [[3 / 4] * 5] * 5
    empty = {"size": [4, 5], "counts": b""}
    assert mask.iou([empty], [full], [0]) == 0
    assert mask.merge([empty, short]) == mask.merge([short, empty, empty]) == short


@pytest.mark.parametrize(
    "others", [[runs(20)], [runs(10, 10)], [runs(2, 9, 9)], [runs(20), runs(1, 1, 18)], [runs(20)] * 3, [runs(0, 20)]]
)
def test_runs_without_pixels_come_through_as_in_pycocotools(others: list[dict[str, Any]]) -> None:
    for odd in (runs(3, 0, 2, 15), runs(3, 4, 0, 4, 9), runs(0, 0, 20), runs(5, 15, 0), runs(5, 5, 10, 0)):
        for intersect in (False, True):
            assert mask.merge([odd, *others], intersect) == coco.merge([odd, *others], intersect)
        assert mask.merge([odd]) == coco.merge([odd]) == odd
        np.testing.assert_array_equal(
            mask.iou([odd], others, [0] * len(others)), coco.iou([odd], others, [0] * len(others))
        )


def test_rles_in_other_dress() -> None:
    rng = np.random.default_rng(3)
    a, b = masks_of(rng, 20, 30, 5)[:2]

    def dresses(rle: dict[str, Any]) -> list[dict[str, Any]]:
        counts = reference.counts_from_bytes(rle["counts"])
        return [
            {"size": rle["size"], "counts": rle["counts"].decode(), "id": 7},
            {"size": tuple(rle["size"]), "counts": rle["counts"]},
            {"size": np.array(rle["size"]), "counts": rle["counts"]},
            {"size": [np.int32(n) for n in rle["size"]], "counts": np.array(counts)},
            {"size": rle["size"], "counts": counts},
        ]

    for x, y in zip(dresses(a), dresses(b), strict=True):
        assert mask.merge([x, y]) == mask.merge((x, y)) == coco.merge([a, b])
        assert mask.iou([x], [y], [0]) == coco.iou([a], [b], [0])


def test_masks_of_many_pixels() -> None:
    size = [65535, 65536]
    end = {"size": size, "counts": reference.counts_to_bytes([65535 * 65536 - 7, 7])}
    near = {"size": size, "counts": reference.counts_to_bytes([65535 * 65536 - 9, 5, 4])}
    assert mask.iou([end], [near], [0]) == 3 / 9
    assert mask.iou([end] * 4, [near] * 4, [0] * 4).tolist() == [[3 / 9] * 4] * 4
    assert mask.merge([end, near]) == {"size": size, "counts": reference.counts_to_bytes([65535 * 65536 - 9, 9])}
    assert mask.merge([end, near, end], True) == coco.merge([end, near, end], True)
    wide = {"size": [1, 2**31 - 1], "counts": reference.counts_to_bytes([1, 2**31 - 2])}
    assert mask.iou([wide] * 5, [wide] * 5, [0] * 5).tolist() == [[1.0] * 5] * 5
    beyond = {"size": [65536, 65536], "counts": b"0"}
    for call in (lambda: mask.merge([beyond]), lambda: mask.iou([beyond], [end], [0])):
        with pytest.raises(InputError, match="at most 4294967295 pixels"):
            call()


VALUES = st.floats(-50, 50) | st.sampled_from([0.0, -0.0, 1e300, -1e300, np.inf, -np.inf, np.nan, 5e-324])
BOXES = st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@given(BOXES, BOXES, st.integers(0, 63))
def test_iou_of_boxes(dt: list[list[float]], gt: list[list[float]], bits: int) -> None:
    crowd = [bits >> i & 1 for i in range(len(gt))]
    assert_iou(dt, gt, crowd)
    assert_iou(np.array(dt), np.array(gt), np.array(crowd))
    assert_iou([np.array(box) for box in dt], np.array(gt), crowd)


def test_boxes_of_any_dtype_and_layout() -> None:
    boxes = np.random.default_rng(0).integers(0, 50, (12, 4))
    for dtype in (np.uint8, np.int32, np.int64, np.float32, np.float16, ">f8"):
        assert_iou(boxes.astype(dtype), boxes[:5].astype(dtype), [0] * 5)
    # pycocotools reads Fortran order as if it were C.
    expected = coco.iou(np.ascontiguousarray(boxes[::-2]), boxes, [0] * 12)
    np.testing.assert_array_equal(mask.iou(boxes[::-2], np.asfortranarray(boxes), [0] * 12), expected)
    assert_iou(boxes.tolist(), [list(map(float, b)) for b in boxes], [0] * 12)
    assert mask.iou(np.zeros((0, 4)), boxes, [0] * 12) == mask.iou([], boxes, [0] * 12) == mask.iou(boxes, [], []) == []


def test_memory_that_is_not_aligned() -> None:
    boxes = np.random.default_rng(0).uniform(0, 50, (12, 4))
    packed = np.zeros(12, [("flag", "u1"), ("box", "f8", 4)])
    packed["box"] = boxes
    assert not packed["box"].flags.aligned
    np.testing.assert_array_equal(mask.iou(packed["box"], packed["box"], [0] * 12), coco.iou(boxes, boxes, [0] * 12))
    assert mask.frPyObjects(packed["box"], 60, 70) == coco.frPyObjects(boxes, 60, 70)
    outline = np.zeros(1, [("flag", "u1"), ("xy", "f8", 6)])["xy"][0]
    outline[:] = boxes.ravel()[:6]
    assert not outline.flags.aligned
    assert mask.frPyObjects([outline], 60, 70) == coco.frPyObjects([outline.copy()], 60, 70)


def test_many_threads_at_once() -> None:
    rles = masks_of(np.random.default_rng(2), 64, 80, 20)
    expected, merged = coco.iou(rles, rles, [0] * 22), coco.merge(rles)
    with ThreadPoolExecutor(4) as pool:
        for values in pool.map(lambda _: mask.iou(rles, rles, [0] * 22, num_threads=2), range(20)):
            np.testing.assert_array_equal(values, expected)
        assert all(rle == merged for rle in pool.map(lambda _: mask.merge(rles), range(20)))


def test_a_list_that_changes_while_it_is_read() -> None:
    class Trap(list[float]):
        def __len__(self) -> int:
            boxes.clear()
            return 4

        def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
            boxes.clear()
            return np.zeros(4)

    boxes: list[Any] = [Trap(), *[[0.0, 0.0, 4.0, 4.0]] * 50]
    with pytest.raises((InputError, TypeError)):
        mask.iou(boxes, [[0.0, 0.0, 4.0, 4.0]], [0])


def test_boxes_of_torch() -> None:
    torch = pytest.importorskip("torch")
    boxes = np.random.default_rng(0).uniform(0, 50, (12, 4))
    expected = coco.iou(boxes, boxes[:5], [0] * 5)
    values = mask.iou(torch.from_numpy(boxes), torch.from_numpy(boxes[:5]), torch.zeros(5, dtype=torch.bool))
    assert isinstance(values, torch.Tensor)
    assert values.dtype == torch.float64
    np.testing.assert_array_equal(values.numpy(), expected)
    assert mask.iou(torch.zeros(0, 4), boxes[:5], [0] * 5) == []
    single = mask.iou(torch.from_numpy(boxes.astype(np.float32)), boxes[:5], [0] * 5)
    np.testing.assert_array_equal(single.numpy(), coco.iou(boxes.astype(np.float32), boxes[:5], [0] * 5))


@pytest.mark.parametrize(
    ("dt", "gt", "error", "message"),
    [
        (None, [], TypeError, "dt: expected a NumPy array"),
        ("ab", [], TypeError, "dt: expected a NumPy array"),
        ([1, 2, 3, 4], [[1, 2, 3, 4]], TypeError, "dt: expected RLEs, or boxes"),
        ([[1, 2, 3]], [[1, 2, 3, 4]], TypeError, "dt: expected RLEs, or boxes"),
        ([[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], TypeError, "gt: expected RLEs, or boxes"),
        ([[1, 2, 3, {}]], [[1, 2, 3, 4]], TypeError, "float"),
        ([[1, 2, 3, [4]]], [[1, 2, 3, 4]], InputError, "dt: "),
        ([[1, 2, 3, "x"]], [[1, 2, 3, 4]], InputError, "dt: could not convert"),
        ([[1, 2, 3, 10**400]], [[1, 2, 3, 4]], InputError, "dt: "),
        (np.zeros(4), [[1, 2, 3, 4]], InputError, r"dt: expected boxes of shape \(N, 4\), got shape \(4,\)"),
        (np.zeros((2, 5)), [[1, 2, 3, 4]], InputError, r"got shape \(2, 5\)"),
        (np.zeros(()), [[1, 2, 3, 4]], InputError, r"got shape \(\)"),
        ([runs(20)], [[1, 2, 3, 4]], TypeError, "both RLEs or both boxes"),
        ([runs(20), [1, 2, 3, 4]], [runs(20)], TypeError, "expected a dict"),
        ([runs(20)], [runs(20), runs(20)], InputError, "expected one for each of the 2 gt, got 1"),
        ([runs(21)], [runs(20)], InputError, "counts: expected 0 to 20"),
        ([runs(20)], [{"size": [4, 5]}], KeyError, "counts"),
    ],
)
def test_iou_refuses(dt: Any, gt: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mask.iou(dt, gt, [0])


@pytest.mark.parametrize("rles", [None, 5, "ab", runs(20), {}, [None], [b"<"], [[1, 2]]])
def test_merge_refuses(rles: Any) -> None:
    with pytest.raises(TypeError):
        mask.merge(rles)


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=4), st.sampled_from([(6, 5), (640, 480), (0, 3)]))
def test_any_bytes_are_read_as_elsewhere_or_refused(counts: list[bytes], size: tuple[int, int]) -> None:
    assert_read_as_elsewhere(counts, size)


@given(st.lists(st.text("01LMNOPno2349`abcdefgh", max_size=200), min_size=1, max_size=4))
def test_any_text_is_read_as_elsewhere_or_refused(counts: list[str]) -> None:
    assert_read_as_elsewhere([c.encode() for c in counts], (3000, 2000))


def assert_read_as_elsewhere(counts: list[bytes], size: tuple[int, int]) -> None:
    rles = [{"size": list(size), "counts": c} for c in counts]
    refusal = next((text for text in map(refusal_of, rles) if text), None)
    if refusal:
        for call in (lambda: mask.merge(rles), lambda: mask.iou(rles, rles, [0] * len(rles))):
            with pytest.raises(InputError) as raised:
                call()
            assert str(raised.value) == refusal
        return
    assert mask.iou(rles, rles, [0] * len(rles)).shape == (len(rles), len(rles))
    if size[0] * size[1] < 100:
        masks = [mask.decode(rle) for rle in rles]
        np.testing.assert_array_equal(mask.decode(mask.merge(rles)), np.maximum.reduce(masks))
        np.testing.assert_array_equal(mask.decode(mask.merge(rles, True)), np.minimum.reduce(masks))


def refusal_of(rle: dict[str, Any]) -> str | None:
    try:
        mask.area(rle)
    except InputError as error:
        return str(error)
    return None


def test_long_strings_are_read_in_blocks() -> None:
    rng = np.random.default_rng(5)
    for n in (1, 7, 8, 9, 62, 63, 64, 65, 66, 127, 128, 129, 1000):
        for top in (2, 20, 600, 30_000):
            counts = rng.integers(1, top, n).tolist()
            size = [sum(counts) + 3, 1]
            rle = {"size": size, "counts": reference.counts_to_bytes([*counts, 3])}
            assert mask.merge([rle]) == rle
            assert mask.merge([rle, rle]) == rle
            cut = {"size": size, "counts": rle["counts"][:-1] + b"o"}
            with pytest.raises(InputError, match="ends inside a number"):
                mask.merge([cut])
            foreign = {"size": size, "counts": rle["counts"][:-1] + b"\xf0"}
            with pytest.raises(InputError, match="is not one of COCO's"):
                mask.merge([foreign])


ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4) | st.binary(max_size=4),
    lambda children: (
        st.lists(children, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), children)
    ),
    max_leaves=20,
)


@given(ANY, ANY)
def test_anything_else_is_refused_clearly(a: Any, b: Any) -> None:
    for call in (
        lambda: mask.frPyObjects(a, 9, 10),
        lambda: mask.frPoly(a, 9, 10),
        lambda: mask.frBbox(a, 9, 10),
        lambda: mask.frUncompressedRLE(a, 9, 10),
        lambda: mask.merge(a),
        lambda: mask.iou(a, b, [0]),
        lambda: mask.iou([a], [b], [0]),
        lambda: mask.frPyObjects([[1.0] * 5, a], 9, 10),
    ):
        try:
            call()
        except (TypeError, ValueError, KeyError, OverflowError):
            pass


@pytest.mark.realdata
def test_real_masks_and_polygons(data_dir: Path) -> None:
    folder = data_dir / "coco_rle"
    found = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    objects: dict[int, list[Any]] = {}
    for annotation in truth["annotations"]:
        shape = annotation["segmentation"]
        size = sizes[annotation["image_id"]]
        expected = coco.frPyObjects(shape, *size)
        assert mask.frPyObjects(shape, *size) == expected
        if isinstance(shape, list):
            assert mask.merge(expected) == coco.merge(expected)
            assert mask.merge(expected, True) == coco.merge(expected, True)
        objects.setdefault(annotation["image_id"], []).append((expected, annotation["bbox"], annotation["iscrowd"]))
        box = np.array([annotation["bbox"]], np.float64)
        assert mask.frPyObjects(box, *size) == coco.frPyObjects(box, *size)
    for image, truths in objects.items():
        gt = [coco.merge(rles) if isinstance(rles, list) else rles for rles, _, _ in truths]
        dt = [f["segmentation"] for f in found if f["image_id"] == image]
        crowd = [c for _, _, c in truths]
        np.testing.assert_array_equal(mask.iou(dt, gt, crowd), coco.iou(dt, gt, crowd))
        boxes = [box for _, box, _ in truths]
        np.testing.assert_array_equal(mask.iou(boxes, boxes, crowd), coco.iou(boxes, boxes, crowd))
    rles = [f["segmentation"] for f in found]
    np.testing.assert_array_equal(
        mask.iou(rles, rles[:200], [0] * 200, num_threads=2), coco.iou(rles, rles[:200], [0] * 200)
    )
    same = [rle for rle in rles if rle["size"] == [480, 640]]
    for intersect in (False, True):
        for part in (same, same[:100], *pairwise(same), *zip(same, same[3:], same[9:], strict=False)):
            assert mask.merge(list(part), intersect) == coco.merge(list(part), intersect)
