import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import visdeploy as vd
from conftest import ENGINES
from visdeploy import tolerance
from visdeploy.bundle import ONNX, TORCHSCRIPT, Bundle
from visdeploy.engines import cpu_quota, installed, open_engine, status
from visdeploy.errors import BundleError, EngineError, InputError, MissingDependencyError, UnsupportedError
from visdeploy.verify import relative_error

MODEL = {"openvino": ONNX, "onnxruntime": ONNX, "torchscript": TORCHSCRIPT}
PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torchscript": "torch"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "openvno"}, InputError, "got 'openvno'; did you mean 'openvino'"),
        ({"engine": "xyz"}, InputError, "expected auto, tensorrt, openvino, onnxruntime, torchscript, got 'xyz'$"),
        ({"precision": "fp8"}, InputError, "precision: expected auto, fp32, fp16, bf16, int8, got 'fp8'"),
        ({"device": "gpu"}, InputError, "device: expected auto, cpu, cuda, got 'gpu'"),
        ({"engine": "openvino", "device": "cuda"}, UnsupportedError, "openvino runs on cpu alone; .* got 'cuda'"),
        ({"engine": "tensorrt", "device": "cpu"}, UnsupportedError, "tensorrt runs on cuda alone; .* got 'cpu'"),
        ({"num_threads": 0}, InputError, "num_threads: expected 1 to 1024, got 0"),
        ({"num_threads": 1 << 30}, InputError, "num_threads: expected 1 to 1024, got 1073741824"),
        (
            {"engine": "onnxruntime", "precision": "bf16"},
            UnsupportedError,
            "onnxruntime computes in fp32, int8 here, not in bf16",
        ),
        ({"engine": "torchscript", "precision": "fp16"}, UnsupportedError, "torchscript computes in fp32 here"),
        (
            {"engine": "openvino", "precision": "int8"},
            UnsupportedError,
            r"street\.vdz holds no int8 variant for openvino; to make one: visdeploy export .* --precision int8 --data",
        ),
    ],
)
def test_wrong_argument_is_named(
    classes_bundle: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        vd.load(classes_bundle, **arguments)


def test_missing_package_names_its_extra(engine: str, classes_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[engine], None)
    with pytest.raises(MissingDependencyError, match=rf"engine {engine} .*pip install 'visdeploy\[{engine}\]'"):
        vd.load(classes_bundle, engine=engine)
    assert engine not in installed()
    (entry,) = [entry for entry in status() if entry.name == engine]
    assert entry.version is None
    assert f"visdeploy[{engine}]" in entry.reason


def test_auto_takes_the_first_that_is_installed(classes_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = list(ENGINES)
    for name in ENGINES:
        with vd.load(classes_bundle) as opened:
            assert opened.engine.name == left[0]
        monkeypatch.setitem(sys.modules, PACKAGES[name], None)
        left.remove(name)
    with pytest.raises(MissingDependencyError, match=r"none is installed.*tensorrt.*\[openvino\].*\[onnxruntime\]"):
        vd.load(classes_bundle)


def test_serving_loads_one_engine_and_no_torch(classes_bundle: Path) -> None:
    code = (
        "import sys, numpy, visdeploy\n"
        "visdeploy.load(sys.argv[1])(numpy.zeros((9, 9, 3), numpy.uint8)).to_json()\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'lightning', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert 'openvino' in sys.modules and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(classes_bundle)], check=True)


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, "cut"])
def test_unreadable_model_is_one_sentence(engine: str, classes_bundle: Path, content: bytes | str) -> None:
    opened = Bundle.open(classes_bundle)
    intact = opened.files[MODEL[engine]]
    damaged = intact[: len(intact) // 2] if content == "cut" else content
    broken = Bundle(classes_bundle, opened.manifest, dict(opened.files) | {MODEL[engine]: damaged})
    with pytest.raises(EngineError, match=rf"^{engine}: refused .*street\.vdz \(.+\)$") as caught:
        open_engine(engine, broken)
    assert "\n" not in str(caught.value)


def test_absent_model_is_one_sentence(engine: str, classes_bundle: Path) -> None:
    opened = Bundle.open(classes_bundle)
    with pytest.raises(BundleError, match=f"the bundle holds no {MODEL[engine]}"):
        open_engine(engine, Bundle(classes_bundle, opened.manifest, {"golden.npz": b""}))


@pytest.mark.parametrize("shape", [(1, 64, 96), (1, 64, 96, 4)])
def test_input_of_another_shape_is_one_sentence(engine: str, classes_bundle: Path, shape: tuple[int, ...]) -> None:
    network = open_engine(engine, Bundle.open(classes_bundle))
    with pytest.raises(EngineError) as caught:
        network.infer(np.zeros(shape, np.uint8))
    assert str(caught.value).startswith(f"{engine}: inference failed on input {shape}")
    assert "\n" not in str(caught.value)


def test_batches_of_any_size_give_the_same_logits(engine: str, binary_bundle: Path) -> None:
    network = open_engine(engine, Bundle.open(binary_bundle))
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    single = np.concatenate([network.infer(pixels[None]) for pixels in images])
    assert (single.shape, single.dtype) == ((9, 1, 64, 64), np.float32)
    for size in (2, 9, 3):
        assert relative_error(network.infer(images[:size]), single[:size]) <= tolerance.LOGITS["fp32"]


def test_lanes_give_the_answers_of_calls(engine: str, binary_bundle: Path) -> None:
    network = open_engine(engine, Bundle.open(binary_bundle), num_threads=2)
    assert network.lanes == 2
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 64, 64, 3), np.uint8)
    expected = [network.infer(pixels) for pixels in images]
    together = network.infer(images[:3, 0], alone=False)
    with ThreadPoolExecutor(network.lanes) as lanes:
        answers = list(lanes.map(partial(network.infer, alone=False), images))
    # Sums may be cut into pieces by the number of threads, so the last bits may differ.
    assert max(map(relative_error, answers, expected)) <= tolerance.LOGITS["fp32"]
    assert relative_error(together, np.concatenate(expected[:3])) <= tolerance.LOGITS["fp32"]
    network.close()


def test_input_may_be_read_only_or_a_view(engine: str, classes_bundle: Path) -> None:
    network = open_engine(engine, Bundle.open(classes_bundle))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    reference = network.infer(images)
    view = images.repeat(2, 1)[:, ::2]
    view.flags.writeable = False
    assert relative_error(network.infer(view), reference) == 0


def test_openvino_computes_in_what_it_says(binary_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    bundle = Bundle.open(binary_bundle)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    reference = open_engine("torchscript", bundle).infer(images)
    full = open_engine("openvino", bundle)
    assert full.precision == "fp32"
    assert relative_error(full.infer(images), reference) <= tolerance.LOGITS["fp32"]
    offered = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("bf16", "fp16"):
        if precision.upper() in offered:
            reduced = open_engine("openvino", bundle, precision=precision)
            assert reduced.precision == precision
            assert 0 < relative_error(reduced.infer(images), reference) <= tolerance.LOGITS[precision]
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, name: ["FP32", "INT8"])
    with pytest.raises(UnsupportedError, match="openvino computes in fp32, int8 here, not in bf16"):
        open_engine("openvino", bundle, precision="bf16")


def test_quota_is_a_number_of_cpus() -> None:
    assert cpu_quota() >= 1
