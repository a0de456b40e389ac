"""Arrays that say they lie on a CUDA device, and the native module built to take them without a GPU.

Their memory is NumPy's, which the emulation of tests/cuda_on_cpu is told to count as its device's.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visdeploy.native import _core

FOLDER = Path(os.environ.get("VISDEPLOY_CUDA_ON_CPU", Path(__file__).parent.parent / "build" / "cuda_on_cpu"))
# The functions that work on a device; the others are the CPU's in this build too.
OPS = frozenset(
    (
        "null nms batched_nms box_iou decode_boxes encode_boxes detect multibox_detection multibox_target "
        "encode encode_logits semantic_map letterbox"
    ).split()
)


NEEDS_KERNELS = pytest.mark.skipif(
    not list(FOLDER.glob("_core*.so")), reason="the kernels are not built for the CPU: make build/cuda_on_cpu/.ready"
)


@cache
def core() -> ModuleType:
    """The native module whose CUDA kernels run on the CPU."""
    (path,) = FOLDER.glob("_core*.so")
    spec = spec_from_file_location("_core", path, loader=ExtensionFileLoader("_core", str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def shim() -> ctypes.CDLL:
    """The controls of the emulation; see tests/cuda_on_cpu/include/shim.h."""
    library = ctypes.CDLL(core().__file__)
    for name in ("live_allocations", "live_bytes", "peak_bytes", "fresh_allocations", "synchronizing_calls"):
        getattr(library, f"shim_{name}").restype = ctypes.c_int64
    library.shim_calls.restype = ctypes.c_char_p
    return library


@contextmanager
def in_force(native: Any) -> Iterator[None]:
    """Let visdeploy's functions call another native module."""
    own = [module for name, module in sys.modules.items() if name.startswith("visdeploy.")]
    users = [module for module in own if getattr(module, "_core", None) is _core]
    for module in users:
        module._core = native  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in users:
            module._core = _core  # type: ignore[attr-defined]


class CudaArray:
    """A NumPy array labelled as memory of an emulated device, with the stream that its owner works on."""

    def __init__(self, array: NDArray[Any], device: int = 0, stream: int = 0, registered: bool = True) -> None:
        self.array = array
        self.device = device
        self.stream = stream
        self._start, end = np.lib.array_utils.byte_bounds(array)
        if registered:
            size = max(1, end - self._start)
            shim().shim_register_device_memory(ctypes.c_void_p(self._start), ctypes.c_size_t(size), device)

    def __del__(self) -> None:
        shim().shim_unregister_device_memory(ctypes.c_void_p(self._start))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"stream": self.stream or 1}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int | None = None) -> object:
        # A versioned capsule, because the other kind does not exist for arrays that are read-only.
        return self.array.__dlpack__(max_version=(1, 0))


class DlTensor(ctypes.Structure):
    """What a DLPack capsule holds first."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def from_dlpack(array: Any) -> NDArray[Any]:
    """What the native module asks of the framework that its arguments came from: a copy of a result, in NumPy."""
    assert array.__dlpack_device__()[0] == 2
    capsule = array.__dlpack__(stream=1)
    result = copy_of(tensor_in(capsule))
    assert result.shape == tuple(array.shape)
    return result


def tensor_in(capsule: object) -> DlTensor:
    """What a capsule holds, for as long as it lives."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return DlTensor.from_address(get(capsule, b"dltensor"))


def copy_of(tensor: DlTensor) -> NDArray[Any]:
    """The contiguous values of a tensor in NumPy."""
    kind = {0: "i", 1: "u", 2: "f", 6: "b"}[tensor.code]
    result = np.empty(tuple(tensor.shape[i] for i in range(tensor.ndim)), f"{kind}{tensor.bits // 8}")
    if result.size:
        ctypes.memmove(result.ctypes.data, tensor.data + tensor.byte_offset, result.nbytes)
    return result


class OnCuda:
    """The native module for arrays on the CPU: they go to its CUDA kernels labelled, and answers come back plain."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(core(), name)
        return _on_cuda(function) if name in OPS else function


def _on_cuda(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        torch = any(type(argument).__module__ == "torch" for argument in arguments)
        return _plain(function(*(_labelled(argument) for argument in arguments)), torch)

    return call


def _labelled(argument: Any) -> Any:
    if type(argument).__module__ == "torch" and hasattr(argument, "numpy"):
        argument = argument.detach().numpy()
    known = isinstance(argument, np.ndarray) and argument.dtype.isnative and argument.dtype != object
    return CudaArray(argument) if known else argument


def _plain(answer: Any, torch: bool) -> Any:
    if isinstance(answer, (list, tuple)):
        return type(answer)(_plain(part, torch) for part in answer)
    if torch and isinstance(answer, np.ndarray):
        import torch as framework

        return framework.from_numpy(answer)
    return answer
