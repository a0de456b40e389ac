"""Builds TensorRT engines from bundles, in a process of their own, and writes them with a sidecar that describes them.

Nothing is prepended to a plan; what it does not reveal without a driver is in PATH.json.
"""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import visdeploy
from visdeploy import errors
from visdeploy.bundle import ONNX, Bundle
from visdeploy.engines import graph_files, reason, tensorrt_library
from visdeploy.engines.cuda import Device, find_device
from visdeploy.engines.tensorrt_compile import Options, to_json
from visdeploy.errors import EngineError, InputError, MissingDependencyError
from visdeploy.spec import Manifest
from visdeploy.whole_file import whole_file

Progress = Callable[[str, float], None]
Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]

PRECISIONS: Final = ("fp32", "fp16", "int8")
"""What export makes graphs for."""

_MAX_SIDECAR: Final = 1 << 20


class Profile(BaseModel):
    """Smallest, best and largest shape of an input."""

    model_config = ConfigDict(frozen=True)

    min: Shape
    opt: Shape
    max: Shape


class Tensor(BaseModel):
    """An input or output of an engine; -1 stands for a size that a profile leaves open."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: Shape
    profiles: tuple[Profile, ...] = ()


class Sidecar(BaseModel):
    """PATH.json: what an engine's plan is.

    Attributes:
        format: Of this file.
        visdeploy: Version that wrote it.
        library: "tensorrt" or "tensorrt_rtx", whose `library_version` alone reads the plan unless it is
            `version_compatible`.
        precision: What the graph computes in.
        model: Member of the bundle that the engine was built from.
        model_sha256: That member's digest.
        engine_sha256: The plan's digest.
        engine_size: The plan's length in bytes.
        inputs: One, uint8 (B, h, w, 3).
        outputs: One, (B, C, h', w').
        compute_capabilities: GPUs that tensorrt_rtx built it for, such as "8.9"; empty for what it takes by itself.
        gpu: The one that tensorrt built it on and for.
        version_compatible: Later versions of the library can load it.
        hardware_compatible: "none", "ampere+" or "same".
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    visdeploy: str
    library: Literal["tensorrt", "tensorrt_rtx"]
    library_version: str
    precision: str
    model: str
    model_sha256: str
    engine_sha256: str
    engine_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    compute_capabilities: tuple[str, ...] = ()
    gpu: str | None = None
    version_compatible: bool = False
    hardware_compatible: str = "none"


@dataclass(frozen=True)
class Plan:
    """A built engine, and what the build measured on this GPU; nothing where tensorrt_rtx built it."""

    data: bytes
    sidecar: Sidecar
    timing: bytes = b""


def export_engine(
    bundle: Bundle,
    path: str | Path,
    *,
    precision: str = "auto",
    compute_capabilities: Sequence[tuple[int, int]] = (),
    version_compatible: bool = False,
    hardware_compatible: Literal["none", "ampere+", "same"] = "none",
    progress: Progress | None = None,
) -> Sidecar:
    """Build an engine and write it to `path`, with its sidecar in PATH.json: both, or neither.

    With compute capabilities named, or without a GPU, this is tensorrt_rtx's ahead-of-time build, which needs neither
    GPU nor driver. Otherwise the engine is for the GPU at hand, and tensorrt's where that is installed.

    Args:
        bundle: An opened bundle.
        path: The engine to write, such as car.engine.
        precision: As in `load`; "auto" is fp16 where the bundle holds an accepted variant, else fp32.
        compute_capabilities: GPUs to build for, such as (8, 9).
        version_compatible: Let later versions of tensorrt load it, at some cost of speed. Not in tensorrt_rtx.
        hardware_compatible: Let other GPUs run it: "ampere+" from 8.0 on, "same" of this compute capability. Likewise.
        progress: Called with "parsing" or "building" and the share that is done.

    Raises:
        MissingDependencyError: The library that this needs is not installed.
        UnsupportedError: The library does not build for such a GPU, or the bundle has no graph of that precision.
        EngineError: The graph was refused, the build crashed or ran out of room.
        InputError: `path` cannot be written.
    """
    path = Path(path)
    if not path.name or not path.parent.is_dir() or path.is_dir() or sidecar_path(path).is_dir():
        raise InputError(f"cannot write {path}: expected the name of a file, in a folder that exists")
    device = find_device()[0]
    plan = build(
        bundle,
        library=_library(needs_no_gpu=bool(compute_capabilities) or device is None),
        precision=precision,
        device=None if compute_capabilities else device,
        compute_capabilities=compute_capabilities,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        progress=progress,
    )
    beside = sidecar_path(path)
    try:
        with whole_file(path) as partial, whole_file(beside) as partial_beside:
            partial.write_bytes(plan.data)
            partial_beside.write_text(plan.sidecar.model_dump_json(indent=1))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path} ({getattr(error, 'strerror', None) or error})") from error
    return plan.sidecar


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of an engine lies: PATH.json."""
    return path.with_name(path.name + ".json")


def read_engine(path: str | Path) -> Plan:
    """Read an engine and its sidecar, and check one against the other.

    Raises:
        InputError: One is missing, or the sidecar is not this engine's.
    """
    path = Path(path)
    beside = sidecar_path(path)
    try:
        if beside.stat().st_size > _MAX_SIDECAR:
            raise InputError(f"{beside}: expected at most {_MAX_SIDECAR} bytes")
        sidecar = Sidecar.model_validate_json(beside.read_bytes())
        data = path.read_bytes()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{beside}: not the sidecar of an engine ({field}: {first['msg']})") from error
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; an engine is read with its sidecar {beside}") from error
    if hashlib.sha256(data).hexdigest() != sidecar.engine_sha256:
        raise InputError(f"{path}: not the engine that {beside.name} describes; export it again")
    return Plan(data, sidecar)


def build(
    bundle: Bundle,
    *,
    library: str,
    precision: str,
    device: Device | None,
    compute_capabilities: Sequence[tuple[int, int]] = (),
    version_compatible: bool = False,
    hardware_compatible: Literal["none", "ampere+", "same"] = "none",
    timing: bytes = b"",
    progress: Progress | None = None,
) -> Plan:
    """Build an engine in a process of its own, which may crash; see `export_engine`."""
    precision = choose_precision(bundle, precision)
    member = graph_member(bundle, precision)
    graph = bundle.read(member)
    if library == "tensorrt_rtx" and device and not compute_capabilities:
        compute_capabilities = [device.compute_capability]
    options = Options(
        library=library,
        precision=precision,
        shapes=shapes_of(bundle.manifest),
        compute_capabilities=tuple(f"{major}.{minor}" for major, minor in dict.fromkeys(compute_capabilities)),
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )
    what = f"{bundle.path} ({member})"
    data, facts, timing = _compile(graph, timing, options, what, progress or (lambda phase, done: None))
    known = {
        "visdeploy": visdeploy.__version__,
        "library": library,
        "precision": precision,
        "model": member,
        "model_sha256": bundle.sha256(member),
        "engine_sha256": hashlib.sha256(data).hexdigest(),
        "engine_size": len(data),
        "compute_capabilities": options.compute_capabilities,
        "gpu": str(device) if device and not compute_capabilities else None,
        "version_compatible": version_compatible,
        "hardware_compatible": hardware_compatible,
    }
    return Plan(data, Sidecar.model_validate(known | facts), timing)


def choose_precision(bundle: Bundle, precision: str) -> str:
    """Return the precision that "auto" stands for where nothing can be timed."""
    if precision != "auto":
        return precision
    # No document promises that int8 is faster than fp16, so it has to be asked for, or timed.
    accepted = [entry.precision for entry in bundle.manifest.variants if entry.engine == "tensorrt" and entry.accepted]
    return "fp16" if "fp16" in accepted else "fp32"


def graph_member(bundle: Bundle, precision: str) -> str:
    """Return the name of the bundle's ONNX graph that computes in `precision`: types are in the graph, always.

    Raises:
        UnsupportedError: It has none.
    """
    return graph_files(bundle, "tensorrt", precision, {"fp32": ONNX}, PRECISIONS[1:])[0]


def shapes_of(spec: Manifest) -> Shapes:
    """Return the smallest, best and largest input (B, h, w, 3) that engines are prepared for.

    The size is fixed unless images keep theirs; then up to `max_size`, or twice `size` where the spec names none.
    """
    small, best, large = spec.size, spec.size, spec.size
    if spec.resize == "native":
        limit = spec.max_size or (2 * spec.size[0], 2 * spec.size[1])
        small = spec.divisor, spec.divisor
        large = _up(limit[0], spec.divisor), _up(limit[1], spec.divisor)
        best = min(_up(spec.size[0], spec.divisor), large[0]), min(_up(spec.size[1], spec.divisor), large[1])
    return (1, *small, 3), (spec.max_batch, *best, 3), (spec.max_batch, *large, 3)


def _up(side: int, divisor: int) -> int:
    return -(-side // divisor) * divisor


def _library(needs_no_gpu: bool) -> str:
    found = tensorrt_library.installed()
    if not needs_no_gpu and found:
        return found[0]
    if "tensorrt_rtx" in found:
        return "tensorrt_rtx"
    if needs_no_gpu:
        raise MissingDependencyError(
            "an engine for a GPU that is not here is built by tensorrt_rtx, which is not installed: "
            "pip install 'visdeploy[tensorrt-rtx]'"
        )
    raise MissingDependencyError(f"engines are built by tensorrt or tensorrt_rtx: {tensorrt_library.INSTALL}")


def _compile(
    graph: bytes, timing: bytes, options: Options, what: str, progress: Progress
) -> tuple[bytes, dict[str, Any], bytes]:
    try:
        with TemporaryDirectory(prefix="visdeploy-build-", ignore_cleanup_errors=True) as folder:
            (Path(folder) / "graph.onnx").write_bytes(graph)
            (Path(folder) / "timing").write_bytes(timing)
            (Path(folder) / "options.json").write_text(to_json(options))
            return _compile_in(Path(folder), options, what, progress)
    except OSError as error:
        raise EngineError(f"{options.library}: cannot build {what} ({error.strerror or error})") from error


def _compile_in(folder: Path, options: Options, what: str, progress: Progress) -> tuple[bytes, dict[str, Any], bytes]:
    phase, failure = "starting", None
    with (folder / "log").open("w+b") as log:
        # The folder is where a graph's references to other files lead; Ctrl-C is for this process to pass on.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "visdeploy.engines.tensorrt_compile", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
        with process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    message = json.loads(line)
                    if "error" in message:
                        failure = message
                    else:
                        phase = message["phase"]
                        progress(phase, message["done"])
                code = process.wait()
            finally:
                process.kill()
        log.seek(0)
        last_words = log.read().decode(errors="replace")
    if failure:
        kind: type[errors.VisdeployError] = getattr(errors, failure["kind"])
        # What was asked for is impossible with any graph, or this one was refused.
        raise kind(
            failure["error"] if kind is not EngineError else f"{options.library}: refused {what}: {failure['error']}"
        )
    if code:
        end = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        said = reason(RuntimeError(last_words)) if last_words.strip() else "no message"
        raise EngineError(
            f"{options.library}: refused {what}: the process that builds ended {end} while {phase} ({said})"
        )
    facts = json.loads((folder / "facts.json").read_text())
    return (folder / "plan").read_bytes(), facts, (folder / "timing").read_bytes()
