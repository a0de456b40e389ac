"""ONNX Runtime on the CPU."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy.engines import Lazy, cpu_name, graph_files, reason
from visdeploy.errors import EngineError


def version() -> str:
    """Return the version of the installed package."""
    import onnxruntime

    return str(onnxruntime.__version__)


def device() -> str:
    """Return the name and vector instructions of the processor."""
    return cpu_name()


def precisions() -> tuple[str, ...]:
    """Return what it can compute in here."""
    return ("fp32", "int8")


class OnnxRuntimeEngine:
    """A session of all threads for a call, and one of one thread for the lanes."""

    name = "onnxruntime"

    def __init__(self, bundle: bundles.Bundle, precision: str, file: str, threads: int) -> None:
        self.version = version()
        self.precision = precision
        self.notes: list[str] = []
        self.lanes = threads
        self._input = bundle.manifest.input_name
        graph, path = bundle.read(file), bundle.path
        self._sessions: Lazy[int, Any] = Lazy(lambda threads: open_session(graph, threads, str(path)))
        self._sessions[threads]

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Run one batch; see `Engine.infer`."""
        session = self._sessions[self.lanes if alone else 1]
        try:
            (logits,) = session.run(None, {self._input: images})
        except Exception as error:  # its exceptions share no base class but Exception
            raise EngineError(f"onnxruntime: inference failed on input {images.shape} ({reason(error)})") from error
        return np.asarray(logits, np.float32)

    def close(self) -> None:
        """Release the sessions."""
        self._sessions.close()


def open_engine(bundle: bundles.Bundle, *, precision: str, threads: int) -> OnnxRuntimeEngine:
    """Load the bundle's ONNX graph."""
    (file,) = graph_files(bundle, "onnxruntime", precision, {"fp32": bundles.ONNX}, ("int8",))
    return OnnxRuntimeEngine(bundle, precision, file, threads)


def open_session(graph: bytes, threads: int, path: str) -> Any:
    """Load a graph, of which `path` is the name in what is raised."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised here, not printed as well
    # Spinning workers take the cores that decoding and other engines need between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # its exceptions share no base class but Exception
        raise EngineError(f"onnxruntime: refused {path} ({reason(error)})") from error
