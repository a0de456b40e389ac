"""What the bindings do with arrays on a device, seen through one op or two: places, streams, lifetimes, errors."""

import ctypes
import gc
import os
from typing import Any

import numpy as np
import pytest

import cuda_arrays
from cuda_arrays import CudaArray
from visdeploy import gpu_check, mask, ops
from visdeploy.errors import CudaError, InputError, MissingDependencyError, UnsupportedError

OUT_OF_MEMORY, INVALID_VALUE = 2, 1


pytestmark = [cuda_arrays.NEEDS_KERNELS, pytest.mark.usefixtures("shim")]


def streams(kind: bytes) -> list[str]:
    """The streams of the calls of a kind since the reset, in hexadecimal."""
    calls = [line.split() for line in cuda_arrays.shim().shim_calls().splitlines()]
    return [stream.decode() for name, stream in calls if name.startswith(kind)]


def make_stream() -> int:
    handle = ctypes.c_void_p()
    assert cuda_arrays.shim().cudaStreamCreateWithFlags(ctypes.byref(handle), 1) == 0
    assert handle.value
    return handle.value


def some_boxes(n: int = 40) -> tuple[Any, Any]:
    (boxes, scores, _), _ = gpu_check.OPS["nms"][1](n, 0)
    return boxes, scores


def test_work_goes_to_the_stream_of_the_first_array() -> None:
    stream = make_stream()
    boxes, scores = some_boxes()
    kept = ops.nms(CudaArray(boxes, stream=stream), CudaArray(scores, stream=stream), 0.5)
    assert set(streams(b"cudaLaunch")) == set(streams(b"cudaMallocFromPool")) == {f"{stream:#x}"}
    np.testing.assert_array_equal(kept, gpu_check.OPS["nms"][0](boxes, scores, 0.5))


def test_it_waits_for_the_streams_of_the_others() -> None:
    first, second = make_stream(), make_stream()
    boxes, scores = some_boxes()
    ops.nms(CudaArray(boxes, stream=first), CudaArray(scores, stream=second), 0.5)
    events = list(zip(streams(b"cudaEventRecord"), streams(b"cudaStreamWaitEvent"), strict=True))
    there, back = (f"{second:#x}", f"{first:#x}"), (f"{first:#x}", f"{second:#x}")
    # The last is of him who takes the answer, on the default stream.
    assert events[0] == there
    assert events[-2:] == [back, (f"{first:#x}", "0")]
    order = cuda_arrays.shim().shim_calls().decode()
    assert order.rindex(f"cudaLaunchKernelEx {first:#x}") < order.rindex(f"cudaStreamWaitEvent {second:#x}")
    assert set(streams(b"cudaLaunch")) == {f"{first:#x}"}


def test_who_lends_out_waits_for_what_is_written_to_it() -> None:
    first, second = make_stream(), make_stream()
    out = CudaArray(np.zeros(3, np.float32), stream=second)
    assert ops.null(CudaArray(np.ones(3, np.float32), stream=first), out=out) is out
    calls = cuda_arrays.shim().shim_calls().decode()
    assert calls.index(f"cudaStreamWaitEvent {first:#x}") < calls.index(f"cudaLaunchKernelEx {first:#x}")
    assert calls.rindex(f"cudaStreamWaitEvent {second:#x}") > calls.index(f"cudaLaunchKernelEx {first:#x}")


def test_a_consumer_on_another_stream_waits_for_the_result() -> None:
    stream = make_stream()
    answer = ops.null(cuda_arrays.core().DeviceArray(np.ones(3, np.float32)))
    cuda_arrays.shim().shim_reset()
    answer.__dlpack__(stream=-1)
    assert streams(b"cudaEventRecord") == []
    answer.__dlpack__(stream=stream)
    assert streams(b"cudaStreamWaitEvent") == [f"{stream:#x}"]


def test_memory_lives_as_long_as_the_result_and_no_longer() -> None:
    shim = cuda_arrays.shim()
    before = shim.shim_live_allocations()
    array = cuda_arrays.core().DeviceArray(np.arange(5, dtype=np.float32))
    answer = ops.null(array)
    capsules = answer.__dlpack__(), answer.__dlpack__(max_version=(1, 0))
    assert shim.shim_live_allocations() == before + 2
    del array, answer
    gc.collect()
    assert shim.shim_live_allocations() == before + 1
    del capsules
    gc.collect()
    assert shim.shim_live_allocations() == before


def test_a_device_array_goes_there_and_back() -> None:
    for dtype in (np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64):
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)[:, ::-1]
        back = cuda_arrays.core().DeviceArray(array, 1).numpy()
        np.testing.assert_array_equal(back, array)
        assert back.dtype == dtype
    with pytest.raises(InputError, match=r"^\[DeviceArray\] array: expected a dtype that the ops take, got complex128"):
        cuda_arrays.core().DeviceArray(np.zeros(3, complex))


def test_a_device_array_stays_where_it_is() -> None:
    array = cuda_arrays.core().DeviceArray(np.ones(3, np.float32))
    array.__dlpack__(dl_device=(2, 0), copy=False)
    for wish in ({"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError, match=r"^\[DeviceArray\] expected to be taken where it is; \.numpy\(\) copies"):
            array.__dlpack__(**wish)


def test_memory_that_cannot_be_freed_is_not_the_next_ops_fault() -> None:
    array = cuda_arrays.core().DeviceArray(np.ones(3, np.float32))
    answer = ops.null(array)
    cuda_arrays.shim().shim_fail(b"cudaFreeAsync", 1, INVALID_VALUE)
    del answer
    np.testing.assert_array_equal(ops.null(array).numpy(), array.numpy())


def test_answers_too_large_to_address_are_refused() -> None:
    boxes = CudaArray(np.broadcast_to(np.float32([0, 0, 1, 1]), (1 << 31, 4)))
    message = r"expected an answer that can be addressed, got shape \(2147483648, 2147483648\)$"
    with pytest.raises(InputError, match=message):
        ops.box_iou(boxes, boxes)


def test_strides_and_read_only_arrays_are_taken_as_they_are() -> None:
    x = np.arange(40, dtype=np.float32)[::-3]
    x.flags.writeable = False
    np.testing.assert_array_equal(ops.null(CudaArray(x)), x)
    boxes, scores = some_boxes()
    wide = np.asfortranarray(boxes)
    kept = ops.nms(CudaArray(wide), CudaArray(scores), 0.5)
    np.testing.assert_array_equal(kept, ops.nms(boxes, scores, 0.5))


def test_a_host_pointer_is_no_device_memory() -> None:
    with pytest.raises(InputError, match=r"^\[null\] x: expected memory of CUDA device 0, .*, got a host pointer$"):
        ops.null(CudaArray(np.ones(3, np.float32), registered=False))


def test_memory_of_another_device_is_told_apart() -> None:
    array = CudaArray(np.ones(3, np.float32), device=1)
    array.device = 0
    with pytest.raises(InputError, match=r"^\[null\] x: expected memory of CUDA device 0, .*, got memory of device 1$"):
        ops.null(array)


@pytest.mark.parametrize("other", ["the CPU", "another device"])
def test_arrays_must_lie_in_one_place(other: str) -> None:
    boxes, scores = some_boxes()
    there = scores if other == "the CPU" else CudaArray(scores, device=1)
    place = "one in CPU memory" if other == "the CPU" else "one on CUDA device 1"
    message = rf"^\[nms\] scores: expected an array where boxes lies, which is one on CUDA device 0, got {place}$"
    with pytest.raises(InputError, match=message):
        ops.nms(CudaArray(boxes), there, 0.5)
    message = r"^\[nms\] scores: expected an array where boxes lies, which is one in CPU memory, got one on CUDA"
    with pytest.raises(InputError, match=message):
        ops.nms(boxes, CudaArray(scores.copy()), 0.5)


def test_misaligned_memory_is_refused() -> None:
    data = np.zeros(17, np.uint8)[1:].view(np.float32)
    with pytest.raises(InputError, match=r"^\[null\] x: expected device memory aligned to its float32"):
        ops.null(CudaArray(data))


def test_empty_arrays() -> None:
    assert ops.null(CudaArray(np.zeros(0, np.float32))).shape == (0,)
    assert ops.nms(CudaArray(np.zeros((0, 4), np.float32)), CudaArray(np.zeros(0, np.float32)), 0.5).shape == (0,)


def test_an_earlier_error_is_reported_and_forgotten() -> None:
    x = CudaArray(np.ones(3, np.float32))
    cuda_arrays.shim().shim_set_pending_error(INVALID_VALUE)
    with pytest.raises(CudaError, match=r"^\[null\] an earlier CUDA call had failed: .* \(cudaErrorInvalidValue\)$"):
        ops.null(x)
    np.testing.assert_array_equal(ops.null(x), x.array)


@pytest.mark.parametrize(
    "call", ["cudaMallocFromPoolAsync", "cudaLaunchKernelEx", "cudaMemcpyAsync", "cudaStreamSynchronize"]
)
def test_a_call_that_fails_is_named_and_nothing_is_left(call: str) -> None:
    shim = cuda_arrays.shim()
    boxes, scores = map(cuda_arrays.core().DeviceArray, some_boxes())
    before = shim.shim_live_allocations()
    shim.shim_reset()
    expected = ops.nms(boxes, scores, 0.5).numpy()
    calls = shim.shim_calls().decode().split().count(call)
    for k in range(1, calls + 1):
        shim.shim_fail(call.encode(), k, OUT_OF_MEMORY)
        with pytest.raises(CudaError, match=r"(cuda|cub::)\S+ failed: out of memory \(cudaErrorMemoryAllocation\)$"):
            ops.nms(boxes, scores, 0.5).numpy()
        assert shim.shim_live_allocations() == before
    assert calls > 0
    np.testing.assert_array_equal(ops.nms(boxes, scores, 0.5).numpy(), expected)


@pytest.mark.parametrize("op", gpu_check.OPS)
def test_ops_answer_alike_when_memory_is_full_of_garbage_and_allocate_nothing_new(op: str) -> None:
    function, cases = gpu_check.OPS[op]
    arguments, options = cases(129, 0)
    there = [cuda_arrays.core().DeviceArray(part) if isinstance(part, np.ndarray) else part for part in arguments]
    expected = gpu_check.plain(function(*there, **options))
    cuda_arrays.shim().shim_reset()
    again = gpu_check.plain(function(*there, **options))
    assert cuda_arrays.shim().shim_fresh_allocations() == 0
    assert gpu_check.equal(again, expected)


def test_out_is_captured_without_waiting() -> None:
    shim, stream = cuda_arrays.shim(), make_stream()
    boxes, scores = (CudaArray(part, stream=stream) for part in some_boxes())
    kept, count = (CudaArray(np.zeros(n, np.int64), stream=stream) for n in (40, 1))
    ops.nms(boxes, scores, 0.5, out=(kept, count))
    expected = kept.array[: count.array[0]].copy()
    kept.array[:] = 0
    shim.shim_reset()
    shim.shim_set_capturing(ctypes.c_void_p(stream), 1)
    assert ops.nms(boxes, scores, 0.5, out=(kept, count)) == (kept, count)
    shim.shim_set_capturing(ctypes.c_void_p(stream), 0)
    assert shim.shim_synchronizing_calls() == 0
    np.testing.assert_array_equal(kept.array[: count.array[0]], expected)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (lambda: CudaArray(np.zeros(3)), "expected float32, got float64"),
        (lambda: CudaArray(np.zeros(4, np.float32)), r"expected shape \(3,\), got \(4,\)"),
        (lambda: CudaArray(np.zeros(6, np.float32)[::2]), "expected a contiguous array"),
        (lambda: CudaArray(np.zeros(3, np.float32), device=1), "expected an array where the first argument lies"),
        (lambda: np.zeros(3, np.float32), "expected an array where the first argument lies"),
    ],
)
def test_out_must_fit(out: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^\[null\] out: {message}"):
        ops.null(CudaArray(np.ones(3, np.float32)), out=out())


def test_out_is_for_devices() -> None:
    with pytest.raises(InputError, match=r"^\[null\] out: expected None for arrays in CPU memory$"):
        ops.null(np.ones(3, np.float32), out=np.ones(3, np.float32))


@pytest.mark.parametrize(("devices", "why"), [(-1, "the NVIDIA driver is missing or older"), (0, "no CUDA device")])
def test_without_driver_or_device_one_sentence_says_so(devices: int, why: str) -> None:
    x = CudaArray(np.ones(3, np.float32))
    cuda_arrays.shim().shim_set_devices(devices)
    with pytest.raises(UnsupportedError, match=rf"^\[null\] {why}"):
        ops.null(x)
    with pytest.raises(UnsupportedError, match=rf"^{why}"):
        cuda_arrays.core().cuda_devices()


def test_more_than_a_mask_may_have_is_refused_before_any_work() -> None:
    huge = np.broadcast_to(np.zeros((1, 1), np.uint8), (1 << 17, 1 << 16))
    with pytest.raises(InputError, match=r"^\[encode\] mask: at most 4294967295 pixels"):
        mask.encode(CudaArray(huge))


@pytest.mark.parametrize("op", gpu_check.OPS)
def test_check_gpu_finds_every_op_as_on_the_cpu(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("VISDEPLOY_SOAK"):
        monkeypatch.setattr(gpu_check, "SIZES", (1, 33, 64, 1025))
    row = gpu_check.compare(op)
    assert row.different == ()
    assert row.cases == len(gpu_check.SIZES) * len(gpu_check.SEEDS)


def test_check_gpu_sees_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Any) -> Any:
        return x if isinstance(x, np.ndarray) else cuda_arrays.core().DeviceArray(x.numpy()[::-1])

    monkeypatch.setitem(gpu_check.OPS, "null", (wrong, gpu_check.OPS["null"][1]))
    assert gpu_check.compare("null").different[0] == "n=31 seed=0"


def test_check_gpu_without_a_driver_says_so() -> None:
    cuda_arrays.shim().shim_set_devices(-1)
    with pytest.raises(MissingDependencyError, match=r"^\[check\] no op can run on a GPU here: the NVIDIA driver is "):
        gpu_check.run()
