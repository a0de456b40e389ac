"""A file that answers boxes or masks itself: what `export --format torchscript` and `--format onnx` write."""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from visdeploy.asked import Asked
from visdeploy.bundle import Bundle
from visdeploy.engines import cpu_quota, installed, reason
from visdeploy.errors import EngineError, MissingDependencyError, VisdeployError
from visdeploy.image import ImageSource, decode
from visdeploy.ops import Detections
from visdeploy.postprocess import boxes_at_source, cleaned, find
from visdeploy.preprocess import prepare, resampled_by_opencv
from visdeploy.spec import Manifest
from visdeploy.types import PARTS, Boxes, Classes, Found, Masks, Picture, Result

OUTPUTS = ("boxes", "scores", "labels", "counts")
"""What a detector's graph answers: see `torch.ops.visdeploy.detect`."""

_LONGEST_SOURCE = 1 << 24

Pixels = NDArray[np.uint8]
Run = Callable[[Pixels], Sequence[NDArray[Any]]]


class AnsweringFile:
    """In the place of an engine and the predictor over it, for `verify`.

    Args:
        name: Of the engine that runs the file.
        version: Of its package.
        spec: The bundle's.
        answer: Returns what the file finds in an (H, W, 3) image of any size.
    """

    precision = "fp32"

    def __init__(self, name: str, version: str, spec: Manifest, answer: Callable[[Pixels], Found]) -> None:
        self.name, self.version, self.spec = name, version, spec
        self._answer = answer

    @property
    def engine(self) -> Self:
        """What runs the network."""
        return self

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Result]:
        """Predict one image after the other, as `Predictor.stream` does."""
        for index, source in enumerate(images):
            named = str(source) if isinstance(source, str | Path) else ""
            result = Result(named, index, self.spec.labels, self.spec.palette)
            try:
                pixels = decode(source)
                found = self._answer(pixels)
            except VisdeployError as error:
                yield replace(result, error=error)
            except Exception as error:  # engines share no base class, and a file may answer anything
                yield replace(result, error=EngineError(f"{self.name}: inference failed ({reason(error)})"))
            else:
                part: dict[str, Any] = {PARTS[type(found)]: found}
                yield replace(result, size=pixels.shape[:2], **part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open_onnx(path: Path, graph: bytes, bundle: Bundle) -> AnsweringFile:
    """Open a graph that answers `OUTPUTS` in ONNX Runtime or else OpenVINO.

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
        version, run = run_in(graph, bundle.manifest.input_name, str(path))
    except EngineError:
        raise
    except Exception as error:  # engines share no base class but Exception
        raise EngineError(f"{name}: refused {path} ({reason(error)})") from error
    spec = bundle.manifest
    return AnsweringFile(name, version, spec, lambda pixels: _detected(run, pixels, spec))


def _onnxruntime(graph: bytes, images: str, path: str) -> tuple[str, Run]:
    import onnxruntime

    from visdeploy.engines import onnxruntime as adapter

    session = adapter.open_session(graph, cpu_quota(), path)
    return onnxruntime.__version__, lambda batch: session.run(None, {images: batch})


def _openvino(graph: bytes, images: str, path: str) -> tuple[str, Run]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cpu_quota(), "ENABLE_CPU_PINNING": False}
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    return openvino.__version__, lambda batch: [np.array(part) for part in compiled({images: batch}).values()]


def of_script(module: Any, version: str, bundle: Bundle) -> AnsweringFile | None:
    """Wrap a loaded TorchScript file; None where it has no `predict`.

    Raises:
        EngineError: It says that it is another model than the bundle's.
    """
    import torch

    if not hasattr(module, "predict"):
        return None
    spec = bundle.manifest
    for name, expected in (("task", spec.task), ("labels", [*spec.labels]), ("size", [*spec.size])):
        if (told := getattr(module, name, None)) != expected:
            raise EngineError(f"torchscript: the file's {name} is {told!r:.80}, the bundle's {expected!r:.80}")

    def forward(batch: Pixels) -> Sequence[NDArray[Any]]:
        answer = module(torch.from_numpy(np.array(batch)))
        return [part.numpy() for part in (answer if isinstance(answer, tuple) else [answer])]

    def answer(pixels: Pixels) -> Found:
        with torch.inference_mode():
            if not resampled_by_opencv(pixels.shape[:2], spec):
                return _predicted(module.predict(torch.from_numpy(np.array(pixels))), pixels.shape[:2], spec)
            # The file's own samples are up to a level away.
            if spec.task == "detection":
                return _detected(forward, pixels, spec)
            prepared = prepare(pixels, spec)
            return next(find(forward(np.asarray(prepared.pixels)[None])[0], [prepared], spec, None, Asked()))

    return AnsweringFile("torchscript", version, spec, answer)


def _detected(run: Run, pixels: Pixels, spec: Manifest) -> Boxes:
    """Return what a detector finds that answers `OUTPUTS` for a batch at the network's size."""
    prepared = prepare(pixels, spec)
    boxes, scores, labels, counts = run(np.asarray(prepared.pixels)[None])
    found = Detections(*(np.ascontiguousarray(part[0, : counts[0]]) for part in (boxes, scores, labels)))
    _check_labels(found.labels, spec)
    return boxes_at_source(found, prepared, spec)


def _predicted(answer: Any, size: tuple[int, int], spec: Manifest) -> Found:
    """Return what the method `predict` of a file means, see `torchscript_file.export_torchscript`."""
    if spec.task == "classification":
        probabilities = answer.numpy()
        best = int(probabilities.argmax())
        return Classes(probabilities, best, spec.labels[best], float(probabilities[best]))
    if spec.task == "restoration":
        return Picture(answer.numpy())
    parts = [part.numpy() for part in answer]
    if spec.task == "segmentation":
        labels, text, offsets = parts
        _check_labels(labels, spec)
        counts = [text[start:end].tobytes() for start, end in pairwise(offsets)]
        masks = [{"size": list(size), "counts": entry} for entry in counts]
        # The file leaves that to who runs it.
        found = cleaned(list(zip(labels.tolist(), masks, strict=True)), size, spec)
        labels = np.array([label for label, _ in found], np.int64)
        return Masks([rle for _, rle in found], labels, size, spec.background, None, spec.activation)
    boxes, scores, labels = parts
    _check_labels(labels, spec)
    return Boxes(boxes, scores, labels, tuple(spec.labels[label] for label in labels))


def _check_labels(labels: NDArray[Any], spec: Manifest) -> None:
    known = [index for index in range(len(spec.labels)) if index != spec.background]
    if not np.isin(labels, known).all():
        raise EngineError(f"the file answered labels other than {known[0]} to {known[-1]}")


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
