"""The import rules of design.md, section 2, read from the sources."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pysdk" / "visdeploy"

# A module may import from its own layer and from those before it.
LAYERS = (
    {
        "errors",
        "native",
        "tolerance",
        "metrics",
        "whole_file",
        "lanes",
        "machine",
        "onnx_files",
        "report",
        "sources",
        "torch_library",
    },
    {
        "spec",
        "kinds",
        "anchors",
        "mask",
        "ops",
        "image",
        "average_precision",
        "drawing",
        "clean_up",
        "outlines",
        "instances",
    },
    {"asked", "bundle", "types", "preprocess", "tiling"},
    {"postprocess", "cache"},
    {"answers", "engines"},
    {"comparison", "golden"},
    {"predictor"},
    {
        "benchmark",
        "gpu_check",
        "verify",
        "prediction_files",
        "replayed",
        "openvino_ir",
        "throughput",
        "regression",
        "check",
    },
)
TRAINING = (
    {"data"},
    {"models"},
    {"train"},
    {"calibration", "quantize"},
    {"precision"},
    {"adapt"},
    {"export", "onnx_graph"},
    {"pt2", "torchscript_file", "onnx_detector"},
    {"compare"},
)
RUNTIME = set().union(*LAYERS)
# These join the two halves, and import the training side only inside what needs it.
COMMANDS = {"cli", "demo", "evaluate", "tables", "__main__", "__init__"}
COMMANDS |= {"coco_figures", "evaluation_plots", "evaluation_report"}
# What torch itself loads: it is imported alone, and by what makes graphs.
GRAPHS = {"torch_ops"}
# This one runs the network in torch, for benchmarks to compare with.
RIVALS = {"baseline"}


def module_of(path: Path) -> str:
    """The part of the package that a file belongs to: its folder, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST, *, at_once: bool = False) -> set[str]:
    """Dotted names of what a module imports, `from a import b` as a.b.

    With `at_once` without what runs only later: bodies of functions, and blocks for the type checker.
    """
    names: set[str] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if at_once and (for_types or isinstance(node, ast.FunctionDef)):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide from this test"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts(tree: ast.AST, *, at_once: bool = False) -> set[str]:
    """The parts of the package that a module imports."""
    return {name.split(".")[1] for name in imported(tree, at_once=at_once) if name.startswith("visdeploy.")}


def test_every_module_has_its_place() -> None:
    placed = RUNTIME | COMMANDS | GRAPHS | RIVALS | set().union(*TRAINING) | {"reference"}
    assert {module_of(path) for path in sources()} <= placed


def test_right_never_imports_left_in_the_runtime() -> None:
    below: set[str] = set()
    for layer in LAYERS:
        below |= layer
        for path, tree in sources().items():
            if module_of(path) in layer:
                above = parts(tree, at_once=True) & RUNTIME - below
                assert not above, f"{path.name} imports {above}"


def test_training_imports_only_what_is_before_it() -> None:
    below: set[str] = set()
    for layer in TRAINING:
        below |= layer
        for path, tree in sources().items():
            if module_of(path) in layer:
                outside = parts(tree) - below - RUNTIME - GRAPHS - {"__version__", "evaluate"}
                assert not outside, f"{path} imports {outside}"


def test_runtime_never_imports_training() -> None:
    for path, tree in sources().items():
        if module_of(path) in RUNTIME:
            training = parts(tree) & set().union(*TRAINING)
            assert not training, f"{path.name} imports {training}"


def test_ops_of_graphs_import_nothing_but_errors_and_their_library() -> None:
    (tree,) = (tree for path, tree in sources().items() if module_of(path) in GRAPHS)
    assert parts(tree) == {"errors", "torch_library"}


def test_commands_import_training_only_when_they_run() -> None:
    for path, tree in sources().items():
        if module_of(path) in COMMANDS - {"demo"}:
            training = parts(tree, at_once=True) & set().union(*TRAINING)
            assert not training, f"{path.name} imports {training}"


def test_native_module_is_imported_in_few_places() -> None:
    users = {
        module_of(path) for path, tree in sources().items() if any(name.endswith("._core") for name in imported(tree))
    }
    assert users == {"native", "ops", "mask", "engines", "gpu_check", "machine"}


def test_reference_is_for_tests_and_benches() -> None:
    users = {module_of(path) for path, tree in sources().items() if "reference" in parts(tree)}
    assert users <= {"reference"}


def test_torch_stays_out_of_the_runtime() -> None:
    heavy = {"torch", "torchvision", "lightning", "timm", "onnx", "matplotlib", "openvino", "onnxruntime", "PIL"}
    for path, tree in sources().items():
        if module_of(path) in RUNTIME | COMMANDS - {"demo"}:
            loaded = {name.split(".")[0] for name in imported(tree, at_once=True)} & heavy
            assert not loaded, f"{path} imports {loaded}"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import visdeploy", "torch openvino onnxruntime onnx cv2 pydantic matplotlib rich typer visdeploy._core"),
        ("import visdeploy.cli", "torch openvino onnxruntime onnx cv2 matplotlib lightning"),
        ("import visdeploy.mask, visdeploy.ops", "torch openvino onnxruntime cv2 pydantic"),
        (
            "import visdeploy.predictor, visdeploy.verify, visdeploy.benchmark",
            "torch openvino onnxruntime onnx lightning",
        ),
        ("import visdeploy; visdeploy.load, visdeploy.Bundle, visdeploy.Spec", "torch openvino onnxruntime onnx"),
    ],
)
def test_import_loads_nothing_heavy(code: str, heavy: str) -> None:
    check = f"{code}\nimport sys\nloaded = set({heavy.split()!r}) & set(sys.modules)\nassert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True)


def includes(folder: str) -> dict[Path, list[str]]:
    files = [path for path in (ROOT / "csrc" / folder).rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    pattern = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
    return {path: pattern.findall(path.read_text()) for path in files}


def test_binding_headers_stay_in_the_bindings() -> None:
    for folder, own in (("bind", "pybind11/"), ("torch", "torch/csrc/stable/")):
        assert any(header.startswith(own) for found in includes(folder).values() for header in found)
        for path, found in includes(folder).items():
            other = r"pybind11/|Python\.h|numpy/|bind/" if folder == "torch" else r"torch/|ATen/"
            assert not [header for header in found if re.match(other, header)], path.name
    for folder in ("core", "ops"):
        for path, found in includes(folder).items():
            foreign = [header for header in found if re.match(r"pybind11/|Python\.h|numpy/|torch/|ATen/", header)]
            assert not foreign, f"{path.name} includes {foreign}"


def test_cuda_headers_stay_in_files_of_cuda() -> None:
    for folder in ("core", "ops", "bind", "torch"):
        for path, found in includes(folder).items():
            foreign = [header for header in found if re.match(r"cuda_|cub/|.*\.cuh$", header)]
            assert path.suffix in (".cu", ".cuh") or not foreign, f"{path.name} includes {foreign}"
            assert path.suffix not in (".cu", ".cuh") or folder not in ("bind", "torch"), "bindings know no CUDA"


def test_core_knows_no_ops_and_ops_know_no_bindings() -> None:
    for folder, forbidden in (("core", r"ops/|bind/|torch/"), ("ops", r"bind/|torch/")):
        for path, found in includes(folder).items():
            upward = [header for header in found if re.match(forbidden, header)]
            assert not upward, f"{path.name} includes {upward}"


def test_variants_of_an_op_are_called_by_the_op_alone() -> None:
    assert not [
        path.name
        for folder in ("bind", "torch")
        for path in (ROOT / "csrc" / folder).glob("*.cpp")
        if re.search(r"\bcpu::|\bcuda::|_cpu\.h", path.read_text())
    ]


def test_bindings_touch_no_python_object_without_the_lock() -> None:
    for path in (ROOT / "csrc" / "bind").glob("*.cpp"):
        for unlocked in path.read_text().split("gil_scoped_release release;")[1:]:
            block = unlocked[: unlocked.index("}")]
            assert not re.search(r"\bpy::|\breturn \w+;|\.take", block), f"{path.name}:{block}"
