"""OpenVINO on the CPU: the default."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy.engines import Lazy, reason, refuse_precision
from visdeploy.errors import EngineError

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
PRECISION_NOTE = ["visdeploy", "precision"]
"""Where an exported graph says what it computes in."""


def version() -> str:
    """Return the version of the installed package."""
    import openvino

    return str(openvino.__version__).split("-")[0]


def precisions() -> tuple[str, ...]:
    """Return what it can compute in here."""
    native = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in _HINTS if name.upper() in native)


class OpenVinoEngine:
    """The network compiled for calls, for lanes, and for each of them with batches, as they are needed.

    A lane calls the network synchronously: its stream then computes on the calling thread, and none is added.
    """

    name = "openvino"

    def __init__(
        self, bundle: bundles.Bundle, precision: str, threads: int, graph: tuple[bytes, bytes] | None = None
    ) -> None:
        self.version = version()
        self.precision = precision
        self.lanes = threads
        native = bundle.manifest.resize == "native"
        height, width = (-1, -1) if native else bundle.manifest.size
        self._single = -1 if native else 1  # a fixed batch gains only where nothing else varies
        path = bundle.path
        source = graph or (bundle.read(bundles.ONNX), b"")

        def compiled(purpose: tuple[int, int]) -> _Network:
            streams, batch = purpose
            # Unless told otherwise OpenVINO computes in bf16 wherever the processor has it, and pins threads to cores,
            # the calling one too: in a second process to the same cores.
            settings = {
                "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,
            } | ({"NUM_STREAMS": streams} if streams > 1 else {"PERFORMANCE_HINT": "LATENCY"})
            try:
                return _Network(_compile(source, (batch, height, width, 3), settings))
            except Exception as error:  # its message may not even be UTF-8
                raise EngineError(f"openvino: refused {path} ({reason(error)})") from error

        self._networks = Lazy(compiled)
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


class _Network:
    """A compiled model, and as many inference requests as were ever busy at once."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: list[Any] = []

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
    """Compile the bundle's ONNX graph for single calls."""
    for form in bundle.manifest.variants:
        if (form.engine, form.precision) == ("openvino", precision) and form.files:
            weights, graph = (bundle.read(name) for name in sorted(form.files))
            return OpenVinoEngine(bundle, precision, threads, (graph, weights))
    refuse_precision("openvino", precision, precisions())
    return OpenVinoEngine(bundle, precision, threads)


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
    return OpenVinoEngine(bundle, precision, threads, graph)


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _compile(graph: tuple[bytes, bytes], shape: tuple[int, ...], settings: dict[str, Any]) -> Any:
    import openvino

    model = _core().read_model(*graph)
    if model.inputs[0].partial_shape.is_dynamic:
        model.reshape({0: openvino.PartialShape(shape)})
    return _core().compile_model(model, "CPU", settings)
