"""OpenVINO on the CPU: the default."""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy.engines import reason, refuse_precision
from visdeploy.errors import EngineError

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def version() -> str:
    """Return the version of the installed package."""
    import openvino

    return str(openvino.__version__).split("-")[0]


class OpenVinoEngine:
    """One compiled model, and an inference request per calling thread."""

    name = "openvino"
    lanes = 1

    def __init__(self, compiled: Any, precision: str) -> None:
        self.version = version()
        self.precision = precision
        self._compiled = compiled
        self._local = threading.local()

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Run one batch; see `Engine.infer`."""
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        try:
            outputs = request.infer({0: images}, share_inputs=True, share_outputs=True)
        except Exception as error:  # its message may not even be UTF-8
            raise EngineError(f"openvino: inference failed on input {images.shape} ({reason(error)})") from error
        # The request owns its output and the next call overwrites it.
        return np.array(outputs[0], np.float32)

    def close(self) -> None:
        """Release the compiled model."""
        self._compiled = None
        self._local = threading.local()


def open_engine(bundle: bundles.Bundle, *, precision: str, threads: int) -> OpenVinoEngine:
    """Compile the bundle's ONNX graph; a fixed image size is made static, which runs faster."""
    import openvino

    core = openvino.Core()
    spec = bundle.manifest
    made = [variant for variant in spec.variants if (variant.engine, variant.precision) == ("openvino", "int8")]
    if precision == "int8" and made and made[0].files:
        weights, graph = (bundle.read(name) for name in sorted(made[0].files))
    else:
        native = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        refuse_precision("openvino", precision, [name for name in _HINTS if name.upper() in native])
        weights, graph = b"", bundle.read(bundles.ONNX)
    height, width = (-1, -1) if spec.resize == "native" else spec.size
    try:
        model = core.read_model(graph, weights) if weights else core.read_model(graph)
        if model.inputs[0].partial_shape.is_dynamic:
            model.reshape({0: openvino.PartialShape([-1, height, width, 3])})
        # Unless told otherwise OpenVINO computes in bf16 wherever the processor has it.
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        return OpenVinoEngine(core.compile_model(model, "CPU", settings), precision)
    except Exception as error:  # its message may not even be UTF-8
        raise EngineError(f"openvino: refused {bundle.path} ({reason(error)})") from error
