"""A network in a file of its own, as `visdeploy export --format` writes it, opened to be replayed by `verify`."""

import io
import logging
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from visdeploy import bundle as bundles
from visdeploy.engines import Engine, answering_file, cpu_quota, load_adapter, open_engine, reason
from visdeploy.engines.answering_file import AnsweringFile
from visdeploy.engines.torchscript import TorchEngine
from visdeploy.errors import EngineError, InputError, requires
from visdeploy.onnx_files import has_external_data, output_names
from visdeploy.spec import MAX_BYTES

SUFFIXES = (".pt2", ".xml", ".engine", ".onnx", ".ts")


def open_file(path: str | Path, bundle: bundles.Bundle) -> Engine | AnsweringFile:
    """Load a file in place of the network of the bundle that it was made from.

    One that answers boxes or masks itself is no engine.

    Opening a .pt2 or a .ts may run code that is in it, as with every model in PyTorch's formats: open what you trust.

    Raises:
        InputError: There is no such file, or its suffix is none of `SUFFIXES`.
        MissingDependencyError: What runs the file is not installed.
        EngineError: The file is damaged, or not what its name says.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"[verify] file: expected {', '.join(SUFFIXES)}, got {path}")
    if path.suffix == ".engine":
        tensorrt = load_adapter("tensorrt")
        built: Engine = tensorrt.open_file(path, bundle)
        return built
    data = _read(path)
    if path.suffix == ".pt2":
        return _open_pt2(path, data)
    if path.suffix == ".xml":
        weights = _read(path.with_suffix(".bin"))
        adapter = load_adapter("openvino")
        opened: Engine = adapter.open_ir((data, weights), replace(bundle, path=path), threads=cpu_quota())
        return opened
    if path.suffix == ".onnx":
        if has_external_data(data):
            raise EngineError(f"[verify] file: {path} keeps weights in other files; save it as one")
        if output_names(data) != answering_file.OUTPUTS:
            return _in_place(bundle, path, bundles.ONNX, data, "auto")
        if (task := bundle.manifest.task) != "detection":
            raise EngineError(f"[verify] file: {path} answers boxes, the bundle's task is {task}")
        return answering_file.open_onnx(path, data, bundle)
    if answering_file.calls_our_ops(data, path):
        import visdeploy.torch_ops  # noqa: F401  (which the file needs to be loaded)
    script: Any = _in_place(bundle, path, bundles.TORCHSCRIPT, data, "torchscript")
    return answering_file.of_script(script.module, script.version, bundle) or script


def _in_place(bundle: bundles.Bundle, path: Path, name: str, data: bytes, engine: str) -> Engine:
    return open_engine(engine, replace(bundle, path=path, files={name: data}), precision="fp32")


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        # A device or a pipe may have no end.
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise InputError(f"[verify] file: expected a file of at most {MAX_BYTES} bytes, got {path}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"[verify] file: cannot read {path} ({error.strerror})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the traceback that torch logs of an archive it refuses, which the exception says in a sentence."""
    logger = logging.getLogger("torch.export")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _open_pt2(path: Path, data: bytes) -> TorchEngine:
    with requires(f"{path} needs torch to run", "torchscript"):
        import torch
    # torch reads a file that is no archive as an older format of its own, and warns at length before it fails.
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise EngineError(f"torch.export: refused {path} (not a zip archive, or cut short)")
    torch.set_num_threads(cpu_quota())
    try:
        with _quiet():
            module: Any = torch.export.load(io.BytesIO(data)).module()
    except Exception as error:  # whatever the archive provokes
        raise EngineError(f"torch.export: refused {path} ({reason(error)})") from error
    return TorchEngine("torch.export", module)
