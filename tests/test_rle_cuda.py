"""RLE encoding on an emulated CUDA device: what it promises beyond the answers of the CPU."""

import ctypes
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import cuda_arrays
from cuda_arrays import CudaArray
from visdeploy import mask, ops
from visdeploy.errors import CudaError, InputError

OUT_OF_MEMORY = 2
GUARD = 0xEE


pytestmark = cuda_arrays.NEEDS_KERNELS


@pytest.fixture(autouse=True)
def _an_order_of_threads(shim: ctypes.CDLL) -> None:
    shim.shim_set_seed(ctypes.c_uint64(1))


Mask = np.ndarray[Any, Any]
PATTERNS: dict[str, Callable[[int, int], Mask]] = {
    "zeros": lambda h, w: np.zeros((h, w), np.uint8),
    "ones": lambda h, w: np.ones((h, w), bool),
    "checkerboard": lambda h, w: (np.add.outer(np.arange(h), np.arange(w)) % 2).astype(bool),
    "noise": lambda h, w: np.random.default_rng(h * w).integers(0, 2, (h, w), np.uint8),
    "values": lambda h, w: np.random.default_rng(h * w).choice(np.uint8([1, 2, 255]), (h, w)),
    "sparse": lambda h, w: np.random.default_rng(h * w).random((h, w)) < 0.003,
}
SIDES = [1, 31, 32, 33, 63, 64, 65, 127, 128, 129]


def lent(n: int, capacity: int) -> tuple[Mask, Mask]:
    return np.full(capacity + 64, GUARD, np.uint8), np.full(n + 2, -1, np.int64)


def encode_into(op: Callable[..., Any], n: int, capacity: int) -> tuple[bytes, list[int]]:
    """What `op(out=...)` leaves in the text and the offsets, having checked what lies behind them."""
    text, offsets = lent(n, capacity)
    out = CudaArray(text[:capacity]), CudaArray(offsets[:-1])
    assert op(out=out) is out
    assert (text[capacity:] == GUARD).all()
    assert offsets[-1] == -1
    return text[:capacity].tobytes(), offsets[:-1].tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sides_around_words_and_warps(pattern: str) -> None:
    for height, width in itertools.product(SIDES, SIDES):
        m = PATTERNS[pattern](height, width)
        assert mask.encode(CudaArray(m)) == mask.encode(m)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("long", [1023, 1024, 1025])
def test_long_sides(pattern: str, long: int) -> None:
    for height, width in [(long, 1), (1, long), (long, 33), (33, long)]:
        m = PATTERNS[pattern](height, width)
        for laid in (m, np.asfortranarray(m), m[::-1], m[:, ::-1]):
            assert mask.encode(CudaArray(laid)) == mask.encode(m if laid.base is None else laid)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_large_mask(pattern: str) -> None:
    m = PATTERNS[pattern](1025, 1300)
    assert mask.encode(CudaArray(m)) == mask.encode(m)
    logits = np.where(m, np.float32(1), np.float32(-1))
    assert mask.encode_logits(CudaArray(logits)) == mask.encode(m > 0)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_any_order_of_threads(shim: ctypes.CDLL, seed: int) -> None:
    shim.shim_set_seed(ctypes.c_uint64(seed))
    rng = np.random.default_rng(seed)
    stack = rng.integers(0, 3, (5, 67, 131), np.uint8)
    assert mask.encode(CudaArray(stack), axis=0) == mask.encode(stack, axis=0)
    logits = rng.normal(size=(3, 33, 40)).astype(np.float32)
    assert mask.encode_logits(CudaArray(logits), (70, 65)) == mask.encode_logits(logits, (70, 65))
    assert_same_map(logits, (70, 65))


def assert_same_map(logits: Mask, size: tuple[int, int], valid: tuple[int, int] | None = None) -> None:
    labels, areas, rles = ops.semantic_map(logits, size, valid=valid)
    on_device = ops.semantic_map(CudaArray(logits), size, valid=valid)
    np.testing.assert_array_equal(on_device[0], labels)
    np.testing.assert_array_equal(on_device[1], areas)
    assert on_device[2] == rles


# Rounding makes of corners that are all 0.7 a value above it: what decides must be the corners, as on the CPU.
VALUES = {
    "equal corners": np.float32([0.7, 0.7, 0.7, 0.3]),
    "not finite": np.float32([np.nan, np.inf, -np.inf, -1, 0.7, 2, -0.0]),
    "huge": np.float32([3.4e38, -3.4e38, 1e38, 1e-45, -1e-45, 0]),
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (17, 23), (17, 64), (34, 46), (65, 130), (33, 11), (300, 257)])
def test_logits_to_the_last_bit(values: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for source in [(1, 1), (1, 9), (17, 1), (17, 23), (64, 65)]:
        base = rng.normal(size=source).astype(np.float32)
        # The second class wins everywhere, by so little that rounding makes ties of it.
        for logits in (rng.choice(VALUES[values], (2, *source)), np.stack([base, np.nextafter(base, np.float32(9))])):
            valid = (source[0] + 1) // 2, (source[1] + 1) // 2
            for laid in (logits, np.asfortranarray(logits), logits[:, ::-1, ::-1]):
                for threshold in (0.0, 0.7, 0.3, np.inf, -np.inf):
                    expected = mask.encode_logits(laid, size, threshold)
                    assert mask.encode_logits(CudaArray(laid), size, threshold) == expected
                assert mask.encode_logits(CudaArray(laid), size, valid=valid) == mask.encode_logits(
                    laid, size, valid=valid
                )
                assert_same_map(laid, size)
                assert_same_map(laid, size, valid)


def test_stacks_in_every_order_of_axes() -> None:
    for n, height, width in [(1, 40, 50), (40, 1, 50), (40, 50, 1), (33, 65, 34), (3, 4, 5)]:
        stack = np.random.default_rng(n).integers(0, 3, (n, height, width), np.uint8)
        expected = mask.encode(stack, axis=0)
        for axes in itertools.permutations(range(3)):
            laid = np.ascontiguousarray(stack.transpose(axes)).transpose(np.argsort(axes))
            assert mask.encode(CudaArray(laid), axis=0) == expected
            assert mask.encode(CudaArray(laid[::-1]), axis=0) == expected[::-1]
            logits = laid.astype(np.float32, order="K")
            assert mask.encode_logits(CudaArray(logits)) == mask.encode_logits(logits)
    assert (
        mask.encode(CudaArray(np.broadcast_to(np.uint8(1), (3, 40, 50))), axis=0)
        == [mask.encode(np.ones((40, 50), np.uint8))] * 3
    )


@pytest.mark.parametrize("shape", [(0, 5, 4), (3, 0, 4), (3, 5, 0), (0, 0, 0)])
def test_empty_stacks(shape: tuple[int, int, int]) -> None:
    stack = np.zeros(shape, np.uint8)
    expected = mask.encode(stack, axis=0)
    assert mask.encode(CudaArray(stack), axis=0) == expected
    text, offsets = encode_into(lambda out: mask.encode(CudaArray(stack), axis=0, out=out), shape[0], 8)
    assert offsets == list(range(shape[0] + 1))
    assert text[: shape[0]] == b"0" * shape[0]


def texts_of(rles: list[dict[str, Any]]) -> tuple[bytes, list[int]]:
    texts = [rle["counts"] for rle in rles]
    return b"".join(texts), [0, *itertools.accumulate(map(len, texts))]


def cases() -> dict[str, tuple[Callable[..., Any], list[dict[str, Any]]]]:
    rng = np.random.default_rng(0)
    stack = rng.random((5, 70, 90)) < 0.05
    logits = rng.normal(size=(4, 20, 30)).astype(np.float32)
    labels, areas = np.empty((50, 60), np.uint8), np.empty(4, np.int64)

    def map_into(out: Any = None) -> Any:
        if out is None:
            return ops.semantic_map(CudaArray(logits), (50, 60))[2]
        whole = CudaArray(labels), CudaArray(areas), *out
        assert ops.semantic_map(CudaArray(logits), (50, 60), out=whole) is whole
        expected = ops.semantic_map(logits, (50, 60))
        np.testing.assert_array_equal(labels, expected[0])
        np.testing.assert_array_equal(areas, expected[1])
        return out

    return {
        "encode": (lambda **out: mask.encode(CudaArray(stack), axis=0, **out), mask.encode(stack, axis=0)),
        "encode_logits": (
            lambda **out: mask.encode_logits(CudaArray(logits), (50, 60), **out),
            mask.encode_logits(logits, (50, 60)),
        ),
        "semantic_map": (map_into, ops.semantic_map(logits, (50, 60))[2]),
    }


OPS = ["encode", "encode_logits", "semantic_map"]


@pytest.mark.parametrize("name", OPS)
def test_what_is_lent_is_filled_without_waiting(shim: ctypes.CDLL, name: str) -> None:
    op, rles = cases()[name]
    expected, offsets = texts_of(rles)
    shim.shim_reset()
    for capacity in (len(expected), len(expected) + 1, 2 * len(expected)):
        text, found = encode_into(op, len(rles), capacity)
        assert found == offsets
        assert text[: len(expected)] == expected
        assert set(text[len(expected) :]) <= {GUARD}
    assert shim.shim_synchronizing_calls() == 0


@pytest.mark.parametrize("name", OPS)
def test_a_capacity_too_small_tells_the_one_needed(shim: ctypes.CDLL, name: str) -> None:
    op, rles = cases()[name]
    expected, offsets = texts_of(rles)
    # One byte too small, or room for every run but not for its text: the need is exact, and what fits is there.
    text, found = encode_into(op, len(rles), len(expected) - 1)
    assert found == offsets
    assert text[:-8] == expected[: len(text) - 8]
    # Less than a byte for each run: a bound, with which the next call does.
    for capacity in (0, 1, 31, 32, 33, len(rles)):
        text, found = encode_into(op, len(rles), capacity)
        assert set(text) <= {GUARD}
        assert found == sorted(found)
        assert len(expected) <= found[-1] <= 3 * len(expected)
        text, found = encode_into(op, len(rles), found[-1])
        assert found == offsets
        assert text[: len(expected)] == expected


def test_the_bound_holds_for_every_density() -> None:
    for density in (0, 1e-4, 0.01, 0.1, 0.5, 0.9, 1):
        m = np.random.default_rng(0).random((3, 200, 190)) < density
        expected, _ = texts_of(mask.encode(m, axis=0))
        _, found = encode_into(lambda out, m=m: mask.encode(CudaArray(m), axis=0, out=out), 3, 2)
        assert len(expected) <= found[-1]


@pytest.mark.parametrize("name", OPS)
def test_one_wait_and_no_new_memory_the_second_time(shim: ctypes.CDLL, name: str) -> None:
    op, rles = cases()[name]
    assert op() == rles
    live = shim.shim_live_allocations()
    shim.shim_reset()
    assert op() == rles
    assert shim.shim_synchronizing_calls() == 1
    assert shim.shim_fresh_allocations() == 0
    assert shim.shim_live_allocations() == live


def test_masks_with_more_runs_than_usual_are_encoded_twice(shim: ctypes.CDLL) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (500, 400), np.uint8)
    expected = mask.encode(noise)
    assert mask.encode(CudaArray(noise)) == expected
    shim.shim_reset()
    assert mask.encode(CudaArray(noise)) == expected
    assert shim.shim_synchronizing_calls() == 2
    assert shim.shim_fresh_allocations() == 0


@pytest.mark.parametrize("name", OPS)
def test_running_out_of_memory_anywhere_leaves_nothing_behind(shim: ctypes.CDLL, name: str) -> None:
    op, rles = cases()[name]
    assert op() == rles
    live = shim.shim_live_allocations()
    shim.shim_reset()
    assert op() == rles
    allocations = shim.shim_calls().count(b"cudaMallocFromPoolAsync")
    assert allocations > 5
    for k in range(1, allocations + 1):
        shim.shim_reset()
        shim.shim_fail(b"cudaMallocFromPoolAsync", k, OUT_OF_MEMORY)
        with pytest.raises(CudaError, match="cudaMallocFromPoolAsync failed: out of memory"):
            op()
        assert shim.shim_live_allocations() == live
    assert op() == rles


@pytest.mark.parametrize("shape", [(2**62, 1, 1), (2**40, 2**10, 2**10), (2**30, 1, 2**32 - 1)])
def test_more_masks_than_memory_are_refused(shim: ctypes.CDLL, shape: tuple[int, int, int]) -> None:
    live = shim.shim_live_allocations()
    with pytest.raises(CudaError, match="out of memory"):
        mask.encode(CudaArray(np.broadcast_to(np.uint8(1), shape)), axis=0)
    assert shim.shim_live_allocations() == live


def test_any_call_may_fail(shim: ctypes.CDLL) -> None:
    op, rles = cases()["encode"]
    assert op() == rles
    live = shim.shim_live_allocations()
    failed = 0
    for k in range(1, 40):
        shim.shim_reset()
        shim.shim_fail(b"", k, 719)
        try:
            assert op() == rles
        except CudaError:
            failed += 1
        shim.shim_reset()
        assert op() == rles
    assert failed > 10
    assert shim.shim_live_allocations() <= live + failed  # a call that frees fails as well


def test_in_a_graph_what_is_lent_can_be_used_and_waiting_is_refused(shim: ctypes.CDLL) -> None:
    stream = ctypes.c_void_p()
    assert shim.cudaStreamCreate(ctypes.byref(stream)) == 0
    assert stream.value is not None
    m = np.random.default_rng(0).random((50, 40)) < 0.1
    array = CudaArray(m, stream=stream.value)
    text, offsets = np.zeros(1000, np.uint8), np.zeros(2, np.int64)
    out = CudaArray(text, stream=stream.value), CudaArray(offsets, stream=stream.value)
    shim.shim_set_capturing(stream, 1)
    mask.encode(array, out=out)
    with pytest.raises(CudaError, match=r"cudaStreamSynchronize|cudaHostAlloc"):
        mask.encode(array)
    shim.shim_set_capturing(stream, 0)
    assert text[: offsets[1]].tobytes() == mask.encode(m)["counts"] == mask.encode(array)["counts"]
    assert shim.cudaStreamDestroy(stream) == 0


def test_threads_have_answers_of_their_own() -> None:
    stacks = [np.random.default_rng(i).random((i, 40, 50)) < 0.1 for i in range(1, 9)]
    expected = [mask.encode(stack, axis=0) for stack in stacks]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(lambda stack: mask.encode(CudaArray(stack), axis=0), stacks)) == expected


def test_refuses_what_is_lent_wrongly() -> None:
    m, logits = np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 5), np.float32)
    text, offsets = np.zeros(9, np.uint8), np.zeros(4, np.int64)
    for out, message in [
        ((CudaArray(text),), "expected a tuple of 2 arrays"),
        ((CudaArray(text.copy()), CudaArray(offsets[:3].copy())), r"expected shape \(4,\), got \(3,\)"),
        ((CudaArray(offsets.copy()), CudaArray(offsets.copy())), "expected uint8, got int64"),
        ((CudaArray(text.copy()), CudaArray(text.copy())), "expected int64, got uint8"),
        ((CudaArray(text.copy()[::2]), CudaArray(offsets.copy())), "contiguous"),
        ((CudaArray(text.copy(), device=1), CudaArray(offsets.copy())), "which is one on CUDA device 0, got one on"),
        ((text, CudaArray(offsets.copy())), "which is one on CUDA device 0, got one in CPU memory"),
    ]:
        with pytest.raises(InputError, match=message):
            mask.encode(CudaArray(m), axis=0, out=out)
        with pytest.raises(InputError, match=message):
            mask.encode_logits(CudaArray(logits), out=out)
    for call in (
        lambda out: mask.encode(m, out=out),
        lambda out: mask.encode_logits(logits, out=out),
        lambda out: ops.semantic_map(logits, (4, 5), out=(*out, *out)),
    ):
        with pytest.raises(InputError, match="out: expected None for arrays in CPU memory"):
            call((text, offsets))
