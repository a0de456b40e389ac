"""The CUDA runtime through cuda-python, every call checked; no torch."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import CudaError

_DLPACK_CUDA = 2


@dataclass(frozen=True)
class Device:
    """The GPU that this process sees first.

    Attributes:
        name: As its maker calls it.
        compute_capability: Such as (8, 9).
    """

    name: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} ({self.compute_capability[0]}.{self.compute_capability[1]})"


def driver_installed() -> bool:
    """Whether the driver's library is there, asked without loading anything of CUDA's."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def find_device() -> tuple[Device | None, str]:
    """Return the GPU, or None and what is missing for there to be one."""
    if not driver_installed():
        return None, "there is no CUDA driver: install NVIDIA's, 580 or later"
    try:
        runtime = Runtime()
    except ImportError:
        return None, "cuda-python is not installed: pip install cuda-python"
    try:
        if not runtime.cudaGetDeviceCount():
            return None, "the CUDA driver finds no device"
        found = runtime.cudaGetDeviceProperties(0)
    except CudaError as error:
        return None, f"the CUDA driver does not work: {error}"
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Device(name.rstrip("\0"), (found.major, found.minor)), ""


class Runtime:
    """The functions of `cuda.bindings.runtime`, without the error that each returns first."""

    def __init__(self) -> None:
        self.bindings: Any = import_module("cuda.bindings.runtime")

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.bindings, name)
        if not callable(function) or not name.startswith("cuda") or isinstance(function, type):
            return function

        def checked(*arguments: Any) -> Any:
            code, *values = function(*arguments)
            if int(code):
                text = self.bindings.cudaGetErrorString(code)[1]
                raise CudaError(f"{name} failed: {text.decode() if isinstance(text, bytes) else text}")
            return values[0] if values else None

        self.__dict__[name] = checked  # the next time it is found at once
        return checked

    @contextmanager
    def on_device(self, index: int) -> Iterator[None]:
        """Make a device the calling thread's for a while; others may have chosen another one for it."""
        before = self.cudaGetDevice()
        if before != index:
            self.cudaSetDevice(index)
        try:
            yield
        finally:
            if before != index:
                self.cudaSetDevice(before)


class Room:
    """Memory that grows to what is asked for: of the device, or pinned on the host."""

    def __init__(self, runtime: Runtime, *, pinned: bool = False) -> None:
        self._allocate = runtime.cudaMallocHost if pinned else runtime.cudaMalloc
        self._free = runtime.cudaFreeHost if pinned else runtime.cudaFree
        self.address = 0
        self.size = 0

    def grow(self, size: int) -> bool:
        """Hold at least `size` bytes; returns whether the memory is another one now."""
        if size <= self.size:
            return False
        self.release()
        self.address = int(self._allocate(size))
        self.size = size
        return True

    def array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """View pinned memory."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = (ctypes.c_uint8 * count).from_address(self.address)
        return np.frombuffer(raw, dtype).reshape(shape)

    def release(self) -> None:
        """Give it back."""
        address, self.address, self.size = self.address, 0, 0
        if address:
            self._free(address)


class DeviceView:
    """An array in the device's memory that somebody else owns, for ops and frameworks to take where it is.

    It answers to DLPack and to `__cuda_array_interface__`, which names the stream that its owner works on.
    """

    def __init__(self, runtime: Runtime, shadow: NDArray[Any], stream: int) -> None:
        # NumPy does the arithmetic of shapes and strides on the device's address, which is never read from here.
        self._runtime, self._shadow, self._stream = runtime, shadow, stream

    @classmethod
    def of(cls, runtime: Runtime, address: int, shape: tuple[int, ...], dtype: Any, stream: int) -> "DeviceView":
        """View contiguous memory."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = (ctypes.c_uint8 * size).from_address(address)
        return cls(runtime, np.frombuffer(raw, dtype).reshape(shape), stream)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return self._shadow.shape

    def __len__(self) -> int:
        return len(self._shadow)

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> "DeviceView":
        for part in key if isinstance(key, tuple) else (key,):
            if not isinstance(part, int | slice):
                raise TypeError(f"expected integers and slices, got {type(part).__name__}")
        return DeviceView(self._runtime, self._shadow[key], self._stream)

    def numpy(self) -> NDArray[Any]:
        """Copy it to the host; it must be contiguous there up to its first axis."""
        cuda = self._runtime
        values = np.empty(self.shape, self._shadow.dtype)
        if not self._shadow.flags.c_contiguous:
            return np.stack([self[i].numpy() for i in range(len(self))])
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda.cudaMemcpyAsync(values.ctypes.data, self._shadow.ctypes.data, values.nbytes, kind, self._stream)
        cuda.cudaStreamSynchronize(self._stream)
        return values

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "strides": self._shadow.strides,
            "typestr": self._shadow.dtype.str,
            "data": (self._shadow.ctypes.data, False),
            "stream": self._stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CUDA, 0

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> object:
        # Whatever the stream: who made the view has waited for what it shows.
        capsule = self._shadow.__dlpack__()
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        # NumPy's capsule is right but for the kind of device, which comes after the pointer to the data.
        kind = get(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)
        ctypes.c_int32.from_address(kind).value = _DLPACK_CUDA
        return capsule
