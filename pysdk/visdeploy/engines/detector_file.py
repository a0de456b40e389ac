"""A detector in a file that answers boxes, as `visdeploy export --format torchscript` and `--format onnx` write it."""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from visdeploy.bundle import Bundle
from visdeploy.engines import cpu_quota, installed, reason
from visdeploy.errors import EngineError, MissingDependencyError, VisdeployError
from visdeploy.image import ImageSource, decode
from visdeploy.ops import Detections
from visdeploy.postprocess import boxes_at_source
from visdeploy.preprocess import prepare
from visdeploy.types import Result

OUTPUTS = ("boxes", "scores", "labels", "counts")
"""What such a graph answers: see `torch.ops.visdeploy.detect`."""

_LONGEST_SOURCE = 1 << 24

Run = Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]


class DetectorFile:
    """In the place of an engine and the predictor over it, for `verify`."""

    precision = "fp32"

    def __init__(self, name: str, version: str, run: Run, bundle: Bundle) -> None:
        self.name, self.version = name, version
        self.spec = bundle.manifest
        self._run = run

    @property
    def engine(self) -> Self:
        """What runs the network."""
        return self

    def detect(self, images: NDArray[np.uint8]) -> list[Detections]:
        """Return what it finds in (B, h, w, 3) images of the network's size, in their pixels.

        Raises:
            EngineError: It fails, or answers something else than `OUTPUTS`.
        """
        try:
            boxes, scores, labels, counts = self._run(images)
            found = [
                Detections(*(np.ascontiguousarray(part[index, :count]) for part in (boxes, scores, labels)))
                for index, count in enumerate(counts.tolist())
            ]
            known = all(np.isin(one.labels, range(1, len(self.spec.labels))).all() for one in found)
        except Exception as error:  # engines share no base class, and a file may answer anything
            raise EngineError(f"{self.name}: inference failed on input {images.shape} ({reason(error)})") from error
        if not known:
            raise EngineError(f"{self.name}: answered labels other than 1 to {len(self.spec.labels) - 1}")
        return found

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Result]:
        """Predict one image after the other, as `Predictor.stream` does."""
        for index, source in enumerate(images):
            result = Result(
                str(source) if isinstance(source, str | Path) else "", index, self.spec.labels, self.spec.palette
            )
            try:
                pixels = decode(source)
                prepared = prepare(pixels, self.spec)
                (found,) = self.detect(np.asarray(prepared.pixels)[None])
                boxes = boxes_at_source(found, prepared, self.spec)
                yield Result(result.source, index, result.labels, result.palette, pixels.shape[:2], boxes=boxes)
            except VisdeployError as error:
                yield Result(result.source, index, result.labels, result.palette, error=error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open_onnx(path: Path, graph: bytes, bundle: Bundle) -> DetectorFile | None:
    """Open a graph in ONNX Runtime or else OpenVINO; None where it answers something else than boxes.

    Raises:
        MissingDependencyError: Neither is installed.
        EngineError: The graph is refused.
    """
    here = installed()
    name = next((name for name in ("onnxruntime", "openvino") if name in here), None)
    if name is None:
        raise MissingDependencyError(
            f"{path} needs onnxruntime or openvino to run: pip install 'visdeploy[onnxruntime]'"
        )
    try:
        run_in = _onnxruntime if name == "onnxruntime" else _openvino
        outputs, version, run = run_in(graph, bundle.manifest.input_name, str(path))
    except EngineError:
        raise
    except Exception as error:  # engines share no base class but Exception
        raise EngineError(f"{name}: refused {path} ({reason(error)})") from error
    return DetectorFile(name, version, run, bundle) if outputs == OUTPUTS else None


def _onnxruntime(graph: bytes, images: str, path: str) -> tuple[tuple[str, ...], str, Run]:
    import onnxruntime

    from visdeploy.engines import onnxruntime as adapter

    session = adapter.open_session(graph, cpu_quota(), path)
    names = tuple(output.name for output in session.get_outputs())
    return names, onnxruntime.__version__, lambda batch: session.run(None, {images: batch})


def _openvino(graph: bytes, images: str, path: str) -> tuple[tuple[str, ...], str, Run]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cpu_quota(), "ENABLE_CPU_PINNING": False}
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    names = tuple(output.any_name for output in compiled.outputs)
    return names, openvino.__version__, lambda batch: [np.array(part) for part in compiled({images: batch}).values()]


def of_script(module: Any, version: str, bundle: Bundle) -> DetectorFile | None:
    """Wrap a loaded TorchScript file; None where it answers something else than boxes."""
    import torch

    forward = getattr(module, "forward", None)
    if forward is None:
        return None
    answer = forward.schema.returns[0].type
    if answer.kind() != "TupleType" or len(answer.elements()) != len(OUTPUTS):
        return None

    def run(batch: NDArray[np.uint8]) -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            return [part.numpy() for part in module(torch.from_numpy(np.array(batch)))]

    return DetectorFile("torchscript", version, run, bundle)


def calls_our_ops(script: bytes, path: Path) -> bool:
    """Return whether the code of a TorchScript file calls `torch.ops.visdeploy`.

    Raises:
        EngineError: The file is damaged. torch compares no checksums, and may end the process over what is damaged.
    """
    try:
        with zipfile.ZipFile(BytesIO(script)) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"its part {damaged} is damaged")
            sources = [entry for entry in archive.infolist() if entry.filename.endswith(".py")]
            return any(
                b"ops.visdeploy." in archive.read(entry) for entry in sources if entry.file_size <= _LONGEST_SOURCE
            )
    except Exception as error:  # of zipfile, zlib, struct and more
        raise EngineError(f"torchscript: refused {path} ({reason(error)})") from error
