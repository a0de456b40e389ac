import json
import subprocess
import sys
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

# pycocotools' own, on NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("implementation"),
]

SIDES = [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 129]
LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "flipped rows": lambda m: np.ascontiguousarray(m[::-1])[::-1],
    "flipped columns": lambda m: np.asfortranarray(m[:, ::-1])[:, ::-1],
    "every second row": lambda m: np.repeat(m, 2, axis=0)[::2],
    "every second column": lambda m: np.repeat(m, 2, axis=1)[:, ::2],
    "every second row, F": lambda m: np.asfortranarray(np.repeat(m, 2, axis=0))[::2],
    "window, C": lambda m: np.pad(m, 3, constant_values=1)[3:-3, 3:-3],
    "window, F": lambda m: np.asfortranarray(np.pad(m, 3, constant_values=1))[3:-3, 3:-3],
}


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.normal(size=(height + 8, width + 8)), (0, 0), 2)
    return (noise[4:-4, 4:-4] > 0).astype(np.uint8)


def assert_same_as_pycocotools(m: np.ndarray) -> None:
    expected = coco.encode(np.asfortranarray(m))
    assert reference.encode(m) == expected
    for name, layout in LAYOUTS.items():
        laid = layout(m)
        laid.flags.writeable = False
        np.testing.assert_array_equal(laid, m)
        assert mask.encode(laid) == expected, name
    np.testing.assert_array_equal(mask.decode(expected), coco.decode(expected))
    np.testing.assert_array_equal(mask.decode(expected, order="C"), coco.decode(expected))
    np.testing.assert_array_equal(mask.decode(expected), reference.decode(expected))
    assert mask.area(expected) == coco.area(expected) == reference.area(expected)
    np.testing.assert_array_equal(mask.toBbox(expected), coco.toBbox(expected))
    uniform = coco.decode(expected)
    for order in ("row", "column"):
        text = mask.to_kaggle(expected, order=order)
        assert text == reference.to_kaggle(uniform, order=order)
        assert mask.from_kaggle(text, m.shape, order=order) == mask.encode(uniform)


@pytest.mark.parametrize("height", SIDES)
@pytest.mark.parametrize("width", SIDES)
def test_every_size_and_layout(height: int, width: int) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    shape = height, width
    assert_same_as_pycocotools(blobs(rng, height, width))
    assert_same_as_pycocotools(rng.integers(0, 2, shape, np.uint8))
    assert_same_as_pycocotools(rng.integers(0, 4, shape, np.uint8))
    assert_same_as_pycocotools(np.zeros(shape, np.uint8))
    assert_same_as_pycocotools(np.full(shape, 255, np.uint8))
    assert_same_as_pycocotools(rng.random(shape) < 0.02)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_any_mask(height: int, width: int, seed: int, values: int) -> None:
    assert_same_as_pycocotools(np.random.default_rng(seed).integers(0, values, (height, width), np.uint8))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (4, 0)])
def test_no_pixels(shape: tuple[int, int]) -> None:
    m = np.zeros(shape, np.uint8)
    rle = mask.encode(m)
    assert rle == coco.encode(np.asfortranarray(m)) == {"size": list(shape), "counts": b"0"}
    assert mask.decode(rle).shape == shape
    assert mask.area(rle) == 0
    np.testing.assert_array_equal(mask.toBbox(rle), np.zeros(4))
    for order in ("row", "column"):
        assert mask.to_kaggle(rle, order=order) == ""
        assert mask.from_kaggle("", shape, order=order) == rle


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_batches(threads: int | None) -> None:
    rng = np.random.default_rng(0)
    stack = np.stack([blobs(rng, 40, 50) for _ in range(5)], axis=-1)
    expected = coco.encode(np.asfortranarray(stack))
    assert mask.encode(stack, num_threads=threads) == expected
    assert mask.encode(np.asfortranarray(stack), num_threads=threads) == expected
    first = np.moveaxis(stack, -1, 0)
    assert mask.encode(first, axis=0) == mask.encode(np.ascontiguousarray(first), axis=0) == expected
    for order in ("F", "C"):
        np.testing.assert_array_equal(mask.decode(expected, order=order, num_threads=threads), stack)
        np.testing.assert_array_equal(mask.decode(expected, order=order, axis=0), first)
    assert mask.decode(expected).flags.f_contiguous
    assert mask.decode(expected, order="C", axis=0).flags.c_contiguous
    np.testing.assert_array_equal(mask.area(expected), coco.area(expected))
    np.testing.assert_array_equal(mask.toBbox(expected), coco.toBbox(expected))


def test_empty_lists() -> None:
    assert mask.encode(np.zeros((4, 3, 0), np.uint8)) == []
    assert mask.decode([]).shape == (0, 0, 0)
    assert mask.area([]).shape == (0,)
    assert mask.toBbox([]).shape == (0, 4)


def test_counts_of_every_kind() -> None:
    m = np.zeros((4, 3), np.uint8)
    m[1:3, 1] = 1
    rle = mask.encode(m)
    for counts in (rle["counts"].decode(), [5, 2, 5], (5, 2, 5), np.array([5, 2, 5]), [5, 2], [5, 1, 0, 1, 5]):
        np.testing.assert_array_equal(mask.decode({"size": [4, 3], "counts": counts}), m)


def test_large_masks_do_not_wrap() -> None:
    big = np.broadcast_to(np.uint8(1), (65536, 40000))
    rle = mask.encode(big.T)
    assert rle == {"size": [40000, 65536], "counts": reference.counts_to_bytes([0, 40000 * 65536])}
    assert mask.area({"size": [1 << 20, 1 << 20], "counts": [0, 1 << 40]}) == 1 << 40
    assert mask.area([{"size": [1 << 20, 1 << 20], "counts": [0, 1 << 40]}]).tolist() == [1 << 40]
    assert mask.toBbox({"size": [1 << 20, 1 << 20], "counts": [1 << 39, 1]}).tolist() == [1 << 19, 0, 1, 1]
    # 64 of these are 2**64 pixels.
    with pytest.raises(InputError, match="got more"):
        mask.area({"size": [2**31 - 1, 2**31 - 1], "counts": reference.counts_to_bytes([1 << 58] * 67)})


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (b"0?", "expected 0 to 12 for size .*, got 15"),
        (b"<<", "at most 12 pixels"),
        ([0, 13], "at most 12 pixels"),
        ([2**62, 2**62, 2**62], "at most 12 pixels"),
        ([2**70], "at most 64 bits"),
        ([5, -2, 5], "none below zero, got -2"),
        (b"0M", "got -3"),
        (b"P", "ends inside a number"),
        (b"0 <", "character 1"),
        (b"0\xff", "character 1"),
        (b"0\x00", "character 1"),
        ("0é", "character 1"),
        (b"0" + b"o" * 100, "too long"),
    ],
)
@pytest.mark.parametrize("op", [mask.decode, mask.area, mask.toBbox, mask.to_kaggle])
def test_malformed_counts(op: Any, counts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        op({"size": [4, 3], "counts": counts})


@pytest.mark.parametrize("at", [0, 1, 2, 3, 62, 63, 64, 65, 66, 128, 1021, 1024, 1025, 1088, 1089, 2500])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (b" ", r"character {at} is not one of COCO's"),
        (b"\xff", r"character {at} is not one of COCO's"),
        (b"M", r"none below zero, got -[23]"),
        (b"``c9", r"expected 0 to 5000 for size \[1, 5000\], got"),
        (b"P" * 6, r"ends inside a number"),
        (b"P" * 20 + b"0", r"the number that ends at character \d+ is too long"),
    ],
)
def test_faults_are_named_wherever_they_stand(at: int, fault: bytes, message: str) -> None:
    behind = b"" if fault == b"P" * 6 else b"0" * 100
    text = (b"111" + b"0" * 5000)[:at] + fault + behind
    for op in (mask.area, lambda rle: mask.merge([rle, rle])):
        with pytest.raises(InputError, match=message.format(at=at)):
            op({"size": [1, 5000], "counts": text})


def test_numbers_may_be_spelt_long() -> None:
    # As in pycocotools, more characters than a number needs change nothing.
    text = b"".join((b"S" if i < 3 else b"P") + b"P" * (i % 10) + b"0" for i in range(300))
    assert mask.area({"size": [30, 40], "counts": text}) == 450 == coco.area({"size": [30, 40], "counts": text})


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_are_refused(counts: bytes) -> None:
    try:
        assert mask.decode({"size": [6, 5], "counts": counts}).shape == (6, 5)
    except InputError:
        pass


@pytest.mark.parametrize("size", [[10**9, 10**9], [-1, 3], [2**40, 1], [3], [1, 2, 3], 7, [2**80, 1]])
def test_hostile_sizes(size: Any) -> None:
    with pytest.raises(InputError):
        mask.decode({"size": size, "counts": b"0"})
    with pytest.raises(InputError):
        mask.to_kaggle({"size": size, "counts": b"0"})


def test_decode_refuses_mixed_sizes() -> None:
    with pytest.raises(InputError, match="the same for all"):
        mask.decode([{"size": [4, 3], "counts": b"<"}, {"size": [3, 4], "counts": b"<"}])


@pytest.mark.parametrize("op", [mask.decode, mask.area, mask.toBbox, mask.to_kaggle])
@pytest.mark.parametrize("rle", [None, 3, (1, 2), {"size": [4, 3], "counts": None}, {"size": [4, 3], "counts": 3}])
def test_other_kinds_raise_type_error(op: Any, rle: Any) -> None:
    with pytest.raises(TypeError):
        op(rle)


@pytest.mark.parametrize(
    ("m", "message"),
    [
        (np.zeros((1, 1, 1, 1), np.uint8), r"^\[encode\] mask: expected 2-D or 3-D, got 4-D$"),
        (np.zeros(4, np.uint8), "got 1-D"),
        (np.zeros((2, 2)), "expected uint8 or bool, got float64"),
        (np.zeros((2, 2), np.int32), "expected uint8 or bool"),
        (np.zeros((2, 2), object), "expected uint8 or bool"),
    ],
)
def test_encode_refuses(m: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask.encode(m)


def test_encode_refuses_lists() -> None:
    with pytest.raises(TypeError, match="got list"):
        mask.encode([[1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "pairs"),
        ("1 2 3", "pairs"),
        ("1 x", "whole numbers, got 'x'"),
        ("1 2.5", "whole numbers"),
        ("1 99999999999999999999", "whole numbers"),
        ("0 2", "outside"),
        ("13 1", "outside"),
        ("-1 1", "outside"),
        ("1 13", "leaves"),
        ("1 0", "empty"),
        ("1 -1", "empty"),
        ("5 3 7 1", "overlaps"),
        ("5 3 1 1", "out of order"),
    ],
)
def test_malformed_kaggle(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask.from_kaggle(text, (4, 3))


def test_kaggle_reads_touching_runs_and_other_bases() -> None:
    m = np.zeros((4, 3), np.uint8)
    m.flat[2:6] = 1
    assert mask.from_kaggle(" 3 2\n5 2 ", (4, 3)) == mask.from_kaggle("2 4", (4, 3), base=0) == mask.encode(m)
    assert mask.to_kaggle(mask.encode(m), base=0) == "2 4"


def assert_logits(logits: np.ndarray, size: tuple[int, int], threshold: float = 0.0) -> None:
    rle = mask.encode_logits(logits, size, threshold)
    assert rle["size"] == list(size)
    decoded = mask.decode(rle)
    for values in (cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR), reference.upsample(logits, size)):
        wrong = decoded != (values > np.float32(threshold))
        assert (abs(values[wrong] - threshold) <= 1e-5 * abs(logits).max()).all()
    assert mask.encode(decoded) == rle


@pytest.mark.parametrize("source", [(1, 1), (1, 5), (7, 1), (8, 9), (33, 64), (65, 31)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 9), (31, 20), (64, 65), (130, 257)])
def test_logits_equal_cv2(source: tuple[int, int], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(source[0] + size[1])
    noise = rng.normal(size=source).astype(np.float32)
    for logits in (noise, cv2.GaussianBlur(noise, (0, 0), 2), np.full(source, 1, np.float32)):
        assert_logits(logits, size)
        assert_logits(logits, size, 0.3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_any_logits(h: int, w: int, height: int, width: int, seed: int) -> None:
    assert_logits(np.random.default_rng(seed).normal(size=(h, w)).astype(np.float32), (height, width))


def test_logits_of_any_layout() -> None:
    rng = np.random.default_rng(0)
    stack = cv2.GaussianBlur(rng.normal(size=(20, 30, 4)).astype(np.float32), (0, 0), 2)
    first = np.moveaxis(stack, -1, 0)
    expected = [mask.encode_logits(np.ascontiguousarray(x), (61, 77)) for x in first]
    assert mask.encode_logits(first, (61, 77)) == expected
    assert mask.encode_logits(first[:, ::-1, ::-1], (61, 77)) == [
        mask.encode_logits(np.ascontiguousarray(x[::-1, ::-1]), (61, 77)) for x in first
    ]


def test_logits_without_size_are_compared_as_they_are() -> None:
    logits = np.random.default_rng(0).normal(size=(33, 65)).astype(np.float32)
    assert mask.encode_logits(logits) == mask.encode(logits > 0)
    assert mask.encode_logits(logits, threshold=0.5) == mask.encode(logits > np.float32(0.5))
    assert mask.encode_logits(np.full((3, 4), 0.5, np.float32), threshold=0.5) == mask.encode(np.zeros((3, 4), bool))


def test_valid_leaves_padding_out() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 16, 24)).astype(np.float32)
    cut = np.ascontiguousarray(logits[:, :11, :17])
    assert mask.encode_logits(logits, (40, 50), valid=(11, 17)) == mask.encode_logits(cut, (40, 50))
    assert mask.encode_logits(logits, valid=(11, 17)) == mask.encode_logits(cut)


@pytest.mark.parametrize("size", [(9, 12), (27, 36), (40, 50), (5, 5)])
def test_logits_that_are_not_finite(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(9, 12)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.2] = np.nan
    logits[rng.random(logits.shape) < 0.1] = np.inf
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    assert mask.encode_logits(logits, size) == reference.encode_logits(logits, size)
    assert mask.area(mask.encode_logits(np.full((9, 12), np.nan, np.float32), size)) == 0


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (np.zeros((2, 2), np.float16), {}, "expected float32, got float16"),
        (np.zeros((2, 2)), {}, "expected float32, got float64"),
        (np.zeros(2, np.float32), {}, r"expected \(h, w\) or \(N, h, w\), got shape \(2,\)"),
        (np.zeros((0, 2), np.float32), {}, "at least one pixel"),
        (np.zeros((2, 2), np.float32), {"size": (0, 4)}, r"got \(0, 4\)"),
        (np.zeros((2, 2), np.float32), {"size": (10**9, 10**9)}, "size: expected"),
        (np.zeros((2, 2), np.float32), {"size": 4}, r"expected \(height, width\), got 4"),
        (np.zeros((2, 2), np.float32), {"valid": (3, 2)}, r"valid: expected 1 to \(2, 2\), got \(3, 2\)"),
    ],
)
def test_encode_logits_refuses(logits: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mask.encode_logits(logits, **options)


def test_module_is_light_and_names_itself() -> None:
    public = [getattr(mask, name) for name in mask.__all__ if name != "Rle"]
    assert {f.__module__ for f in public} == {"visdeploy.mask"}
    code = "import sys, visdeploy.mask; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "cv2", "pycocotools", "pydantic", "matplotlib"} & set(loaded)


def rles_in(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict) and {"size", "counts"} <= node.keys():
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [rle for child in children for rle in rles_in(child)]


@pytest.mark.realdata
def test_real_rles(data_dir: Path) -> None:
    rles = [
        rle for path in sorted((data_dir / "coco_rle").glob("*.json")) for rle in rles_in(json.loads(path.read_text()))
    ]
    assert len(rles) > 500
    for rle in rles:
        compressed = coco.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
        expected = coco.decode(compressed)
        decoded = mask.decode(rle)
        np.testing.assert_array_equal(decoded, expected)
        assert mask.encode(decoded) == mask.encode(np.ascontiguousarray(decoded)) == coco.encode(expected)
        assert mask.area(rle) == coco.area(compressed)
        np.testing.assert_array_equal(mask.toBbox(rle), coco.toBbox(compressed))
