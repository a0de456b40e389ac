"""The kernels of the ops on anchors as callers on a device meet them: any size, lent arrays, failures."""

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

SIZES = [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025]
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
ODD = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30, 1e-30, 1e-45, 0, -0.0, -1])
MOST = 50  # detections


class Inputs:
    """What the ops take for n anchors and a batch; coarse, so that there are ties, or with odd values."""

    def __init__(self, n: int, batch: int = 2, kind: str = "plain") -> None:
        rng = np.random.default_rng([n, batch])
        corner = rng.random((n, 2))
        self.anchors = np.concatenate([corner, corner + 0.05 + 0.4 * rng.random((n, 2))], 1).astype(np.float32)
        self.offsets = rng.normal(0, 1, (batch, n, 4)).astype(np.float32)
        self.logits = rng.normal(0, 1.5, (batch, n, 5)).astype(np.float32)
        self.probs = rng.random((batch, 4, n)).astype(np.float32)
        rows = 1 + n % 40
        corner = rng.random((batch, rows, 2))
        boxes = [corner, corner + 0.05 + 0.4 * rng.random((batch, rows, 2))]
        self.labels = np.concatenate([rng.integers(-1, 3, (batch, rows, 1)), *boxes], 2).astype(np.float32)
        if kind == "coarse":
            for array, steps in ((self.anchors, 4), (self.offsets, 1), (self.logits, 1), (self.probs, 4)):
                array[:] = np.round(array * steps) / steps
            self.labels[..., 1:] = np.round(self.labels[..., 1:] * 4) / 4
        if kind == "odd":
            for array in (self.anchors, self.offsets, self.logits, self.probs, self.labels):
                where = rng.random(array.shape) < 0.03
                array[where] = rng.choice(ODD, where.sum())
        self.flat = self.offsets.reshape(batch, 4 * n)

    def on_device(self) -> "Inputs":
        device = object.__new__(Inputs)
        device.__dict__ = {name: CudaArray(array) for name, array in self.__dict__.items()}
        return device


Call = Callable[[Any, Inputs, Any], Any]
LENT: dict[str, Call] = {
    "decode": lambda core, x, out: core.decode_boxes(x.offsets, x.anchors, (0.1, 0.2), None, (0.9, 0.8), None, out),
    "encode": lambda core, x, out: core.encode_boxes(x.offsets, x.anchors, None, (10, 10, 5, 5), None, out),
    "multibox_detection": lambda core, x, out: core.multibox_detection(x.probs, x.flat, x.anchors, 0.5, 0.6, None, out),
    "detect": lambda core, x, out: core.detect(
        x.logits, x.offsets, x.anchors, (1, 1), (10, 10, 5, 5), 0.01, 0.45, 20, MOST, "torchvision", None, out
    ),
}
CALLS: dict[str, Call] = {
    **LENT,
    "multibox_target": lambda core, x, _: core.multibox_target(x.anchors, x.labels, True, None),
    "the book's": lambda core, x, _: core.multibox_target(x.anchors, x.labels, False, None),
}
# What each writes for a batch of n anchors.
SHAPES: dict[str, Callable[[int, int], list[tuple[tuple[int, ...], str]]]] = {
    "decode": lambda batch, n: [((batch, n, 4), "f4")],
    "encode": lambda batch, n: [((batch, n, 4), "f4")],
    "multibox_detection": lambda batch, n: [((batch, n, 6), "f4")],
    "detect": lambda batch, _: [
        ((batch, MOST, 4), "f4"),
        ((batch, MOST), "f4"),
        ((batch, MOST), "i8"),
        ((batch,), "i8"),
    ],
}


def assert_same(ours: Any, expected: Any) -> None:
    if isinstance(expected, (list, tuple)):
        assert len(ours) == len(expected)
        for x, y in zip(ours, expected, strict=True):
            assert_same(x, y)
        return
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)


def lent(name: str, batch: int, n: int) -> tuple[list[np.ndarray], Any]:
    """Arrays with guards around them, and what is passed as `out`."""
    guarded, out = [], []
    for shape, dtype in SHAPES[name](batch, n):
        size = int(np.prod(shape))
        guarded.append(np.full(size + 16, -7, dtype))
        out.append(CudaArray(guarded[-1][8 : 8 + size].reshape(shape)))
    return guarded, out[0] if len(out) == 1 else tuple(out)


@pytest.mark.parametrize("kind", ["plain", "coarse", "odd"])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", CALLS)
def test_any_size(name: str, n: int, kind: str) -> None:
    for seed, batch in enumerate([0, 1, 3] if n < 1000 else [2]):
        inputs = Inputs(n, batch, kind)
        cuda_arrays.shim().shim_set_seed(seed)
        assert_same(CALLS[name](cuda_arrays.OnCuda(), inputs, None), CALLS[name](_core, inputs, None))


def test_more_labels_than_anchors_and_more_than_a_block_has_threads() -> None:
    for n, rows in ((1, 3), (5, 300), (40, 270)):
        inputs = Inputs(n, 2, "coarse")
        inputs.labels = np.tile(inputs.labels, (1, rows, 1))[:, :rows]
        for name in ("multibox_target", "the book's"):
            assert_same(CALLS[name](cuda_arrays.OnCuda(), inputs, None), CALLS[name](_core, inputs, None))


@pytest.mark.parametrize("n", [1, 33, 300])
@pytest.mark.parametrize("name", LENT)
def test_lent_arrays_are_filled_and_no_more(name: str, n: int) -> None:
    inputs = Inputs(n)
    guarded, out = lent(name, 2, n)
    assert LENT[name](cuda_arrays.core(), inputs.on_device(), out) is out
    expected = LENT[name](_core, inputs, None)
    if name == "detect":
        counts = [len(one[1]) for one in expected]
        padded = []
        for k, (shape, dtype) in enumerate(SHAPES[name](2, n)[:3]):
            padded.append(np.zeros(shape, dtype))
            for image, count in enumerate(counts):
                padded[k][image, :count] = expected[image][k]
        expected = [*padded, np.array(counts)]
    for array, values in zip(guarded, expected if name == "detect" else [expected], strict=True):
        np.testing.assert_array_equal(array, np.concatenate([[-7] * 8, values.ravel(), [-7] * 8]))


@pytest.mark.parametrize("n", [0, 300])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_waits_but_for_counts_that_are_asked_for(name: str, n: int, shim: Any) -> None:
    device = Inputs(n).on_device()
    out = lent(name, 2, n)[1] if name in LENT else None
    shim.shim_reset()
    CALLS[name](cuda_arrays.core(), device, out)
    assert shim.shim_synchronizing_calls() == 0
    CALLS[name](cuda_arrays.core(), device, None)
    assert shim.shim_calls().count(b"cudaStreamSynchronize") == (name == "detect")


@pytest.mark.parametrize("name", LENT)
def test_a_graph_can_capture_it(name: str, shim: Any) -> None:
    stream = ctypes.c_void_p()
    assert shim.cudaStreamCreate(ctypes.byref(stream)) == 0
    device, (_, out) = Inputs(300).on_device(), lent(name, 2, 300)
    for array in (*device.__dict__.values(), *(out if isinstance(out, tuple) else (out,))):
        array.stream = stream.value
    shim.shim_set_capturing(stream, 1)
    LENT[name](cuda_arrays.core(), device, out)
    if name == "detect":
        with pytest.raises(CudaError, match="captur"):
            LENT[name](cuda_arrays.core(), device, None)
    shim.shim_set_capturing(stream, 0)
    shim.shim_reset()
    assert shim.cudaStreamDestroy(stream) == 0


@pytest.mark.parametrize("name", CALLS)
def test_repeated_calls_allocate_nothing_new(name: str, shim: Any) -> None:
    device = Inputs(300).on_device()
    out = lent(name, 2, 300)[1] if name in LENT else None
    CALLS[name](cuda_arrays.core(), device, out)
    live = shim.shim_live_allocations()
    shim.shim_reset()
    CALLS[name](cuda_arrays.core(), device, out)
    assert shim.shim_fresh_allocations() == 0
    assert shim.shim_live_allocations() == live


@pytest.mark.parametrize("function", ["cudaMallocFromPoolAsync", "cudaMemsetAsync", "cudaLaunchKernelEx"])
@pytest.mark.parametrize("name", CALLS)
def test_a_failure_anywhere_leaves_nothing_behind(name: str, function: str, shim: Any) -> None:
    inputs = Inputs(100)
    device, expected = inputs.on_device(), CALLS[name](_core, inputs, None)
    live = shim.shim_live_allocations()
    for k in range(1, 100):
        shim.shim_reset()
        shim.shim_fail(function.encode(), k, OUT_OF_MEMORY)
        try:
            found = CALLS[name](cuda_arrays.core(), device, None)
        except CudaError as error:
            assert "out of memory" in str(error)  # noqa: PT017
            assert shim.shim_live_allocations() == live
        else:
            break
    assert k < 99
    assert k > 1 or function == "cudaMemsetAsync"
    assert_same(found, expected)


def test_detections_share_the_memory_of_the_batch(shim: Any) -> None:
    """Views, each of which keeps it alive, and which is given back with the last of them."""
    inputs = Inputs(300)
    live = shim.shim_live_allocations()
    arrays = [cuda_arrays.core().DeviceArray(x) for x in (inputs.logits, inputs.offsets, inputs.anchors)]
    found = cuda_arrays.core().detect(*arrays, (1, 1), (10, 10, 5, 5), 0.01, 0.45, 20, MOST, "torchvision", None, None)
    expected = LENT["detect"](_core, inputs, None)
    assert shim.shim_live_allocations() == live + 3 + 3
    second = found[1]
    del found
    assert_same([x.numpy() for x in second], list(expected[1]))
    del second, arrays
    assert shim.shim_live_allocations() == live


def test_refuses() -> None:
    core, inputs = cuda_arrays.core(), Inputs(10)
    device, mixed = inputs.on_device(), inputs.on_device()
    fewer_anchors = inputs.on_device()
    mixed.anchors, fewer_anchors.anchors = inputs.anchors, Inputs(9).on_device().anchors
    for name in CALLS:
        with pytest.raises(InputError, match=r"expected an array where .* lies"):
            CALLS[name](core, mixed, None)
    for name in LENT:
        _, out = lent(name, 2, 10)
        with pytest.raises(InputError, match="out: expected None for arrays in CPU memory"):
            LENT[name](core, inputs, out)
        with pytest.raises(InputError, match=r"expected .* anchors|one row per anchor"):
            LENT[name](core, fewer_anchors, out)
        with pytest.raises(InputError, match="out: expected shape"):
            LENT[name](core, device, lent(name, 3, 10)[1])
    boxes, scores, labels, counts = lent("detect", 2, 10)[1]
    for out, message in (
        ((boxes, scores, labels), "out: expected a tuple of 4 arrays"),
        ((boxes, scores, scores, counts), "out: expected int64, got float32"),
        ((boxes, scores, labels, np.zeros(2, int)), "out: expected an array where"),
        ((boxes, CudaArray(np.zeros((2, 2 * MOST), "f4")[:, ::2]), labels, counts), "out: expected a contiguous array"),
    ):
        with pytest.raises(InputError, match=message):
            LENT["detect"](core, device, out)
