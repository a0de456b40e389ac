"""Stands in for TensorRT and for CUDA's runtime where there is no GPU: records the calls, and really computes.

Work put on a stream is done when the stream is waited for and not before, so that a wait that is missing is a wrong
answer. A "plan" is JSON; its network answers each pixel's first channels, minus a half, at the input's size.
"""

import ctypes
import json
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visdeploy.engines import Engine as OpenEngine
from visdeploy.engines import cuda

VERSIONS = {"tensorrt": ("11.4.0", "11.5.0"), "tensorrt_rtx": ("1.7.1", "1.8.0")}
SMALL, LARGE = (1, 4, 6, 3), (2, 8, 6, 3)


class Stream:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.capture: list[Callable[[], None]] | None = None

    def put(self, work: Callable[[], None]) -> None:
        (self.work if self.capture is None else self.capture).append(work)


class Code(int):
    """What each function of cuda-python returns first."""


class Cudart:
    """The functions of `cuda.bindings.runtime` that visdeploy calls."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread local")

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, int] = {}  # name -> calls of it that still succeed
        self.streams: dict[int, Stream] = {}
        self.memory: dict[int, tuple[str, Any]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.device = threading.local()
        self.new_stream = lambda: 1000 + len(self.calls)
        self.eager = False
        self.on_malloc: Callable[[int, int], None] = lambda address, size: None
        self.on_free: Callable[[int], None] = lambda address: None
        self._lock = threading.Lock()

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or name == "cudaGetErrorString":
            return found

        def call(*arguments: Any) -> Any:
            with self._lock:
                self.calls.append((name, *arguments))
                if name in self.failing:
                    self.failing[name] -= 1
                    if self.failing[name] < 0:
                        if name == "cudaStreamEndCapture":  # as with CUDA, a capture that fails is over
                            self.streams[arguments[0]].capture = None
                        if name == "cudaStreamSynchronize":  # and so is work that cannot be waited for
                            self.streams[arguments[0]].work = []
                        return (Code(2), None)
                answer = found(*arguments)
            return (Code(0),) if answer is None else (Code(0), answer)

        return call

    def names(self) -> list[str]:
        return [call[0] for call in self.calls if call[0] not in ("cudaGetDevice", "cudaSetDevice")]

    def live(self) -> dict[str, int]:
        return {
            "streams": len(self.streams),
            "memory": len(self.memory),
            "graphs": len(self.graphs),
            "executables": len(self.executables),
        }

    def cudaGetErrorString(self, code: int) -> Any:
        return Code(0), {2: b"out of memory"}[code]

    def cudaGetDeviceCount(self) -> int:
        return 1

    def cudaGetDeviceProperties(self, index: int) -> Any:
        return SimpleNamespace(name=b"Stand-in GPU", major=8, minor=9)

    def cudaGetDevice(self) -> int:
        return getattr(self.device, "index", 0)

    def cudaSetDevice(self, index: int) -> None:
        self.device.index = index

    def _allocate(self, kind: str, size: int) -> int:
        buffer = (ctypes.c_uint8 * size)(*[0xAB] * min(size, 64))
        self.memory[ctypes.addressof(buffer)] = (kind, buffer)
        return ctypes.addressof(buffer)

    def cudaMalloc(self, size: int) -> int:
        address = self._allocate("device", size)
        self.on_malloc(address, size)
        return address

    def cudaMallocHost(self, size: int) -> int:
        return self._allocate("host", size)

    def cudaFree(self, address: int) -> None:
        self.on_free(address)
        assert self.memory.pop(address)[0] == "device"

    def cudaFreeHost(self, address: int) -> None:
        assert self.memory.pop(address)[0] == "host"

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        assert flags == self.cudaStreamNonBlocking
        handle = self.new_stream()
        self.streams[handle] = Stream()
        return handle

    def cudaStreamDestroy(self, stream: int) -> None:
        assert not self.streams.pop(stream).work, "work was left on it"

    def cudaStreamSynchronize(self, stream: int) -> None:
        found = self.streams[stream]
        assert found.capture is None, "a capture must not wait"
        work, found.work = found.work, []
        for item in work:
            item()

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> None:
        places = ("device", "host") if kind == "to device" else ("host", "device")
        if source in self.memory or kind == "to device":
            assert self.memory[source][0] == places[1]
            assert ctypes.sizeof(self.memory[source][1]) >= size
        if kind == "to device":
            assert self.memory[to][0] == places[0]
            assert ctypes.sizeof(self.memory[to][1]) >= size
        self.put(stream, lambda: ctypes.memmove(to, source, size))

    def put(self, stream: int, work: Callable[[], Any]) -> None:
        assert stream in self.streams, f"{stream} is no stream of ours; the default one is not to be used"
        if self.eager and self.streams[stream].capture is None:
            work()
        else:
            self.streams[stream].put(work)

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> None:
        assert mode == "thread local"
        assert self.streams[stream].capture is None
        self.streams[stream].capture = []

    def cudaStreamEndCapture(self, stream: int) -> int:
        captured, self.streams[stream].capture = self.streams[stream].capture, None
        assert captured is not None
        handle = 5000 + len(self.calls)
        self.graphs[handle] = captured
        return handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        handle = 7000 + len(self.calls)
        self.executables[handle] = self.graphs[graph]
        return handle

    def cudaGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cudaGraphLaunch(self, executable: int, stream: int) -> None:
        for work in self.executables[executable]:
            self.put(stream, work)

    def cudaGraphExecDestroy(self, executable: int) -> None:
        del self.executables[executable]


class Context:
    """An execution context, which objects to two threads at a time."""

    def __init__(self, engine: "Engine", config: Any) -> None:
        self.engine, self.config = engine, config
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.ran: tuple[int, ...] = ()
        self.users: set[int] = set()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        self._record("set_input_shape", shape)
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], self.engine.channels, *self.shape[1:3])

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert self.engine.cudart.memory[address][0] == "device"
        self._record("set_tensor_address", name)
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cudart = self.engine.cudart
        self._record("execute_async_v3", stream)
        if cudart.failing.get("execute_async_v3", 1) == 0:
            return False
        if cudart.streams[stream].capture is not None:
            assert self.ran == self.shape, "a shape must have run once before it is captured"
        self.ran = self.shape
        shape, addresses = self.shape, dict(self.addresses)
        cudart.put(stream, lambda: self._compute(shape, addresses))
        return True

    def _compute(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        answer = (shape[0], self.engine.channels, *shape[1:3])
        memory = [self.engine.cudart.memory[addresses[name]][1] for name in ("images", "logits")]
        images = np.frombuffer(memory[0], np.uint8, int(np.prod(shape))).reshape(shape)
        logits = np.frombuffer(memory[1], np.float32, int(np.prod(answer))).reshape(answer)
        logits[...] = network(images)[:, : self.engine.channels]

    def _record(self, *call: Any) -> None:
        me = threading.get_ident()
        assert self.users <= {me}, "a context is used by two threads"
        self.users.add(me)
        threading.Event().wait(0.0002)  # lets another thread in
        self.users.discard(me)
        self.engine.cudart.calls.append((*call, id(self)))


def network(images: Any) -> Any:
    return (images.astype(np.float32) / 255 - 0.5).transpose(0, 3, 1, 2)


class Engine:
    num_io_tensors = 2

    def __init__(self, cudart: Cudart, facts: dict[str, Any]) -> None:
        self.cudart, self.facts = cudart, facts
        self.channels = facts["channels"]
        self.contexts: list[Context] = []
        self.making = threading.Lock()

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name == "images" else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> str:
        return "UINT8" if name == "images" else self.facts.get("dtype", "FLOAT")

    def get_tensor_shape(self, name: str) -> Any:
        return self.facts.get("shape", [-1, -1, -1, 3])

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        return [(1, 1, 1, 3), (1, 64, 64, 3), (self.facts["max_batch"], 128, 128, 3)]

    def create_execution_context(self, config: Any = None) -> Context | None:
        if self.cudart.failing.get("create_execution_context", 1) == 0:
            return None
        assert self.making.acquire(blocking=False), "two contexts are made at a time"
        threading.Event().wait(0.001)  # lets another thread in
        context = Context(self, config)
        self.contexts.append(context)
        self.making.release()
        return context

    def create_runtime_config(self) -> Any:
        return RuntimeConfig()


class RuntimeConfig:
    cuda_graph_strategy = "DISABLED"

    def create_runtime_cache(self) -> Any:
        return RuntimeCache()

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache


class RuntimeCache:
    content = b"compiled"

    def deserialize(self, blob: bytes) -> bool:
        self.content = b"compiled, and " + blob
        return True

    def serialize(self) -> bytes:
        return self.content


class Logger:
    Severity = SimpleNamespace(ERROR="ERROR", INTERNAL_ERROR="INTERNAL_ERROR")

    def log(self, severity: str, msg: str) -> None:
        raise NotImplementedError


def runtime_module(cudart: Cudart, version: str, *, rtx: bool) -> Any:
    """The half of the package that runs plans."""

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: Any) -> Engine | None:
            assert cudart.cudaGetDevice()[1] == 0  # type: ignore[index]
            facts = json.loads(bytes(plan))
            if facts["version"] not in (None, version):
                self.log.log("ERROR", f"the plan is of version {facts['version']}, expected {version}")
                return None
            return Engine(cudart, facts)

    module = SimpleNamespace(
        __version__=version,
        __spec__=SimpleNamespace(),
        ILogger=Logger,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT"),
        DataType=SimpleNamespace(UINT8="UINT8", FLOAT="FLOAT", HALF="HALF"),
        nptype=lambda kind: {"FLOAT": np.float32, "HALF": np.float16}[kind],
    )
    if rtx:
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")
        module.ComputeCapability = SimpleNamespace(__members__={"NONE": 0, "SM89": 1})
    return module


def plan(version: str | None = None, channels: int = 1, max_batch: int = 8, **facts: Any) -> bytes:
    return json.dumps({"version": version, "channels": channels, "max_batch": max_batch} | facts).encode()


def install(monkeypatch: pytest.MonkeyPatch, cudart: Cudart, *, rtx: bool = False, newer: bool = False) -> Any:
    """Make this machine one with a GPU and with tensorrt, or tensorrt_rtx, and without the other."""
    names = ("tensorrt_rtx", "tensorrt") if rtx else ("tensorrt", "tensorrt_rtx")
    module = runtime_module(cudart, VERSIONS[names[0]][newer], rtx=rtx)
    monkeypatch.setitem(sys.modules, names[0], module)
    monkeypatch.setitem(sys.modules, names[1], None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cudart)  # type: ignore[arg-type]
    monkeypatch.setattr(cuda, "driver_installed", lambda: True)
    return module


def images(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def check(engine: OpenEngine, batch: NDArray[np.uint8]) -> None:
    answer = engine.infer(batch)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, network(batch)[:, :1])
