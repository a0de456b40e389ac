"""OpenVINO on the CPU: the default."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy import cache
from visdeploy.engines import Lazy, graph_files, reason
from visdeploy.errors import EngineError, InputError

# What int8 leaves in floating point stays in full precision.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


def version() -> str:
    """Return the version of the installed package."""
    import openvino

    return str(openvino.__version__).split("-")[0]


def device() -> str:
    """Return the name and abilities of the processor, as OpenVINO sees them."""
    names = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return f"{_core().get_property('CPU', 'FULL_DEVICE_NAME')} ({' '.join(names)})"


class OpenVinoEngine:
    """The network compiled for calls, for lanes, and for each of them with batches, as they are needed.

    A lane calls the network synchronously: its stream then computes on the calling thread, and none is added.
    """

    name = "openvino"

    def __init__(self, bundle: bundles.Bundle, precision: str, graph: tuple[str, ...], threads: int) -> None:
        self.version = version()
        self.precision = precision
        self.lanes = threads
        self.notes: tuple[str, ...] = ()
        self._single = -1 if bundle.manifest.resize == "native" else 1  # a fixed batch alone gains nothing
        self._size = (-1, -1) if bundle.manifest.resize == "native" else bundle.manifest.size
        self._graph = [bundle.read(name) for name in graph]
        self._path = bundle.path
        self._key = {
            "model": bundle.sha256(bundles.ONNX),
            "engine": self.name,
            "version": self.version,
            "device": device(),
            "precision": precision,
        }
        if graph != (bundles.ONNX,):
            self._key["variant"] = " ".join(bundle.sha256(name) for name in graph)
        self._networks = Lazy(self._network)
        self._networks[1, self._single]

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Run one batch; see `Engine.infer`."""
        network = self._networks[1 if alone else self.lanes, self._single if len(images) == 1 else -1]
        try:
            return network.infer(images)
        except Exception as error:  # its message may not even be UTF-8
            raise EngineError(f"openvino: inference failed on input {images.shape} ({reason(error)})") from error

    def close(self) -> None:
        """Release the compiled models."""
        self._networks.clear()

    def _network(self, purpose: tuple[int, int]) -> "_Network":
        streams, batch = purpose
        shape = (batch, *self._size, 3)
        # Unless told otherwise OpenVINO computes in bf16 wherever the processor has it, and pins threads to cores, the
        # calling one too: in a second process to the same cores.
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "INFERENCE_NUM_THREADS": self.lanes,
            "ENABLE_CPU_PINNING": False,
        } | ({"NUM_STREAMS": streams} if streams > 1 else {"PERFORMANCE_HINT": "LATENCY"})

        def take(blob: cache.Blob) -> _Network:
            import openvino

            tensor = openvino.Tensor(blob, shared_memory=True)
            return _Network(_core().import_model(tensor, "CPU", settings), blob)

        def build() -> tuple[_Network, bytes]:
            compiled = _compile(self._graph, shape, settings)
            return _Network(compiled), compiled.export_model().getvalue()

        sides = "x".join("?" if side < 0 else str(side) for side in shape)
        try:
            # Streams and threads are settings of the import: all purposes share the blob of a shape.
            network, note = cache.obtain(self._key | {"shape": sides}, take, build)
        except Exception as error:  # its message may not even be UTF-8
            if isinstance(error, InputError):
                raise
            raise EngineError(f"openvino: refused {self._path} ({reason(error)})") from error
        note = f"openvino {self.precision} network for {sides}, {streams} at once: {note}"
        cache.log.info("%s", note)
        self.notes += (note,)
        return network


class _Network:
    """A compiled model, and as many inference requests as were ever busy at once."""

    def __init__(self, compiled: Any, blob: cache.Blob | None = None) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []
        self._weights = blob  # the compiled model reads them where they are

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        outputs = request.infer({0: images}, share_inputs=True, share_outputs=True)
        # The request owns its output and the next call overwrites it.
        logits = np.array(outputs[0], np.float32)
        self._idle.append(request)
        return logits


def open_engine(bundle: bundles.Bundle, *, precision: str, threads: int) -> OpenVinoEngine:
    """Take the network for single calls from the cache, or compile it."""
    able = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    native = {name: bundles.ONNX for name in ("fp32", "bf16", "fp16") if name.upper() in able}
    graph = graph_files(bundle, "openvino", precision, native, ("int8",))
    return OpenVinoEngine(bundle, precision, graph, threads)


@lru_cache(1)
def _core() -> Any:
    import openvino

    return openvino.Core()


def _compile(graph: Sequence[bytes], shape: tuple[int, ...], settings: dict[str, Any]) -> Any:
    import openvino

    model = _core().read_model(*graph)
    if model.inputs[0].partial_shape.is_dynamic:
        model.reshape({0: openvino.PartialShape(shape)})
    return _core().compile_model(model, "CPU", settings)
