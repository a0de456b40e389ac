"""The kernels of NMS as their callers on a device meet them: sizes around every block, lent arrays, failures."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cuda_arrays
from cuda_arrays import CudaArray
from visdeploy.errors import CudaError, InputError
from visdeploy.native import _core

pytestmark = cuda_arrays.NEEDS_KERNELS

SIZES = [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097]
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def boxes_of(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    corner = rng.random((n, 2)) * (100 if kind == "crowded" else 4000)
    boxes = np.concatenate([corner, corner + 5 + 40 * rng.random((n, 2))], 1).astype(np.float32)
    scores = rng.random(n).astype(np.float32)
    if kind == "odd":
        odd = [0, -0.0, 1e-30, 1e-45, 1e30, 3e38, -3e38, np.inf, -np.inf, np.nan]
        boxes[rng.random(n) < 0.1, rng.integers(4)] = rng.choice(odd)
        boxes[rng.random(n) < 0.05] = rng.choice(odd, 4)
        reversed_ = rng.random(n) < 0.1
        boxes[reversed_] = boxes[reversed_][:, [2, 3, 0, 1]]
        scores = rng.choice(np.float32([0.5, 0.25, 0, -0.0, -1, np.nan, np.inf]), n)
    if kind == "equal":
        boxes[:] = [1, 2, 30, 40]
        scores[:] = 0.5
    return boxes, scores


def call(name: str, *arguments: Any, seed: int = 0) -> np.ndarray:
    cuda_arrays.shim().shim_set_seed(seed)
    return getattr(cuda_arrays.OnCuda(), name)(*arguments)


@pytest.mark.parametrize("kind", ["crowded", "sparse", "odd", "equal"])
@pytest.mark.parametrize("n", SIZES)
def test_any_size(n: int, kind: str) -> None:
    boxes, scores = boxes_of(kind, n, np.random.default_rng(n))
    for seed, dtype in ((0, np.float32), (1, np.float64), (2, np.float32)):
        for threshold in (-0.2, 0.4) if n < 1000 else (0.4,):
            arguments = boxes.astype(dtype), scores.astype(dtype), threshold, None, None, None, None
            np.testing.assert_array_equal(call("nms", *arguments, seed=seed), _core.nms(*arguments))


@pytest.mark.parametrize("kind", ["crowded", "odd"])
@pytest.mark.parametrize("most", [None, 1, 64, 1025, 1100])
def test_rounds_stop_where_enough_are_kept(kind: str, most: int | None) -> None:
    boxes, scores = boxes_of(kind, 9000, np.random.default_rng(0))
    arguments = boxes, scores, 0.9, -0.5, most, None, None
    expected = _core.nms(*arguments)
    assert len(expected) > 1200 or len(expected) == most
    np.testing.assert_array_equal(call("nms", *arguments, seed=3), expected)


@pytest.mark.parametrize("mode", ["exact", "torchvision"])
@pytest.mark.parametrize("labels", [1, 2, 80, None])
@pytest.mark.parametrize("n", [65, 1000, 1001, 6000])
def test_any_number_of_labels(n: int, labels: int | None, mode: str) -> None:
    rng = np.random.default_rng(n)
    boxes, scores = boxes_of("odd", n, rng)
    ids = rng.integers(-(2**63), 2**63 - 1, n) if labels is None else rng.integers(0, labels, n)
    # Most boxes with the greatest label, which is also where those that are left out go.
    ids[rng.random(n) < 0.2] = 2**63 - 1
    for seed, options in enumerate([(None, None), (0.1, None), (0.3, 40)]):
        arguments = boxes, scores, ids, 0.3, mode, *options, None, None
        np.testing.assert_array_equal(call("batched_nms", *arguments, seed=seed), _core.batched_nms(*arguments))


def lent(capacity: int) -> tuple[np.ndarray, np.ndarray, tuple[CudaArray, CudaArray]]:
    """Room for so many indices with guards behind it, and for their count between two."""
    indices, count = np.full(capacity + 8, -7), np.full(3, -7)
    return indices, count, (CudaArray(indices[:capacity]), CudaArray(count[1:2]))


def arrays(n: int = 700) -> tuple[list[np.ndarray], list[CudaArray]]:
    rng = np.random.default_rng(5)
    boxes, scores = boxes_of("crowded", n, rng)
    host = [boxes, scores, rng.integers(0, 3, n)]
    return host, [CudaArray(array) for array in host]


CALLS: dict[str, Callable[[Any, Any, Any, Any, Any], Any]] = {
    "nms": lambda core, b, s, _, out: core.nms(b, s, 0.5, None, None, None, out),
    "exact": lambda core, b, s, ids, out: core.batched_nms(b, s, ids, 0.5, "exact", None, None, None, out),
    "torchvision": lambda core, b, s, ids, out: core.batched_nms(b, s, ids, 0.5, "torchvision", None, None, None, out),
}


@pytest.mark.parametrize("name", CALLS)
def test_lent_arrays_are_filled_and_no_more(name: str) -> None:
    host, device = arrays()
    expected = CALLS[name](_core, *host, None)
    for capacity in (0, 1, len(expected) - 1, len(expected), len(expected) + 5):
        indices, count, out = lent(capacity)
        assert CALLS[name](cuda_arrays.core(), *device, out) is out
        fit = min(capacity, len(expected))
        np.testing.assert_array_equal(indices[:fit], expected[:fit])
        np.testing.assert_array_equal(indices[fit:], -7)
        np.testing.assert_array_equal(count, [-7, len(expected), -7])


@pytest.mark.parametrize("n", [0, 700, 5000])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_waits_but_for_a_count_that_is_asked_for(name: str, n: int, shim: Any) -> None:
    _, device = arrays(n)
    _, _, out = lent(n)
    shim.shim_reset()
    CALLS[name](cuda_arrays.core(), *device, out)
    assert shim.shim_synchronizing_calls() == 0
    CALLS[name](cuda_arrays.core(), *device, None)
    assert shim.shim_calls().count(b"cudaStreamSynchronize") == 1


@pytest.mark.parametrize("name", CALLS)
def test_repeated_calls_allocate_nothing_new(name: str, shim: Any) -> None:
    _, device = arrays()
    _, _, out = lent(700)
    CALLS[name](cuda_arrays.core(), *device, out)
    live = shim.shim_live_allocations()
    shim.shim_reset()
    CALLS[name](cuda_arrays.core(), *device, out)
    assert shim.shim_fresh_allocations() == 0
    assert shim.shim_live_allocations() == live


@pytest.mark.parametrize("function", ["cudaMallocFromPoolAsync", "cudaMemsetAsync", "cudaLaunchKernelEx"])
@pytest.mark.parametrize("name", CALLS)
def test_a_failure_anywhere_leaves_nothing_behind(name: str, function: str, shim: Any) -> None:
    host, device = arrays()
    expected = CALLS[name](_core, *host, None)
    live = shim.shim_live_allocations()
    for k in range(1, 100):
        shim.shim_reset()
        shim.shim_fail(function.encode(), k, OUT_OF_MEMORY)
        try:
            kept = CALLS[name](cuda_arrays.core(), *device, None)
        except CudaError as error:
            assert "out of memory" in str(error)  # noqa: PT017
            assert shim.shim_live_allocations() == live
        else:
            break
    assert 1 < k < 99
    np.testing.assert_array_equal(kept, expected)


def test_refuses() -> None:
    core = cuda_arrays.core()
    host, (boxes, scores, labels) = arrays(10)
    _, _, (indices, count) = lent(10)
    elsewhere = CudaArray(host[1].copy(), device=1)
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: CALLS["nms"](_core, *host, (np.zeros(10, int), np.zeros(1, int))), r"^\[nms\] out: expected None for"),
        (lambda: CALLS["nms"](core, boxes, host[1], labels, None), r"scores: expected an array where boxes lies"),
        (lambda: CALLS["exact"](core, boxes, scores, host[2], None), r"labels: expected an array where boxes lies"),
        (lambda: CALLS["nms"](core, host[0], scores, labels, None), r"scores: expected an array where boxes lies"),
        (
            lambda: CALLS["nms"](core, boxes, elsewhere, labels, None),
            r"scores: expected an array where .* CUDA device 1",
        ),
        (lambda: CALLS["nms"](core, boxes, scores, labels, indices), r"^\[nms\] out: expected a tuple of 2 arrays$"),
        (lambda: CALLS["nms"](core, boxes, scores, labels, (boxes, count)), r"out: expected int64, got float32$"),
        (lambda: CALLS["nms"](core, boxes, scores, labels, (indices, indices)), r"out: expected shape \(1,\), got"),
        (lambda: CALLS["nms"](core, boxes, scores, labels, (host[2], count)), r"out: expected an array where"),
        (lambda: CALLS["nms"](core, scores, scores, labels, None), r"boxes: expected \(N, 4\), got \(10,\)$"),
    ]
    for attempt, message in refused:
        with pytest.raises(InputError, match=message):
            attempt()


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_lend_arrays_can_be_captured(name: str, shim: Any) -> None:
    host, _ = arrays(5000)
    stream = ctypes.c_void_p()
    assert shim.cudaStreamCreateWithFlags(ctypes.byref(stream), 1) == 0
    device = [CudaArray(array, stream=stream.value or 0) for array in host]
    out = tuple(CudaArray(np.zeros(n, int), stream=stream.value or 0) for n in (5000, 1))
    shim.shim_set_capturing(stream, 1)
    assert CALLS[name](cuda_arrays.core(), *device, out) is out
    with pytest.raises(CudaError, match="captur"):
        CALLS[name](cuda_arrays.core(), *device, None)
    shim.shim_set_capturing(stream, 0)
    np.testing.assert_array_equal(out[0].array[: out[1].array[0]], CALLS[name](_core, *host, None))
