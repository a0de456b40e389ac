"""OpenVINO on the CPU: the default."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy import cache
from visdeploy.engines import Lazy, cpu_name, graph_files, reason
from visdeploy.errors import EngineError, InputError

# What int8 leaves in floating point stays in full precision.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_ANY_SIZE = (-1, -1)
PRECISION_NOTE = ["visdeploy", "precision"]
"""Where an exported graph says what it computes in."""


def version() -> str:
    """Return the version of the installed package."""
    import openvino

    return str(openvino.__version__).split("-")[0]


def device() -> str:
    """Return the name and vector instructions of the processor."""
    return cpu_name()


def precisions() -> tuple[str, ...]:
    """Return what it can compute in here."""
    return (*_native(), "int8")


def _native() -> dict[str, str]:
    """Return the member of a bundle by precision, for those that need no variant."""
    return {name: bundles.ONNX for name in ("fp32", "bf16", "fp16") if name.upper() in _abilities()}


def _abilities() -> list[str]:
    names: list[str] = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return names


class OpenVinoEngine:
    """The network compiled for calls, for lanes, and for each of them with batches, as they are needed.

    A lane calls the network synchronously: its stream then computes on the calling thread, and none is added.
    """

    name = "openvino"

    def __init__(self, source: "_Source", threads: int) -> None:
        self.version = version()
        self.precision = source.precision
        self.lanes = threads
        self.notes: list[str] = []
        self._single = -1 if source.size == _ANY_SIZE else 1  # a fixed batch alone gains nothing
        # Not a method of this object: a cycle would keep the networks until the garbage collector comes.
        self._networks = Lazy(partial(_network, source, threads, self.notes))
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
        self._networks.close()


@dataclass(frozen=True)
class _Source:
    """What networks are compiled from."""

    path: Path
    graph: Sequence[bytes]
    size: tuple[int, int]
    precision: str
    key: dict[str, str]

    @classmethod
    def of(cls, bundle: bundles.Bundle, precision: str, graph: Sequence[bytes], sums: Sequence[str]) -> Self:
        key = {
            "model": bundle.sha256(bundles.ONNX),
            "graph": " ".join(sums),
            "engine": OpenVinoEngine.name,
            "version": version(),
            "device": device(),
            "precision": precision,
        }
        size = _ANY_SIZE if bundle.manifest.resize == "native" else bundle.manifest.size
        return cls(bundle.path, graph, size, precision, key)


def _network(source: _Source, threads: int, notes: list[str], purpose: tuple[int, int]) -> "_Network":
    """Return a network for (streams, batch), -1 for any batch."""
    streams, batch = purpose
    shape = (batch, *source.size, 3)
    # Unless told otherwise OpenVINO computes in bf16 wherever the processor has it, and pins threads to cores, the
    # calling one too: in a second process to the same cores.
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[source.precision],
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    } | ({"NUM_STREAMS": streams} if streams > 1 else {"PERFORMANCE_HINT": "LATENCY"})

    def take(blob: cache.Blob) -> _Network:
        import openvino

        return _Network(_core().import_model(openvino.Tensor(blob, shared_memory=True), "CPU", settings), blob)

    def build() -> tuple[_Network, cache.Content]:
        compiled = _compile(source.graph, shape, settings)
        return _Network(compiled), lambda: compiled.export_model().getvalue()

    sides = "x".join("?" if side < 0 else str(side) for side in shape)
    try:
        # Streams and threads are settings of the import, so all purposes share the blob of a shape.
        network, note = cache.obtain(source.key | {"shape": sides}, take, build)
    except InputError:
        raise
    except Exception as error:  # its message may not even be UTF-8
        raise EngineError(f"openvino: refused {source.path} ({reason(error)})") from error
    notes.append(f"openvino in {source.precision} for {sides} with {streams} at once: {note}")
    cache.log.info("%s", notes[-1])
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
    files = graph_files(bundle, "openvino", precision, _native(), ("int8",))
    graph, sums = [bundle.read(name) for name in files], [bundle.sha256(name) for name in files]
    return OpenVinoEngine(_Source.of(bundle, precision, graph, sums), threads)


def open_ir(graph: tuple[bytes, bytes], bundle: bundles.Bundle, *, threads: int) -> OpenVinoEngine:
    """Compile the content of an .xml and its .bin, in the precision that the graph says it was made for."""
    try:
        model = _core().read_model(*graph)
        noted = model.has_rt_info(PRECISION_NOTE)
        precision = str(model.get_rt_info(PRECISION_NOTE).astype(str)) if noted else "fp32"
    except Exception as error:  # its message may not even be UTF-8
        raise EngineError(f"openvino: refused {bundle.path} ({reason(error)})") from error
    if precision not in ("fp32", "fp16", "int8"):
        raise EngineError(f"openvino: refused {bundle.path} (it says that its precision is {precision!r:.40})")
    sums = [hashlib.sha256(part).hexdigest() for part in graph]
    return OpenVinoEngine(_Source.of(bundle, precision, graph, sums), threads)


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
