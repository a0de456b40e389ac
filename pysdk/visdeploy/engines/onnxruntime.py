"""ONNX Runtime on the CPU."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy.engines import reason, refuse_precision
from visdeploy.errors import EngineError


def version() -> str:
    """Return the version of the installed package."""
    import onnxruntime

    return str(onnxruntime.__version__)


class OnnxRuntimeEngine:
    """One inference session."""

    name = "onnxruntime"
    lanes = 1
    precision = "fp32"

    def __init__(self, session: Any, input_name: str) -> None:
        self.version = version()
        self._session = session
        self._input = input_name

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Run one batch; see `Engine.infer`."""
        try:
            (logits,) = self._session.run(None, {self._input: images})
        except Exception as error:  # its exceptions share no base class but Exception
            raise EngineError(f"onnxruntime: inference failed on input {images.shape} ({reason(error)})") from error
        return np.asarray(logits, np.float32)

    def close(self) -> None:
        """Release the session."""
        self._session = None


def open_engine(bundle: bundles.Bundle, *, precision: str, threads: int) -> OnnxRuntimeEngine:
    """Load the bundle's ONNX graph."""
    import onnxruntime

    refuse_precision("onnxruntime", precision, ("fp32",))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised here, not printed as well
    # Spinning workers take the cores that decoding and other engines need between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = bundle.read(bundles.ONNX)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # its exceptions share no base class but Exception
        raise EngineError(f"onnxruntime: refused {bundle.path} ({reason(error)})") from error
    return OnnxRuntimeEngine(session, bundle.manifest.input_name)
