"""Compiles one ONNX graph into a TensorRT engine: what runs in the process that `tensorrt_build.build` starts.

TensorRT's parser ends the process on some graphs, so it never runs in the caller's. The folder given on the command
line holds `graph.onnx`, `options.json` and `timing`, and receives `plan`, `facts.json` and `timing`; standard output
carries one JSON object a line, {"phase", "done"} or at last {"error", "kind"}. The process ends with its parent, whose
end closes standard input.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from visdeploy import errors
from visdeploy.engines.tensorrt_library import Library, open_library
from visdeploy.errors import EngineError, UnsupportedError

Report = Callable[[str, float], None]

_NUMPY = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        library: "tensorrt" or "tensorrt_rtx".
        precision: What the graph computes in: with fp32, TF32 is off.
        shapes: Smallest, best and largest shape of the input, (B, h, w, 3); for what the graph leaves open.
        compute_capabilities: GPUs to build for, such as "8.9"; none for what the library takes by itself.
        version_compatible: Later versions of the library can load the engine.
        hardware_compatible: "none", "ampere+" (compute capability 8.0 and later) or "same" (this capability).
    """

    library: str
    precision: str
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: str = "none"


@dataclass
class _Phases:
    """How far a build has come, from TensorRT's nested phases."""

    open: list[tuple[str, int, int]] = field(default_factory=list)
    furthest: float = 0.0

    def start(self, name: str, steps: int) -> None:
        self.open.append((name, max(1, steps), 0))

    def step(self, name: str, index: int) -> None:
        self.open = [(key, steps, index + 1 if key == name else done) for key, steps, done in self.open]

    def finish(self, name: str) -> None:
        self.open = [entry for entry in self.open if entry[0] != name]

    @property
    def done(self) -> float:
        share, total = 1.0, 0.0
        for _, steps, done in self.open:
            total += share * min(done, steps) / steps
            share /= steps
        self.furthest = max(self.furthest, min(total, 1.0))  # phases that end at once would take it back
        return self.furthest


def compile_graph(
    library: Library, graph: bytes, options: Options, report: Report, timing: bytes = b""
) -> tuple[bytes, dict[str, Any], bytes]:
    """Build an engine in this process.

    Args:
        library: Which builds it.
        graph: An ONNX file.
        options: What to build.
        report: Called with the phase and the share of it that is done.
        timing: What earlier builds measured here.

    Returns:
        The plan; what it does not reveal without a driver: `inputs` and `outputs`, each with name, dtype and shape;
        and what is measured by now, where the library measures.

    Raises:
        UnsupportedError: The library has no such option, or does not build for such a GPU.
        EngineError: The graph is refused; the message is the library's own.
    """
    trt = library.module
    log = make_log(trt)
    report("parsing", 0.0)
    builder = trt.Builder(log)
    # 10 types weakly unless told otherwise; 11 and RTX know nothing else, and accept to be told.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        raise EngineError("; ".join(_parser_errors(parser)) or log.sentence("the graph cannot be parsed"))
    if not network.num_outputs or network.num_inputs != 1:
        raise EngineError(
            f"expected a graph with one input and an output, got {network.num_inputs} and {network.num_outputs}"
        )
    config = builder.create_builder_config()
    _set_options(library, config, options, log)
    profile = _add_profile(builder, config, network.get_input(0), options, log)
    cache = None if library.ahead_of_time else _timing_cache(config, timing)
    monitor = _monitor(trt, report)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(log.sentence("the build failed without a message"))
    report("building", 1.0)
    inputs = [_describe(network.get_input(0)) | {"profiles": [profile] if profile else []}]
    outputs = [_describe(network.get_output(i)) for i in range(network.num_outputs)]
    facts = {"inputs": inputs, "outputs": outputs, "library_version": library.version}
    return bytes(plan), facts, b"" if cache is None else bytes(config.get_timing_cache().serialize())


def _set_options(library: Library, config: Any, options: Options, log: Any) -> None:
    trt = library.module
    if options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    if library.ahead_of_time and (options.version_compatible or options.hardware_compatible != "none"):
        raise UnsupportedError(
            f"{library.name} {library.version}: its engines hold for its own version alone, and for the compute "
            "capabilities that are named; version and hardware compatibility need tensorrt"
        )
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible != "none":
        level = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}[options.hardware_compatible]
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise UnsupportedError(f"{library.name} {library.version}: knows no hardware compatibility {level}")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if not options.compute_capabilities:
        return
    known = library.compute_capabilities
    if not known:
        raise UnsupportedError(
            f"{library.name} builds for the GPU that it runs on, not for one that is named; tensorrt_rtx does: "
            "pip install 'visdeploy[tensorrt-rtx]'"
        )
    config.num_compute_capabilities = len(options.compute_capabilities)
    for index, wanted in enumerate(options.compute_capabilities):
        if wanted not in known:
            raise UnsupportedError(
                f"compute capability: {library.name} {library.version} builds for {', '.join(known)}, "
                f"not for {wanted}; GPUs of data centres take tensorrt, which builds where they are: "
                "pip install 'visdeploy[tensorrt]'"
            )
        value = getattr(trt.ComputeCapability, "SM" + wanted.replace(".", ""))
        if not config.set_compute_capability(value, index):
            raise EngineError(log.sentence(f"compute capability {wanted} was refused"))


def _add_profile(builder: Any, config: Any, tensor: Any, options: Options, log: Any) -> dict[str, Any] | None:
    """Give the sizes that the graph leaves open their range; returns it, or None where nothing is open."""
    shape = tuple(tensor.shape)
    if -1 not in shape:
        return None
    if len(shape) != 4:
        raise EngineError(f"expected an input of shape (B, h, w, 3), the graph takes {shape}")
    ranges = [
        [given if fixed == -1 else fixed for fixed, given in zip(shape, wanted, strict=True)]
        for wanted in options.shapes
    ]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *map(tuple, ranges))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(log.sentence(f"the profile {ranges} was refused"))
    return dict(zip(("min", "opt", "max"), ranges, strict=True))


def _timing_cache(config: Any, timing: bytes) -> Any:
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, False):  # of another version, or another GPU
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _parser_errors(parser: Any) -> list[str]:
    found = [parser.get_error(i) for i in range(min(3, parser.num_errors))]
    nodes = [f"{error.node_operator()} {error.node_name()!r}: " if error.node_operator() else "" for error in found]
    return [node + " ".join(error.desc().split()) for node, error in zip(nodes, found, strict=True)]


def _describe(tensor: Any) -> dict[str, Any]:
    dtype = str(tensor.dtype).rpartition(".")[2]
    return {"name": tensor.name, "dtype": _NUMPY.get(dtype, dtype.lower()), "shape": [int(n) for n in tensor.shape]}


def make_log(trt: Any) -> Any:
    """Return a logger that keeps errors; an ILogger must be of the module at hand, hence the local class."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.lines.append(" ".join(msg.split()))

        def sentence(self, otherwise: str) -> str:
            return "; ".join(self.lines[:3]) or otherwise

    return Log()


def _monitor(trt: Any, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = _Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_phases: int) -> None:
            self.phases.start(phase_name, num_phases)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            try:
                report("building", self.phases.done)
            except OSError:  # nobody listens any more; an exception would end the process inside the library
                return False
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return Monitor()


def main(folder: Path) -> int:
    """Do what the folder asks for; see the module."""
    # Libraries print where they like; what the parent reads is ours alone.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        options = Options(**json.loads((folder / "options.json").read_text()))
        graph = (folder / "graph.onnx").read_bytes()
        library = open_library(options.library)
        timing = (folder / "timing").read_bytes()
        plan, facts, timing = compile_graph(
            library, graph, options, lambda phase, done: _send(channel, phase=phase, done=done), timing
        )
        (folder / "plan").write_bytes(plan)
        (folder / "timing").write_bytes(timing)
        (folder / "facts.json").write_text(json.dumps(facts))
    except Exception as error:  # anything a library raises is one sentence for the parent
        known = isinstance(error, errors.VisdeployError)
        sentence = getattr(error, "strerror", None) or str(error) or type(error).__name__
        _send(channel, error=sentence, kind=type(error).__name__ if known else "EngineError")
        return 1
    return 0


def _send(channel: TextIO, **message: Any) -> None:
    print(json.dumps(message), file=channel, flush=True)


def _end_with_parent(folder: Path) -> None:
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def to_json(options: Options) -> str:
    """Return what `main` reads."""
    return json.dumps(asdict(options))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
