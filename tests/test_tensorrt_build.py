"""Engines built ahead of time by tensorrt_rtx, for GPUs that are not here."""

import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visdeploy import cli
from visdeploy.bundle import ONNX, Bundle, write
from visdeploy.engines import tensorrt_build, tensorrt_library
from visdeploy.engines.cuda import Device
from visdeploy.engines.tensorrt_build import export_engine, read_engine, shapes_of
from visdeploy.engines.tensorrt_compile import Options
from visdeploy.engines.tensorrt_library import open_library
from visdeploy.errors import EngineError, InputError, MissingDependencyError, UnsupportedError
from visdeploy.spec import Manifest, Variant

SIZE = (192, 256)
SPEC = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5}


def with_graphs(bundle: Bundle, **graphs: bytes) -> Bundle:
    """Return the bundle with graphs of lower precision for tensorrt."""
    names = {precision: f"variants/{precision}-tensorrt.onnx" for precision in graphs}
    variants = tuple(
        Variant.model_validate({"engine": "tensorrt", "precision": precision, "files": [name], "accepted": True})
        for precision, name in names.items()
    )
    files = dict(bundle.files) | {names[precision]: graph for precision, graph in graphs.items()}
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"variants": variants}), files)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The U-Net of the demo, untrained, with graphs of fp16 and int8 as ONNX Runtime makes them for TensorRT."""
    pytest.importorskip("tensorrt_rtx")
    onnx = pytest.importorskip("onnx")
    quantization = pytest.importorskip("onnxruntime.quantization")
    torch = pytest.importorskip("torch")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from visdeploy import models
    from visdeploy.export import Deployable, _to_onnx

    spec = Manifest.parse(SPEC | {"size": SIZE})
    with torch.random.fork_rng():
        net = models.create("unet", encoder="resnet10t", num_classes=1, decoder_channels=64)
    graph = _to_onnx(Deployable(net, spec).eval(), spec)
    half = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True).SerializeToString()
    folder = tmp_path_factory.mktemp("graphs")
    (folder / "model.onnx").write_bytes(graph)
    samples = iter([{spec.input_name: np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)}])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> Any:
            return next(samples, None)

    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    quantization.quantize_static(
        folder / "model.onnx",
        folder / "int8.onnx",
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options=symmetric | {"QuantizeBias": False, "AddQDQPairToWeight": True},
    )
    files = {ONNX: graph}
    return with_graphs(Bundle(Path("car.vdz"), spec, files), fp16=half, int8=(folder / "int8.onnx").read_bytes())


@pytest.fixture(scope="session")
def native(bundle: Bundle) -> Bundle:
    """The same network for images of any size."""
    manifest = bundle.manifest.model_copy(update={"resize": "native", "max_batch": 2, "max_size": (250, 512)})
    return replace(bundle, manifest=manifest)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 1.2), ("fp16", 0.6), ("int8", 0.5)])
def test_engine_and_sidecar(bundle: Bundle, tmp_path: Path, precision: str, size: float) -> None:
    path = tmp_path / "car.engine"
    seen: list[tuple[str, float]] = []
    wanted = [(8, 9), (12, 0), (8, 9)]
    made = export_engine(
        bundle, path, precision=precision, compute_capabilities=wanted, progress=lambda *step: seen.append(step)
    )
    plan = path.read_bytes()
    assert int.from_bytes(plan[16:24], "little") == len(plan)  # so it says itself: nothing is in front of it
    assert len(plan) < size * len(bundle.read(ONNX))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["car.engine", "car.engine.json"]
    assert read_engine(path).sidecar == made
    assert (made.library, made.library_version) == ("tensorrt_rtx", open_library("tensorrt_rtx").version)
    assert (made.precision, made.compute_capabilities, made.gpu) == (precision, ("8.9", "12.0"), None)
    member = ONNX if precision == "fp32" else f"variants/{precision}-tensorrt.onnx"
    assert (made.model, made.model_sha256) == (member, hashlib.sha256(bundle.read(member)).hexdigest())
    assert (made.engine_sha256, made.engine_size) == (hashlib.sha256(plan).hexdigest(), len(plan))
    ((given,), (answered,)) = made.inputs, made.outputs
    assert (given.name, given.dtype, given.shape) == ("images", "uint8", (-1, -1, -1, 3))
    assert (answered.name, answered.dtype, answered.shape) == ("logits", "float32", (-1, 1, -1, -1))
    (profile,) = given.profiles
    assert (profile.min, profile.opt, profile.max) == ((1, *SIZE, 3), (8, *SIZE, 3), (8, *SIZE, 3))
    assert seen[0] == ("parsing", 0.0)
    assert seen[-1] == ("building", 1.0)
    assert [done for _, done in seen] == sorted(done for _, done in seen)


def test_any_size_up_to_the_largest_of_the_spec(native: Bundle, tmp_path: Path) -> None:
    made = export_engine(native, tmp_path / "car.engine", precision="fp32")
    (profile,) = made.inputs[0].profiles
    assert (profile.min, profile.opt, profile.max) == ((1, 32, 32, 3), (2, *SIZE, 3), (2, 256, 512, 3))
    assert made.compute_capabilities == ()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_detector_of_any_batch(detector_bundle: Path, tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    quantize = pytest.importorskip("visdeploy.quantize")
    bundle = Bundle.open(detector_bundle)
    with quantize.Quantizer(bundle, ()) as quantizer:
        bundle = with_graphs(bundle, fp16=quantizer.fp16())
    made = export_engine(bundle, tmp_path / "pets.engine", precision=precision)
    ((given,), (answered,)) = made.inputs, made.outputs
    assert (given.shape, answered.shape) == ((-1, 64, 96, 3), (-1, 384, 7))
    assert given.profiles[0].max == (8, 64, 96, 3)


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({}, ((1, 64, 64, 3), (8, 64, 64, 3), (8, 64, 64, 3))),
        ({"resize": "letterbox", "max_batch": 1}, ((1, 64, 64, 3), (1, 64, 64, 3), (1, 64, 64, 3))),
        ({"resize": "native"}, ((1, 32, 32, 3), (8, 64, 64, 3), (8, 128, 128, 3))),
        ({"resize": "native", "size": (90, 70)}, ((1, 32, 32, 3), (8, 96, 96, 3), (8, 192, 160, 3))),
        ({"resize": "native", "max_size": 40}, ((1, 32, 32, 3), (8, 64, 64, 3), (8, 64, 64, 3))),
    ],
)
def test_shapes_of_a_spec(changes: dict[str, Any], shapes: Any) -> None:
    assert shapes_of(Manifest.parse(SPEC | changes)) == shapes


def test_auto_is_fp16_where_the_bundle_accepted_it(bundle: Bundle) -> None:
    assert tensorrt_build.choose_precision(bundle, "auto") == "fp16"
    refused = [entry.model_copy(update={"accepted": False}) for entry in bundle.manifest.variants]
    manifest = bundle.manifest.model_copy(update={"variants": tuple(refused)})
    assert tensorrt_build.choose_precision(replace(bundle, manifest=manifest), "auto") == "fp32"
    assert tensorrt_build.choose_precision(bundle, "int8") == "int8"


def test_precision_without_a_graph_names_the_command(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no fp16 variant for tensorrt.*visdeploy export .* --precision fp16"):
        export_engine(replace(bundle, manifest=Manifest.parse(SPEC)), tmp_path / "car.engine", precision="fp16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"compute_capabilities": [(9, 0)]},
            r"builds for 7.5, 8.0, .*, not for 9.0; GPUs of data centres take ",
        ),
        ({"version_compatible": True}, "version and hardware compatibility need tensorrt$"),
        ({"hardware_compatible": "ampere+"}, "version and hardware compatibility need tensorrt$"),
    ],
)
def test_rtx_says_what_it_does_not_do(bundle: Bundle, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        export_engine(bundle, tmp_path / "car.engine", precision="fp32", **options)
    assert not list(tmp_path.iterdir())


def node_graph(operator: str, domain: str = "") -> bytes:
    """A graph of one node."""
    onnx = pytest.importorskip("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(operator, ["images"], ["logits"], name="stage/last", domain=domain)
    shape = ["b", 3, 8, 8]
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("images", floats, shape)],
        [helper.make_tensor_value_info("logits", floats, shape)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (lambda: node_graph("MyOp", "mine"), "MyOp 'stage/last': .*[Pp]lugin not found"),
        (lambda: node_graph("NonZero"), "."),
        (lambda: b"", "."),
        (lambda: b"garbage" * 50, "."),
        (lambda: bytes(1000), "."),
        (lambda: b"\x08\x07", "expected a graph with one input and an output, got 0 and 0|."),
    ],
    ids=["unknown", "unsupported", "empty", "garbage", "zeros", "nothing in it"],
)
def test_refused_graph_is_one_sentence(
    bundle: Bundle, tmp_path: Path, graph: Callable[[], bytes], message: str
) -> None:
    broken = replace(bundle, files={ONNX: graph()})
    with pytest.raises(EngineError, match=rf"^tensorrt_rtx: refused .*car\.vdz \(model.onnx\): {message}") as caught:
        export_engine(broken, tmp_path / "car.engine", precision="fp32")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_weights_in_other_files_are_not_read(bundle: Bundle, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(node_graph("Identity"))
    weights = onnx.TensorProto(name="weights", data_type=1, dims=[3, 8, 8], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=str(tmp_path / "secret"))
    (tmp_path / "secret").write_bytes(bytes(4 * 3 * 8 * 8))
    graph.graph.initializer.append(weights)
    graph.graph.node[0].CopyFrom(onnx.helper.make_node("Add", ["images", "weights"], ["logits"]))
    with pytest.raises(EngineError, match="Failed to import initializer"):
        export_engine(
            replace(bundle, files={ONNX: graph.SerializeToString()}), tmp_path / "car.engine", precision="fp32"
        )


def test_cut_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    whole = bundle.read(ONNX)
    broken = replace(bundle, files={ONNX: whole[: len(whole) // 2]})
    with pytest.raises(EngineError, match=r"^tensorrt_rtx: refused"):
        export_engine(broken, tmp_path / "car.engine", precision="fp32")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes parsing do something else, in the process that builds."""

    def install(body: str) -> None:
        folder = tmp_path / "path"
        folder.mkdir()
        (folder / "tensorrt_rtx.py").write_text(FAULTY + "\n".join(f"        {line}" for line in body.splitlines()))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return install


FAULTY = """
import os, sys, time
from types import SimpleNamespace

__version__ = "1.7"

class ILogger:
    Severity = SimpleNamespace(ERROR=0, INTERNAL_ERROR=1)

class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 0

class Builder:
    def __init__(self, log): pass
    def create_network(self, flags): pass

class OnnxParser:
    num_errors = 0
    def __init__(self, network, log): pass
    def parse(self, graph):
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "os.write(2, b'terminate called\\n'); os.abort()",
            r"the process that builds ended by SIGABRT while parsing \(terminate called\)",
        ),
        ("os.kill(os.getpid(), 11)", r"ended by SIGSEGV while parsing \(no message\)"),
        ("os.kill(os.getpid(), 9)", r"ended by SIGKILL while parsing \(no message\)"),
        ("os._exit(3)", r"ended with exit code 3 while parsing \(no message\)"),
        ("print('noise'); os.write(1, b'{'); raise RuntimeError('of its own')", "of its own"),
        ("raise MemoryError", "MemoryError"),
        ("os.unlink('graph.onnx'); return False", "the graph cannot be parsed"),
    ],
)
def test_crash_is_one_sentence(
    bundle: Bundle, tmp_path: Path, faulty: Callable[[str], None], body: str, message: str
) -> None:
    faulty(body)
    with pytest.raises(EngineError, match=rf"^tensorrt_rtx: refused .*: .*{message}$"):
        export_engine(bundle, tmp_path / "car.engine", precision="fp32")
    assert [file.name for file in tmp_path.iterdir()] == ["path"]


def test_unsupported_version_is_refused(bundle: Bundle, tmp_path: Path, faulty: Callable[[str], None]) -> None:
    faulty("pass")
    module = tmp_path / "path" / "tensorrt_rtx.py"
    module.write_text(module.read_text().replace('"1.7"', '"2.0.1"'))
    with pytest.raises(MissingDependencyError, match=r"^tensorrt_rtx is 2.0.1, visdeploy works with tensorrt 10 or 11"):
        export_engine(bundle, tmp_path / "car.engine", precision="fp32")


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Sets the most bytes that a file may have, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_during_the_build(bundle: Bundle, tmp_path: Path, small_files: Callable[[int], None]) -> None:
    graph = len(bundle.read(ONNX))
    for limit, who in ((graph // 2, "cannot build"), (graph + 4096, "refused")):
        small_files(limit)
        with pytest.raises(EngineError, match=rf"^tensorrt_rtx: {who} .*car\.vdz.*File too large"):
            export_engine(bundle, tmp_path / "car.engine", precision="fp32")
        assert not list(tmp_path.iterdir())


def test_full_disk_where_the_engine_goes(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: Callable[[int], None]
) -> None:
    (tmp_path / "car.engine").write_bytes(b"older")

    def compiled(*_: Any) -> Any:
        small_files(100_000)
        facts = {"inputs": [], "outputs": [], "library_version": "1.7"}
        return bytes(200_000), facts, b""

    monkeypatch.setattr(tensorrt_build, "_compile", compiled)
    with pytest.raises(InputError, match=r"cannot write .*car\.engine \(File too large\)"):
        export_engine(bundle, tmp_path / "car.engine", precision="fp32")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_build_leaves_nothing(
    bundle: Bundle, tmp_path: Path, faulty: Callable[[str], None], end: signal.Signals
) -> None:
    write(tmp_path / "path.vdz", bundle.manifest, bundle.files)
    faulty(f"open({str(tmp_path / 'path' / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    code = (
        "import sys\nfrom visdeploy.bundle import Bundle\nfrom visdeploy.engines.tensorrt_build import export_engine\n"
        "export_engine(Bundle.open(sys.argv[1]), sys.argv[2], precision='fp32')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "path.vdz", tmp_path / "car.engine"], stderr=subprocess.PIPE
    )
    pid = tmp_path / "path" / "pid"
    wait_for(lambda: pid.is_file() and pid.read_text() != "")
    parent.send_signal(end)
    _, said = parent.communicate()
    assert end != signal.SIGINT or b"KeyboardInterrupt" in said
    wait_for(lambda: not running(int(pid.read_text())))
    wait_for(lambda: {file.name for file in tmp_path.iterdir()} == {"path", "path.vdz"})


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for half a minute")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("name", ["", "nowhere/car.engine"])
def test_target_is_refused_before_the_build(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tensorrt_build, "build", lambda *_, **__: pytest.fail("nothing was to be built"))
    with pytest.raises(InputError, match=r"cannot write .*expected the name of a file, in a folder that exists"):
        export_engine(bundle, name)


def test_package_that_is_missing_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=r"built by tensorrt_rtx, .*'visdeploy\[tensorrt-rtx\]'"):
        export_engine(bundle, tmp_path / "car.engine", precision="fp32", compute_capabilities=[(8, 9)])


def test_engine_for_the_gpu_at_hand_is_of_the_library_that_knows_every_gpu(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Options] = []

    def compiled(graph: bytes, timing: bytes, options: Options, *_: Any) -> Any:
        asked.append(options)
        return b"plan", {"inputs": [], "outputs": [], "library_version": "11.4"}, b""

    monkeypatch.setattr(tensorrt_build, "_compile", compiled)
    monkeypatch.setattr(tensorrt_build, "find_device", lambda: (Device("NVIDIA H100", (9, 0)), ""))
    monkeypatch.setattr(tensorrt_library, "installed", lambda: ["tensorrt", "tensorrt_rtx"])
    made = export_engine(bundle, tmp_path / "car.engine", precision="fp32")
    assert (made.library, made.gpu, made.compute_capabilities) == ("tensorrt", "NVIDIA H100 (9.0)", ())
    made = export_engine(bundle, tmp_path / "car.engine", precision="fp32", compute_capabilities=[(8, 9)])
    assert (made.library, made.gpu, made.compute_capabilities) == ("tensorrt_rtx", None, ("8.9",))
    monkeypatch.setattr(tensorrt_library, "installed", lambda: ["tensorrt_rtx"])
    made = export_engine(bundle, tmp_path / "car.engine", precision="fp32")
    assert (made.library, made.gpu, made.compute_capabilities) == ("tensorrt_rtx", None, ("9.0",))
    assert [options.library for options in asked] == ["tensorrt", "tensorrt_rtx", "tensorrt_rtx"]


def test_sidecar_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "car.engine").write_bytes(b"plan")
    with (tmp_path / "car.engine.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"car\.engine\.json: expected at most"):
        read_engine(tmp_path / "car.engine")


@pytest.fixture
def run(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call `visdeploy export car.vdz --out car.engine` in this process: exit code, stdout, stderr."""
    write(tmp_path / "car.vdz", bundle.manifest, bundle.files)

    def call(*options: str) -> tuple[int, str, str]:
        arguments = ["export", str(tmp_path / "car.vdz"), "--out", str(tmp_path / "car.engine"), *options]
        monkeypatch.setattr(sys, "argv", ["visdeploy", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_command_line_builds_for_named_gpus(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    wanted = (
        "--format",
        "engine",
        "--precision",
        "fp16",
        "--compute-capability",
        "8.9",
        "--compute-capability",
        "12.0",
    )
    code, out, err = run(*wanted, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "car.engine.json").read_text())
    assert json.loads(out)["compute_capabilities"] == ["8.9", "12.0"]
    lines = err.splitlines()
    assert lines[0] == "building the engine: parsing"
    assert lines[-1] == "building the engine: building 100%"
    assert len(lines) <= 6
    code, out, _ = run(*wanted)
    assert code == 0
    assert "fp16, for compute capability 8.9, 12.0" in out
    assert "built and not run" in out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--format", "engine", "--compute-capability", "9.0"], 2, "GPUs of data centres take tensorrt"),
        (["--format", "engine", "--compute-capability", "SM89"], 2, "expected a number such as 8.9, got 'SM89'"),
        (["--format", "engine", "--precision", "bf16"], 2, "there is no bf16 for tensorrt"),
        (["--format", "engine", "--hardware-compatible", "all"], 2, "expected none or ampere. or same, got 'all'"),
        (["--format", "engin"], 2, "did you mean 'engine'"),
        (["--format", "openvino", "--compute-capability", "8.9"], 2, "go with --format engine"),
    ],
)
def test_command_line_mistakes(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    ended, _, err = run(*options)
    assert ended == code
    assert re.search(message, err)
    assert "Traceback" not in err
    assert [file.name for file in tmp_path.iterdir()] == ["car.vdz"]
