"""Tensors on a device that come and go by DLPack's exchange table, which is torch's way; played here without torch."""

import ctypes
from typing import Any

import numpy as np
import pytest

import cuda_arrays
from visdeploy import gpu_check, ops

pytestmark = [cuda_arrays.NEEDS_KERNELS, pytest.mark.usefixtures("shim")]

Pointer = ctypes.POINTER(ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("flags", ctypes.c_uint64),
        ("tensor", cuda_arrays.DlTensor),
    )


class Table(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("managed_to_object", ctypes.c_void_p),
        ("tensor_from_object", ctypes.c_void_p),
        ("current_stream", ctypes.c_void_p),
    )


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(cuda_arrays.DlTensor))
def tensor_from_object(tensor: Any, out: Any) -> int:
    """What ours borrows: contiguous, and so without strides."""
    array, view = tensor.array, out.contents
    tensor.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    view.data, view.device_type, view.device_id, view.ndim, view.byte_offset = array.ctypes.data, 2, 0, array.ndim, 0
    view.code, view.bits, view.lanes = {"f": 2, "i": 0, "u": 1}[array.dtype.kind], 8 * array.itemsize, 1
    view.shape, view.strides = ctypes.cast(tensor.shape, ctypes.POINTER(ctypes.c_int64)), None
    return 0


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, Pointer)
def managed_to_object(managed: int, out: Any) -> int:
    """What takes over ours: a copy, after which the memory goes back."""
    taken = Managed.from_address(managed)
    tensor = Tensor(cuda_arrays.copy_of(taken.tensor))
    taken.deleter(managed)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(tensor))
    out[0] = id(tensor)
    return 0


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_int32, Pointer)
def current_stream(device_type: int, device: int, out: Any) -> int:
    assert (device_type, device) == (2, 0)
    out[0] = Tensor.stream
    return 0


TABLE = Table(
    major=1,
    minor=3,
    managed_to_object=ctypes.cast(managed_to_object, ctypes.c_void_p),
    tensor_from_object=ctypes.cast(tensor_from_object, ctypes.c_void_p),
    current_stream=ctypes.cast(current_stream, ctypes.c_void_p),
)
NAME = b"dlpack_exchange_api"  # which the capsule does not keep
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class Tensor(cuda_arrays.CudaArray):
    """An array on the device whose type publishes the table; its other way out is closed."""

    __dlpack_c_exchange_api__ = new_capsule(ctypes.addressof(TABLE), NAME, None)
    stream: Any = None

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(np.ascontiguousarray(array), stream=type(self).stream)

    def __dlpack__(self, *, stream: int | None = None) -> object:
        raise AssertionError("the table is there")


@pytest.fixture(autouse=True)
def _stream(shim: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ctypes.c_void_p()
    assert shim.cudaStreamCreateWithFlags(ctypes.byref(handle), 1) == 0
    monkeypatch.setattr(Tensor, "stream", handle.value)


@pytest.mark.parametrize("op", ["nms", "detect", "multibox_target", "semantic_map"])
def test_answers_are_tensors_of_the_current_stream(op: str, shim: ctypes.CDLL) -> None:
    function, cases = gpu_check.OPS[op]
    arguments, options = cases(65, 0)
    expected = gpu_check.plain(function(*arguments, **options))
    shim.shim_reset()
    there = [Tensor(part) if isinstance(part, np.ndarray) else part for part in arguments]
    answer = function(*there, **options)
    assert gpu_check.equal(plain(answer), expected)
    calls = [line.split() for line in shim.shim_calls().decode().splitlines()]
    assert {stream for name, stream in calls if name == "cudaLaunchKernelEx"} == {f"{Tensor.stream:#x}"}


def plain(answer: Any) -> Any:
    if isinstance(answer, Tensor):
        return answer.array
    if isinstance(answer, ops.Detections):
        return [plain(part) for part in (answer.boxes, answer.scores, answer.labels)]
    return [plain(part) for part in answer] if isinstance(answer, (list, tuple)) else answer
