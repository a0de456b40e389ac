"""Runs a TensorRT engine: a pool of execution contexts, each with a stream, memory and CUDA graphs of its own.

Not yet run on a GPU: docs/engines.md says what stands in for one in the tests.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import LifoQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from visdeploy import cache
from visdeploy.engines.cuda import DeviceView, Room, Runtime
from visdeploy.engines.tensorrt_compile import make_log
from visdeploy.engines.tensorrt_library import Library
from visdeploy.errors import CudaError, EngineError, InputError, UnsupportedError
from visdeploy.native import cuda_status

CONTEXTS: Final = 3
GRAPHS: Final = 4
"""Shapes of which a lane keeps a CUDA graph."""

Shape = tuple[int, ...]

log = logging.getLogger("visdeploy")


@dataclass(frozen=True)
class _Network:
    """What every lane shares.

    Attributes:
        runtime: CUDA's.
        input: Name of the uint8 input.
        output: Name of the output.
        dtype: Of the output.
        new_context: Makes an execution context.
        captures: Whether graphs are captured here; tensorrt_rtx does so itself.
    """

    runtime: Runtime
    input: str
    output: str
    dtype: np.dtype[Any]
    new_context: Callable[[], Any]
    captures: bool


@dataclass
class _Seen:
    """A shape that a lane has run: what it answers with, and its graph from the second time on."""

    answer: Shape
    graph: Any = None


class _Lane:
    """An execution context with a stream, memory and graphs of its own, used by one thread at a time."""

    def __init__(self, network: _Network) -> None:
        cuda = network.runtime
        self._network = network
        self._context = network.new_context()
        if self._context is None:
            raise EngineError("tensorrt: no execution context could be made; the GPU may be out of memory")
        self._seen: OrderedDict[Shape, _Seen] = OrderedDict()
        self._device_in, self.device_out = Room(cuda), Room(cuda)
        self._host_in, self._host_out = Room(cuda, pinned=True), Room(cuda, pinned=True)
        self._captures = network.captures
        # The default stream would wait for all others, and TensorRT would synchronise with it.
        self.stream = int(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))

    def start(self, images: NDArray[np.uint8]) -> Shape:
        """Put the work on the stream; the answer, of the shape returned, is then in `device_out`."""
        cuda = self._network.runtime
        self._host_in.grow(images.nbytes)
        seen = self._seen.get(images.shape)
        if seen is None or seen.graph is None:
            answer = self._bind(images)
        self._host_in.array(images.shape, np.uint8)[...] = images
        to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda.cudaMemcpyAsync(self._device_in.address, self._host_in.address, images.nbytes, to_device, self.stream)
        if seen is not None and seen.graph is not None:
            self._seen.move_to_end(images.shape)
            cuda.cudaGraphLaunch(seen.graph, self.stream)
            return seen.answer
        self._enqueue()
        # A graph pays from its third use on; the context has just run this shape, as a capture requires.
        graph = self._capture() if images.shape in self._seen and self._captures else None
        self._remember(images.shape, _Seen(answer, graph))
        return answer

    def wait(self) -> None:
        """Wait for the answer, and let it be known what went wrong on the way."""
        self._network.runtime.cudaStreamSynchronize(self.stream)

    def fetch(self, shape: Shape) -> NDArray[np.float32]:
        """Wait for the answer and return it."""
        cuda = self._network.runtime
        size = int(np.prod(shape)) * self._network.dtype.itemsize
        self._host_out.grow(size)
        to_host = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        cuda.cudaMemcpyAsync(self._host_out.address, self.device_out.address, size, to_host, self.stream)
        self.wait()
        return np.array(self._host_out.array(shape, self._network.dtype), np.float32)

    def release(self) -> None:
        """Give everything back; what a broken GPU refuses is let go."""
        cuda = self._network.runtime
        with suppress(CudaError):
            cuda.cudaStreamSynchronize(self.stream)
        self._forget()
        self._context = None
        for room in (self._device_in, self.device_out, self._host_in, self._host_out):
            with suppress(CudaError):
                room.release()
        with suppress(CudaError):
            cuda.cudaStreamDestroy(self.stream)

    def _bind(self, images: NDArray[np.uint8]) -> Shape:
        network, context = self._network, self._context
        if not context.set_input_shape(network.input, images.shape):
            raise EngineError(f"tensorrt: refused an input of shape {images.shape}")
        answer = tuple(int(side) for side in context.get_tensor_shape(network.output))
        if -1 in answer:
            raise UnsupportedError(f"tensorrt: the answer's shape {answer} is known only when it is there")
        size = int(np.prod(answer)) * network.dtype.itemsize
        if self._device_in.grow(images.nbytes) | self.device_out.grow(size):
            self._forget()  # graphs hold the old addresses
        context.set_tensor_address(network.input, self._device_in.address)
        context.set_tensor_address(network.output, self.device_out.address)
        return answer

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self.stream):
            raise EngineError("tensorrt: the network could not be started")

    def _capture(self) -> Any:
        cuda = self._network.runtime
        # Other threads may allocate meanwhile.
        cuda.cudaStreamBeginCapture(self.stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            try:
                self._enqueue()
            finally:
                graph = cuda.cudaStreamEndCapture(self.stream)
            try:
                return cuda.cudaGraphInstantiate(graph, 0)
            finally:
                cuda.cudaGraphDestroy(graph)
        except EngineError as error:
            self._captures = False
            log.warning("tensorrt: this network runs without CUDA graphs (%s)", error)
            return None

    def _remember(self, shape: Shape, seen: _Seen) -> None:
        self._seen[shape] = seen
        self._seen.move_to_end(shape)
        while len(self._seen) > GRAPHS:
            self._destroy(self._seen.popitem(last=False)[1])

    def _forget(self) -> None:
        for seen in self._seen.values():
            self._destroy(seen)
        self._seen.clear()

    def _destroy(self, seen: _Seen) -> None:
        if seen.graph is not None:
            with suppress(CudaError):
                self._network.runtime.cudaGraphExecDestroy(seen.graph)


class TensorRtEngine:
    """A deserialised engine and a pool of lanes, made when they are first needed."""

    name = "tensorrt"

    def __init__(
        self,
        library: Library,
        plan: Any,
        precision: str,
        *,
        threads: int = CONTEXTS,
        kernels: dict[str, str] | None = None,
        trusted_code: bool = False,
    ) -> None:
        self.version = f"{library.name} {library.version}"
        self.precision = precision
        self.notes: list[str] = []
        # Lanes decode and find masks as well, so more of them than run the network at a time keep it busy.
        self.lanes = max(CONTEXTS, threads)
        cuda, trt = Runtime(), library.module
        self._log = make_log(trt)
        self._runtime = trt.Runtime(self._log)
        if trusted_code:
            self._runtime.engine_host_code_allowed = True
        with cuda.on_device(0):
            engine = self._engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise EngineError(self._log.sentence(f"{self.version} refused the plan without a message"))
            self._kernels = _Kernels(trt, engine, kernels) if hasattr(trt, "CudaGraphStrategy") else None
        source, answer, dtype = self._tensors(trt, engine)
        self._network = _Network(cuda, source, answer, dtype, self._context, captures=self._kernels is None)
        fixed = tuple(engine.get_tensor_shape(source))
        ranges = engine.get_tensor_profile_shape(source, 0) if -1 in fixed else [fixed] * 3
        self._smallest, best, self._largest = (tuple(shape) for shape in ranges)
        self.preferred_batch = best[0]
        # Whether the ops can go on where the network ends.
        self.on_device = dtype == np.float32 and cuda_status()[0] is not None
        self._free: LifoQueue[_Lane | None] = LifoQueue()  # last used first, so that few threads need few lanes
        for _ in range(CONTEXTS):
            self._free.put(None)
        self._making, self._closing = threading.Lock(), threading.Lock()
        self._closed = False

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Run one batch; see `Engine.infer`."""
        with self._lane(images) as lane:
            return lane.fetch(lane.start(images))

    @contextmanager
    def infer_on_device(self, images: NDArray[np.uint8]) -> Iterator[DeviceView]:
        """Run one batch and leave the (B, C, h', w') answer on the GPU, where ops and frameworks take it.

        It is overwritten after the block: whatever reads it must have been put on its stream, or have ended, by then.
        """
        with self._lane(images) as lane:
            shape = lane.start(images)
            lane.wait()
            yield DeviceView.of(self._network.runtime, lane.device_out.address, shape, self._network.dtype, lane.stream)

    def close(self) -> None:
        """Wait for calls that are running, and release all that is held."""
        with self._closing, self._network.runtime.on_device(0):
            self._closed = True
            for lane in [self._free.get() for _ in range(CONTEXTS)]:
                if lane is not None:
                    lane.release()
                self._free.put(None)
            if self._kernels is not None:
                self._kernels.keep()
            self._kernels = self._engine = self._runtime = None

    @contextmanager
    def _lane(self, images: NDArray[np.uint8]) -> Iterator[_Lane]:
        limits = zip(self._smallest, images.shape, self._largest, strict=False)
        if images.ndim != len(self._smallest) or not all(low <= side <= high for low, side, high in limits):
            raise InputError(
                f"tensorrt: prepared for images from {self._smallest} to {self._largest}, got {images.shape}; "
                "max_batch and max_size in the bundle's spec say how far"
            )
        lane = self._free.get()
        try:
            if self._closed:
                raise EngineError("tensorrt: the engine was closed")
            with self._network.runtime.on_device(0):
                try:
                    lane = lane or _Lane(self._network)
                    yield lane
                except BaseException:
                    # Whatever state it is in, the next call starts with a new one.
                    if lane is not None:
                        lane.release()
                        lane = None
                    raise
        finally:
            self._free.put(lane)

    def _tensors(self, trt: Any, engine: Any) -> tuple[str, str, np.dtype[Any]]:
        """Return the names of input and output, and the type of the latter."""
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        kinds = [engine.get_tensor_dtype(name) for name in inputs + outputs]
        floats = trt.DataType.FLOAT, trt.DataType.HALF
        if len(inputs) != 1 or len(outputs) != 1 or kinds[0] != trt.DataType.UINT8 or kinds[1] not in floats:
            raise UnsupportedError(
                f"{self.version}: expected an engine with one uint8 input and one float32 or float16 output, "
                f"got {inputs} and {outputs} of {kinds}"
            )
        return inputs[0], outputs[0], np.dtype(trt.nptype(kinds[1]))

    def _context(self) -> Any:
        with self._making:
            if self._kernels is None:
                return self._engine.create_execution_context()
            return self._engine.create_execution_context(self._kernels.config)


class _Kernels:
    """How tensorrt_rtx runs an engine: it compiles kernels when they are first needed, and captures graphs itself."""

    def __init__(self, trt: Any, engine: Any, key: dict[str, str] | None) -> None:
        self._key = key
        self.config = engine.create_runtime_config()
        self.config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._compiled = self.config.create_runtime_cache()
        self._before = (cache.find(key) if key else None) or b""
        if self._before:
            self._compiled.deserialize(self._before)  # refused by itself where it does not fit
        self.config.set_runtime_cache(self._compiled)

    def keep(self) -> None:
        """Put what was compiled into the cache."""
        compiled = self._compiled.serialize()
        if self._key and compiled is not None and bytes(compiled) != self._before:
            cache.keep(self._key, bytes(compiled))
