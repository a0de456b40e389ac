"""OpenVINO on the CPU: the default."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy.engines import Lazy, reason, refuse_precision
from visdeploy.errors import EngineError

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def version() -> str:
    """Return the version of the installed package."""
    import openvino

    return str(openvino.__version__).split("-")[0]


class OpenVinoEngine:
    """The network compiled for calls, for lanes, and for each of them with batches, as they are needed.

    A lane calls the network synchronously: its stream then computes on the calling thread, and none is added.
    """

    name = "openvino"

    def __init__(self, bundle: bundles.Bundle, precision: str, threads: int) -> None:
        self.version = version()
        self.precision = precision
        self.lanes = threads
        native = bundle.manifest.resize == "native"
        height, width = (-1, -1) if native else bundle.manifest.size
        self._single = -1 if native else 1  # a fixed batch gains only where nothing else varies
        graph, path = bundle.read(bundles.ONNX), bundle.path

        def compiled(purpose: tuple[int, int]) -> _Network:
            streams, batch = purpose
            # Unless told otherwise OpenVINO computes in bf16 wherever the processor has it, and pins threads to cores,
            # the calling one too: in a second process to the same cores.
            settings = {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,
            } | ({"NUM_STREAMS": streams} if streams > 1 else {"PERFORMANCE_HINT": "LATENCY"})
            try:
                return _Network(_compile(graph, (batch, height, width, 3), settings))
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
    native = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    refuse_precision("openvino", precision, [name for name in _HINTS if name.upper() in native])
    return OpenVinoEngine(bundle, precision, threads)


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _compile(graph: bytes, shape: tuple[int, ...], settings: dict[str, Any]) -> Any:
    import openvino

    model = _core().read_model(graph)
    if model.inputs[0].partial_shape.is_dynamic:
        model.reshape({0: openvino.PartialShape(shape)})
    return _core().compile_model(model, "CPU", settings)
