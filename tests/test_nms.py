from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visdeploy import ops, reference
from visdeploy.errors import InputError

torch = pytest.importorskip("torch")
peer = pytest.importorskip("torchvision.ops")

pytestmark = pytest.mark.usefixtures("implementation")

THRESHOLDS = [-0.5, 0.0, 1e-9, 0.005, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0, 2.0]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 2.5, 1e-30, 1e-45, 1e30, 3e38, -3e38, np.inf, -np.inf, np.nan]


def boxes_of(kind: str, n: int, rng: np.random.Generator, dtype: Any = np.float32) -> np.ndarray:
    """Boxes as detectors make them, and as nobody should."""
    if kind == "clustered":
        centres = rng.random((n // 20 + 1, 4)) * 900
        near = np.repeat(centres, 20, axis=0)[:n]
        near[:, 2:] = near[:, :2] + 20 + near[:, 2:] / 10
        return (near + rng.normal(0, 3, (n, 4))).astype(dtype)
    corner = rng.random((n, 2)) * (1000 if kind != "grid" else 60)
    side = {
        "uniform": lambda: rng.random((n, 2)) * 100,
        "all sizes": lambda: 10 ** rng.uniform(-3, 3, (n, 2)),
        "thin": lambda: np.stack([10 ** rng.uniform(1, 3, n), 10 ** rng.uniform(-2, 0, n)], 1),
        "grid": lambda: rng.integers(0, 30, (n, 2)),
        "negative": lambda: rng.random((n, 2)) * 100,
    }[kind]()
    if kind == "grid":
        corner = np.floor(corner)
    if kind == "negative":
        corner -= 500
    return np.concatenate([corner, corner + side], 1).astype(dtype)


KINDS = ["uniform", "clustered", "all sizes", "thin", "grid", "negative"]


def check(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> None:
    expected = peer.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).numpy()
    np.testing.assert_array_equal(ops.nms(boxes, scores, threshold), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 100, 257, 1500])
def test_equals_torchvision(n: int, kind: str, dtype: Any) -> None:
    rng = np.random.default_rng(n)
    boxes, scores = boxes_of(kind, n, rng, dtype), rng.random(n).astype(dtype)
    for threshold in THRESHOLDS if n < 1000 else [0.02, 0.3, 0.5, 0.9]:
        check(boxes, scores, threshold)


@cache
def many(kind: str, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores, and what torchvision keeps, which takes it a while."""
    rng = np.random.default_rng(5)
    boxes, scores = boxes_of(kind, n, rng) * np.float32(2), rng.random(n).astype(np.float32)
    boxes[::50, 1] = np.nan
    return boxes, scores, peer.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5).numpy()


@pytest.mark.parametrize("kind", ["uniform", "clustered", "all sizes"])
def test_many_boxes(kind: str, implementation: str) -> None:
    boxes, scores, expected = many(kind, 7000 if implementation == "cuda" else 18_000)
    np.testing.assert_array_equal(ops.nms(boxes, scores, 0.5, num_threads=2), expected)
    limited = ops.nms(boxes, scores, 0.5, max_output=len(expected) // 2)
    np.testing.assert_array_equal(limited, expected[: len(expected) // 2])


@pytest.mark.parametrize("n", [6, 60, 500])
def test_equal_scores_keep_their_order(n: int) -> None:
    rng = np.random.default_rng(n)
    boxes = boxes_of("grid", n, rng)
    scores = rng.choice(np.array([0.25, 0.5, 0.0, -0.0, -1.0, np.nan, np.inf, -np.inf], np.float32), n)
    check(boxes, scores, 0.4)
    np.testing.assert_array_equal(ops.nms(boxes, scores, 0.4), reference.nms(boxes, scores, 0.4))


def nudged(box: np.ndarray, ulps: int) -> Iterator[np.ndarray]:
    for corner in range(4):
        for step in range(-ulps, ulps + 1):
            moved = box.copy()
            bits = moved.view(f"i{moved.itemsize}")
            bits[corner] += step
            yield moved


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_overlaps_within_three_ulps_of_the_threshold(dtype: Any) -> None:
    rng = np.random.default_rng(11)
    for _ in range(60):
        a = boxes_of("uniform", 1, rng, dtype)[0]
        b = a + (rng.normal(0, 10, 4) * rng.integers(0, 2, 4)).astype(dtype)
        for near in nudged(b, 3):
            pair = np.stack([a, near])
            iou = float(reference.box_iou(pair[:1], pair[1:])[0, 0])
            for threshold in (iou, np.nextafter(iou, 0), np.nextafter(iou, 1), float(np.float32(iou))):
                if np.isfinite(threshold):
                    check(pair, np.array([2, 1], dtype), threshold)


@pytest.mark.parametrize(("inter", "union", "threshold"), [(3, 10, 0.3), (7, 10, 0.7), (1, 2, 0.5), (1, 10, 0.1)])
def test_thresholds_are_doubles(inter: int, union: int, threshold: float) -> None:
    boxes = np.array([[0, 0, union, 1], [0, 0, inter, 1]], np.float32)
    for dtype in (np.float32, np.float64):
        check(boxes.astype(dtype), np.array([2, 1], dtype), threshold)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from(THRESHOLDS), st.booleans())
def test_any_numbers(seed: int, n: int, threshold: float, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.float64 if wide else np.float32
    boxes = boxes_of(KINDS[seed % len(KINDS)], n, rng, dtype)
    boxes[rng.random(len(boxes)) < 0.1, rng.integers(4)] = rng.choice(NUMBERS)
    boxes[rng.random(len(boxes)) < 0.1] = rng.choice(NUMBERS, 4)
    boxes[rng.random(len(boxes)) < 0.1] = boxes[0]
    check(boxes, rng.choice([0.1, 0.5, np.nan, 0.9, np.inf], len(boxes)).astype(dtype), threshold)


@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1e-6, 1e6, 1e17])
def test_any_scale(scale: float) -> None:
    rng = np.random.default_rng(3)
    boxes = (boxes_of("uniform", 600, rng) * np.float32(scale)).astype(np.float32)
    for threshold in (0.0, 1e-9, 0.3, 0.5):
        check(boxes, rng.random(600).astype(np.float32), threshold)


@pytest.mark.parametrize("huge", [1e145, 1e151, 1e300, 1e308])
def test_doubles_beyond_all_floats(huge: float) -> None:
    rng = np.random.default_rng(4)
    boxes = boxes_of("uniform", 500, rng, np.float64)
    far = rng.random(500) < 0.4
    boxes[far, 0] -= huge * rng.choice([1, 1.0001, 1.7], far.sum())
    boxes[rng.random(500) < 0.1] *= 1e-150
    for threshold in (0.02, 0.3, 0.5, 0.8):
        check(boxes, rng.random(500), threshold)


def test_a_few_odd_boxes_among_many(implementation: str) -> None:
    boxes, scores, _ = many("uniform", 7000 if implementation == "cuda" else 18_000)
    boxes = boxes.copy()
    boxes[::3000] = [0, 0, 1e-11, 1e-11]
    boxes[1::3000] = [1e9, 1e9, np.nextafter(np.float32(1e9), np.float32(2e9)), 2e9]
    expected = peer.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5).numpy()
    np.testing.assert_array_equal(ops.nms(boxes, scores, 0.5), expected)


def layouts(x: np.ndarray) -> Iterator[np.ndarray]:
    yield np.asfortranarray(x)
    yield np.repeat(x, 2, axis=0)[::2]
    yield x[::-1][::-1]
    packed = np.zeros(len(x), [("skip", "u1"), ("x", x.dtype, x.shape[1:])])
    packed["x"] = x
    yield packed["x"]
    frozen = x.copy()
    frozen.flags.writeable = False
    yield frozen


def test_any_layout(implementation: str) -> None:
    rng = np.random.default_rng(0)
    boxes, scores = boxes_of("clustered", 90, rng), rng.random(90).astype(np.float32)
    expected = ops.nms(boxes, scores, 0.5)
    for b, s in zip(layouts(boxes), layouts(scores), strict=True):
        if implementation == "cuda" and b.strides[0] % 4:
            continue  # which no array on a device can be
        np.testing.assert_array_equal(ops.nms(b, s, 0.5), expected)
    kept = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
    assert type(kept) is torch.Tensor
    np.testing.assert_array_equal(kept.numpy(), expected)


@pytest.mark.parametrize("score_threshold", [None, -1.0, 0.25, 0.5, 2.0])
@pytest.mark.parametrize("max_output", [None, 0, 1, 7, 1000])
def test_options(score_threshold: float | None, max_output: int | None) -> None:
    rng = np.random.default_rng(1)
    boxes = boxes_of("clustered", 300, rng)
    scores = rng.choice(np.array([0.1, 0.25, 0.5, 0.75, np.nan], np.float32), 300)
    labels = rng.integers(-3, 4, 300)
    options: dict[str, Any] = {"score_threshold": score_threshold, "max_output": max_output}
    expected = reference.nms(boxes, scores, 0.5, **options)
    np.testing.assert_array_equal(ops.nms(boxes, scores, 0.5, **options), expected)
    for mode in ("exact", "torchvision"):
        expected = reference.batched_nms(boxes, scores, labels, 0.5, mode=mode, **options)
        np.testing.assert_array_equal(ops.batched_nms(boxes, scores, labels, 0.5, mode=mode, **options), expected)


LABELS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "few": lambda rng, n: rng.integers(0, 5, n),
    "negative": lambda rng, n: rng.integers(-90, 90, n),
    "far apart": lambda rng, n: rng.choice(np.array([-(2**63), 0, 2**63 - 1, 7]), n),
    "one": lambda rng, n: np.full(n, 3),
}


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("n", [0, 1, 40, 700, 1000, 1001, 2500])
def test_batched(n: int, kind: str, threads: int | None) -> None:
    rng = np.random.default_rng(n)
    boxes, scores, labels = boxes_of("negative", n, rng), rng.random(n).astype(np.float32), LABELS[kind](rng, n)
    expected = reference.batched_nms(boxes, scores, labels, 0.3)
    np.testing.assert_array_equal(ops.batched_nms(boxes, scores, labels, 0.3, num_threads=threads), expected)
    kept = peer.batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), 0.3).numpy()
    ours = ops.batched_nms(boxes, scores, labels, 0.3, mode="torchvision", num_threads=threads)
    np.testing.assert_array_equal(ours, kept)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_batched_any_numbers(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = boxes_of("all sizes", n, rng)
    boxes[rng.random(n) < 0.1, rng.integers(4)] = rng.choice(NUMBERS)
    scores, labels = rng.random(n).astype(np.float32), rng.integers(0, 3, n)
    kept = peer.batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), 0.4).numpy()
    np.testing.assert_array_equal(ops.batched_nms(boxes, scores, labels, 0.4, mode="torchvision"), kept)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (7, 9), (33, 65), (300, 400)])
def test_box_iou(shape: tuple[int, int], dtype: Any) -> None:
    rng = np.random.default_rng(2)
    a, b = (boxes_of("all sizes", n, rng, dtype) for n in shape)
    a[rng.random(len(a)) < 0.1] = rng.choice(NUMBERS)
    expected = peer.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    for threads in (None, 1, 3):
        np.testing.assert_array_equal(ops.box_iou(a, b, num_threads=threads), expected)
    np.testing.assert_array_equal(reference.box_iou(a, b), expected)
    assert type(ops.box_iou(torch.from_numpy(a), torch.from_numpy(b))) is torch.Tensor


B, S, L = np.zeros((3, 4), np.float32), np.zeros(3, np.float32), np.zeros(3, np.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.nms(B[:, :3], S, 0.5), r"^\[nms\] boxes: expected \(N, 4\), got \(3, 3\)$"),
        (lambda: ops.nms(S, S, 0.5), r"^\[nms\] boxes: expected \(N, 4\), got \(3,\)$"),
        (lambda: ops.nms(B, S[:2], 0.5), r"^\[nms\] scores: expected \(3,\) for the boxes \(3, 4\), got \(2,\)$"),
        (lambda: ops.nms(B, S.astype(np.float64), 0.5), r"scores: expected float32 as the boxes are, got float64$"),
        (lambda: ops.nms(B.astype(int), S, 0.5), r"^\[nms\] boxes: expected float32 or float64, got int64$"),
        (lambda: ops.nms(B, S, np.nan), r"^\[nms\] iou_threshold: expected a number, got NaN$"),
        (lambda: ops.nms(B, S, 0.5, score_threshold=np.nan), r"^\[nms\] score_threshold: .* got NaN$"),
        (lambda: ops.nms(B, S, 0.5, max_output=-1), r"^\[nms\] max_output: expected None or at least 0, got -1$"),
        (lambda: ops.batched_nms(B, S, S, 0.5), r"^\[batched_nms\] labels: expected int64, got float32$"),
        (lambda: ops.batched_nms(B, S, L[:1], 0.5), r"^\[batched_nms\] labels: expected \(3,\) for the boxes"),
        (lambda: ops.batched_nms(B, S, L, 0.5, mode="fast"), r'mode: expected "exact" or "torchvision", got \'fast\'$'),
        (lambda: ops.batched_nms(B, S, L, 0.5, num_threads=0), r"num_threads: expected None or at least 1, got 0$"),
        (lambda: ops.box_iou(B, B.astype(np.float64)), r"^\[box_iou\] b: expected float32 as a is, got float64$"),
        (lambda: ops.box_iou(B, S), r"^\[box_iou\] b: expected \(M, 4\), got \(3,\)$"),
        (lambda: ops.box_iou(B > 0, B), r"^\[box_iou\] a: expected float32 or float64, got bool$"),
    ],
)
def test_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_refuses_lists() -> None:
    with pytest.raises(TypeError, match=r"^\[nms\] boxes: expected a NumPy array or .*, got list$"):
        ops.nms([[0, 0, 1, 1]], S, 0.5)
