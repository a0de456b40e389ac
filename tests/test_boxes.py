import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visdeploy import _core, ops, reference, tolerance
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("implementation")

SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65, 1000]
CODERS: list[dict[str, Any]] = [
    {"variances": (0.1, 0.2)},
    {"variances": (0.1, 0.15, 0.2, 0.3)},
    {"weights": (10, 10, 5, 5)},
    {"weights": (1.0, 2.0, 3.0, 0.7)},
]


def boxes(n: int, seed: int = 0, size: float = 300) -> np.ndarray:
    rng = np.random.default_rng([n, seed])
    corner = rng.uniform(0, size, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(0.01, 0.4, (n, 2)) * size], 1).astype(np.float32)


def offsets(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(0, 2, (*shape, 4)).astype(np.float32)


def assert_close(ours: np.ndarray, expected: np.ndarray) -> None:
    assert (ours.shape, ours.dtype) == (expected.shape, np.float32)
    scale = np.maximum(1, np.abs(expected).max(-1, keepdims=True, initial=0))
    np.testing.assert_array_less(np.abs(ours - expected), np.broadcast_to(tolerance.BOXES * scale, ours.shape))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("coder", CODERS)
def test_boxes_equal_reference(n: int, coder: dict[str, Any]) -> None:
    anchors, deltas = boxes(n), offsets(n)
    assert_close(ops.decode_boxes(deltas, anchors, **coder), reference.decode_boxes(deltas, anchors, **coder))
    assert_close(ops.encode_boxes(boxes(n, 1), anchors, **coder), reference.encode_boxes(boxes(n, 1), anchors, **coder))


@pytest.mark.parametrize("n", SIZES)
def test_boxes_equal_torchvision(n: int) -> None:
    torch = pytest.importorskip("torch")
    coder = pytest.importorskip("torchvision.models.detection._utils").BoxCoder((10.0, 10.0, 5.0, 5.0))
    anchors, deltas, truth = torch.from_numpy(boxes(n)), torch.from_numpy(offsets(n) * 8), torch.from_numpy(boxes(n, 1))
    ours = ops.decode_boxes(deltas, anchors, weights=(10, 10, 5, 5))
    assert type(ours) is torch.Tensor
    assert_close(ours.numpy(), coder.decode_single(deltas, anchors).numpy())
    ours = ops.encode_boxes(truth, anchors, weights=(10, 10, 5, 5))
    assert_close(ours.numpy(), coder.encode_single(truth, anchors).numpy())


@pytest.mark.parametrize("n", SIZES)
def test_boxes_equal_the_book(n: int) -> None:
    book = pytest.importorskip("book")
    import torch

    anchors, deltas, truth = (torch.from_numpy(x) for x in (boxes(n, size=1), offsets(n), boxes(n, 1, size=1)))
    decoded = ops.decode_boxes(deltas, anchors, variances=(0.1, 0.2))
    assert_close(decoded.numpy(), book.offset_inverse(anchors, deltas).numpy())
    encoded = ops.encode_boxes(truth, anchors, variances=(0.1, 0.2))
    assert_close(encoded.numpy(), book.offset_boxes(anchors, truth).numpy())


@pytest.mark.parametrize("coder", CODERS)
def test_bits_are_those_of_every_implementation(coder: dict[str, Any]) -> None:
    anchors, deltas, truth = boxes(1003), offsets(1003) * 3, boxes(1003, 1)
    decoded, encoded = ops.decode_boxes(deltas, anchors, **coder), ops.encode_boxes(truth, anchors, **coder)
    rule = coder.get("variances"), coder.get("weights")
    before = _core.isa()
    _core.set_isa("scalar")
    try:
        np.testing.assert_array_equal(decoded, _core.decode_boxes(deltas, anchors, *rule, None, None, None))
        np.testing.assert_array_equal(encoded, _core.encode_boxes(truth, anchors, *rule, None, None))
    finally:
        _core.set_isa(before)


def test_exp_and_log_are_rounded_correctly_nearly_always() -> None:
    x = np.random.default_rng(1).uniform(-85, 85, (20_000, 4)).astype(np.float32)
    unit = np.tile(np.float32([-0.5, -0.5, 0.5, 0.5]), (len(x), 1))
    x[:, :2] = 0
    width = ops.decode_boxes(x, unit, variances=(1, 1))[:, 2] * 2
    expected = np.exp(x[:, 2].astype(np.float64)).astype(np.float32)
    assert np.mean(width != expected) < 0.01
    np.testing.assert_array_less(np.abs(width / expected - 1), 1.3e-7)
    # The other way without the book's 1e-6, from boxes that are as wide as an exp.
    wide = np.stack([-expected / 2, unit[:, 1], expected / 2, unit[:, 3]], 1)
    logs = ops.encode_boxes(wide, unit, weights=(1, 1, 1, 1))[:, 2]
    exact = np.log((wide[:, 2] - wide[:, 0]).astype(np.float64)).astype(np.float32)
    assert np.mean(logs != exact) < 0.01
    np.testing.assert_allclose(logs, exact, rtol=1.3e-7)


def test_no_offset_is_the_anchor() -> None:
    anchors = np.float32([[0, 0, 10, 20], [-3, 4, 5, 6]])
    zero = np.zeros((2, 4), np.float32)
    for coder in CODERS:
        np.testing.assert_array_equal(ops.decode_boxes(zero, anchors, **coder), anchors)
    np.testing.assert_array_equal(ops.encode_boxes(anchors, anchors, weights=(10, 10, 5, 5)), zero)


def test_weights_hold_size_ratios_down_and_variances_do_not() -> None:
    anchor, huge = np.float32([[0, 0, 16, 16]]), np.float32([[0, 0, 1e9, 50]])
    by_weights = ops.decode_boxes(huge, anchor, weights=(10, 10, 5, 5))
    np.testing.assert_allclose(by_weights, [[-492, -492, 508, 508]], rtol=1e-6)
    by_variances = ops.decode_boxes(huge, anchor, variances=(0.1, 0.2))
    np.testing.assert_array_equal(by_variances[0, [0, 2]], [-np.inf, np.inf])
    assert by_variances[0, 3] == pytest.approx(8 + 8 * math.exp(10), rel=1e-6)


def test_clip() -> None:
    anchors, deltas = boxes(100), offsets(100) * 5
    free, clipped = (ops.decode_boxes(deltas, anchors, weights=(10, 10, 5, 5), clip=c) for c in (None, (200, 100.5)))
    np.testing.assert_array_equal(clipped, np.clip(free, 0, np.float32([100.5, 200, 100.5, 200])))
    assert (free != clipped).any()


@pytest.mark.parametrize("n", [0, 5, 40_000])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_batches_share_the_anchors(n: int, threads: int | None) -> None:
    anchors, deltas = boxes(n), offsets(3, n)
    for case in (anchors, anchors[None]):
        batch = ops.decode_boxes(deltas, case, variances=(0.1, 0.2), clip=(300, 300), num_threads=threads)
        assert batch.shape == deltas.shape
        for one, rows in zip(batch, deltas, strict=True):
            np.testing.assert_array_equal(one, ops.decode_boxes(rows, anchors, variances=(0.1, 0.2), clip=(300, 300)))
    assert ops.encode_boxes(deltas, anchors, weights=(1, 1, 1, 1), num_threads=threads).shape == deltas.shape


def test_any_memory(implementation: str) -> None:
    anchors, deltas = boxes(33), offsets(33)
    expected = ops.decode_boxes(deltas, anchors, variances=(0.1, 0.2))
    record = np.zeros(33, [("pad", "u1"), ("box", "<f4", 4)])
    record["box"] = anchors
    frozen = deltas.copy()
    frozen.flags.writeable = False
    for a, d in (
        (np.asfortranarray(anchors), frozen),
        (anchors[::-1].copy()[::-1], deltas[:, ::-1].copy()[:, ::-1]),
        # DLPack, by which arrays of a device come, knows no such record.
        (record["box"] if implementation != "cuda" else anchors, np.repeat(deltas, 2, 0)[::2]),
    ):
        np.testing.assert_array_equal(ops.decode_boxes(d, a, variances=(0.1, 0.2)), expected)
    row = np.broadcast_to(anchors[:1], (33, 4))
    np.testing.assert_array_equal(
        ops.decode_boxes(deltas, row, variances=(0.1, 0.2)), ops.decode_boxes(deltas, row.copy(), variances=(0.1, 0.2))
    )


@pytest.mark.parametrize("coder", CODERS)
def test_what_is_not_finite_equals_reference(coder: dict[str, Any]) -> None:
    values = np.float32([0, -0.0, 1, -1, np.nan, np.inf, -np.inf, 3e38, 1e-45])
    pairs = np.stack(np.meshgrid(values, values), -1).reshape(-1, 2)
    anchors = np.concatenate([pairs, np.roll(pairs, 5, 0)], 1)
    for shift in (0, 7, 40):
        deltas = np.roll(anchors[:, ::-1], shift, 0)
        np.testing.assert_allclose(
            ops.decode_boxes(deltas, anchors, **coder), reference.decode_boxes(deltas, anchors, **coder), rtol=1e-6
        )
        np.testing.assert_allclose(
            ops.encode_boxes(deltas, anchors, **coder), reference.encode_boxes(deltas, anchors, **coder), rtol=1e-6
        )


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(4)), elements=st.floats(-2, 2, width=32)),
    st.sampled_from(CODERS),
)
def test_encode_undoes_decode(deltas: np.ndarray, coder: dict[str, Any]) -> None:
    anchors = boxes(len(deltas))
    decoded = ops.decode_boxes(deltas, anchors, **coder)
    factor = 1 / np.float64(coder.get("variances") or 1 / np.float64(coder["weights"])).min()
    np.testing.assert_allclose(ops.encode_boxes(decoded, anchors, **coder), deltas, atol=factor * 3e-3)


A, D = np.zeros((3, 4), np.float32), np.zeros((2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.decode_boxes(A, A),
            r"\[decode_boxes\] expected exactly one of variances and weights, got neither",
        ),
        (
            lambda: ops.decode_boxes(A, A, variances=(0.1, 0.2), weights=(1, 1, 1, 1)),
            r"\[decode_boxes\] expected exactly one of variances and weights, got both",
        ),
        (
            lambda: ops.decode_boxes(A, A, variances=(0.1,)),
            r"\[decode_boxes\] variances: expected 2 or 4 numbers, got 1",
        ),
        (lambda: ops.encode_boxes(A, A, weights=(1, 1)), r"\[encode_boxes\] weights: expected 4 numbers, got 2"),
        (lambda: ops.encode_boxes(A, A, weights=(1, 1, 0, 1)), r"\[encode_boxes\] weights: expected positive numbers"),
        (lambda: ops.decode_boxes(A, A, variances=(0.1, np.nan)), r"\[decode_boxes\] variances: expected positive"),
        (lambda: ops.decode_boxes(A.astype(float), A, variances=(1, 1)), r"\[decode_boxes\] offsets: expected float32"),
        (lambda: ops.decode_boxes(A, A.astype("f2"), variances=(1, 1)), r"\[decode_boxes\] anchors: expected float32"),
        (lambda: ops.decode_boxes(A[0], A, variances=(1, 1)), r"\[decode_boxes\] offsets: expected \(N, 4\) or \(B"),
        (lambda: ops.decode_boxes(A[:, :3], A, variances=(1, 1)), r"\[decode_boxes\] offsets: expected \(N, 4\) or"),
        (
            lambda: ops.decode_boxes(A, D, variances=(1, 1)),
            r"\[decode_boxes\] anchors: expected \(N, 4\) or \(1, N, 4\)",
        ),
        (lambda: ops.encode_boxes(A[:2], A, variances=(1, 1)), r"\[encode_boxes\] boxes: expected one row per anchor"),
        (lambda: ops.decode_boxes(A, A, variances=(1, 1), clip=(-1, 5)), r"\[decode_boxes\] clip: expected \(H, W\)"),
        (lambda: ops.decode_boxes(A, A, variances=(1, 1), clip=(5, np.nan)), r"\[decode_boxes\] clip: expected \(H"),
        (lambda: ops.decode_boxes(A, A, variances=(1, 1), num_threads=0), r"\[decode_boxes\] num_threads: expected"),
    ],
)
def test_boxes_refuse(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        call()


def test_boxes_refuse_other_kinds() -> None:
    with pytest.raises(TypeError, match=r"^\[decode_boxes\] anchors: expected a NumPy array or .*, got list$"):
        ops.decode_boxes(A, [[0, 0, 1, 1]], variances=(1, 1))
