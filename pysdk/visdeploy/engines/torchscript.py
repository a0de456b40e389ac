"""TorchScript through torch: the reference that every other engine is verified against."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy.engines import cpu_name, graph_files, reason
from visdeploy.errors import EngineError


def version() -> str:
    """Return the version of the installed package."""
    import torch

    return str(torch.__version__)


def device() -> str:
    """Return the name and vector instructions of the processor."""
    return cpu_name()


def precisions() -> tuple[str, ...]:
    """Return what it can compute in here."""
    return ("fp32",)


@contextmanager
def accepting_deprecation() -> Iterator[None]:
    """Let TorchScript be used without torch's notice that `torch.export` will succeed it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        yield


class TorchEngine:
    """One loaded module of torch: a script, or an exported graph.

    torch has one number of threads for the whole process, and starts that many for each thread that calls it. So one
    call computes at a time, on all of them, and a second lane only prepares and finishes what the first computes.
    """

    lanes = 2
    precision = "fp32"

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.version = version()
        self.notes: list[str] = []
        self.module = module
        self._lock = threading.Lock()

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Run one batch; see `Engine.infer`."""
        import torch

        # torch cannot wrap memory that numpy holds read-only, and would warn.
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        try:
            with self._lock, torch.inference_mode():
                logits = self.module(batch).float().numpy(force=True)
        except Exception as error:  # its message may not even be UTF-8
            raise EngineError(f"{self.name}: inference failed on input {images.shape} ({reason(error)})") from error
        return np.asarray(logits)

    def close(self) -> None:
        """Release the module."""
        self.module = None


def open_engine(bundle: bundles.Bundle, *, precision: str, threads: int) -> TorchEngine:
    """Load the bundle's script module; `threads` holds for all of torch in this process."""
    import torch

    (name,) = graph_files(bundle, "torchscript", precision, {"fp32": bundles.TORCHSCRIPT})
    torch.set_num_threads(threads)
    file = io.BytesIO(bundle.read(name))
    try:
        with accepting_deprecation():
            module = torch.jit.load(file, map_location="cpu")
    except Exception as error:  # its message may not even be UTF-8
        raise EngineError(f"torchscript: refused {bundle.path} ({reason(error)})") from error
    return TorchEngine("torchscript", module.eval())
