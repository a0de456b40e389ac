import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import visdeploy as vd
from conftest import ENGINES
from visdeploy import tolerance
from visdeploy.bundle import ONNX, TORCHSCRIPT, Bundle
from visdeploy.comparison import relative_error
from visdeploy.engines import cpu_quota, installed, open_engine, status
from visdeploy.errors import BundleError, EngineError, InputError, MissingDependencyError, UnsupportedError
from visdeploy.spec import Variant


@pytest.fixture(scope="module")
def quantised_bundle(classes_bundle: Path) -> Bundle:
    """The bundle of four classes with an accepted int8 variant for each engine that has one."""
    openvino, nncf = pytest.importorskip("openvino"), pytest.importorskip("nncf")
    opened = Bundle.open(classes_bundle)
    images = [np.random.default_rng(n).integers(0, 256, (1, 64, 96, 3), np.uint8) for n in range(4)]
    files: dict[str, bytes] = {}
    with TemporaryDirectory() as folder:
        xml = Path(folder) / "int8.xml"
        graph = openvino.Core().read_model(opened.read(ONNX))
        openvino.save_model(nncf.quantize(graph, nncf.Dataset(images), subset_size=4), xml, compress_to_fp16=False)
        files["variants/int8-openvino.xml"] = xml.read_bytes()
        files["variants/int8-openvino.bin"] = xml.with_suffix(".bin").read_bytes()
    variants = [Variant(engine="openvino", precision="int8", files=tuple(files), accepted=True)]
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(opened.read(ONNX))
    graph = nncf.quantize(graph, nncf.Dataset(images, lambda image: {"images": image}), subset_size=4)
    files["variants/int8-onnxruntime.onnx"] = graph.SerializeToString()
    variants.append(Variant(engine="onnxruntime", precision="int8", files=tuple(files)[2:], accepted=True))
    manifest = opened.manifest.model_copy(update={"variants": tuple(variants)})
    return Bundle(classes_bundle, manifest, {**opened.files, **files})


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


def test_closed_engine_answers_no_more(engine: str, classes_bundle: Path) -> None:
    network = open_engine(engine, Bundle.open(classes_bundle))
    network.close()
    for alone in (True, False):
        with pytest.raises(EngineError):
            network.infer(np.zeros((1, 64, 96, 3), np.uint8), alone=alone)


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


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_variant_of_the_bundle_is_what_runs(name: str, quantised_bundle: Bundle) -> None:
    pytest.importorskip(name)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    full = open_engine(name, quantised_bundle, precision="fp32").infer(images)
    engine = open_engine(name, quantised_bundle, precision="int8")
    assert (engine.name, engine.precision) == (name, "int8")
    low = engine.infer(images)
    assert 1e-4 < relative_error(low, full) < 0.5, "other arithmetic, and much the same answer"
    assert relative_error(engine.infer(images[:1], alone=False), low[:1]) <= tolerance.LOGITS["fp32"]


def test_variant_that_is_damaged_is_one_sentence(quantised_bundle: Bundle) -> None:
    for name in ("openvino", "onnxruntime"):
        variant = quantised_bundle.manifest.variant(name, "int8")
        assert variant is not None
        damaged = dict.fromkeys(variant.files, b"garbage")
        broken = Bundle(quantised_bundle.path, quantised_bundle.manifest, {**quantised_bundle.files, **damaged})
        with pytest.raises(EngineError, match=rf"^{name}: refused .*street\.vdz \(.+\)$"):
            open_engine(name, broken, precision="int8")


def test_network_comes_from_the_cache_the_second_time(
    quantised_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("VISDEPLOY_CACHE", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    answers = []
    for taken in (False, True):
        for precision in ("fp32", "int8"):
            engine = open_engine("openvino", quantised_bundle, precision=precision, num_threads=2)
            answers.append([engine.infer(images), engine.infer(images[:1]), engine.infer(images[:1], alone=False)])
            first, of_batch, of_lanes = engine.notes
            assert ("taken from the cache" in first) == taken
            assert ("taken from the cache" in of_batch) == taken
            assert "1x64x96x3 with 2 at once: taken from the cache" in of_lanes
            engine.close()
    for before, after in zip(answers[:2], answers[2:], strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    for file in tmp_path.glob("*.blob"):
        file.write_bytes(file.read_bytes()[:-100])
    again = open_engine("openvino", quantised_bundle, precision="fp32", num_threads=2)
    assert "made anew: its file was cut short" in again.notes[0]
    assert np.array_equal(again.infer(images[:1]), answers[0][1])


def test_blob_that_openvino_refuses_is_made_anew(
    quantised_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    monkeypatch.setenv("VISDEPLOY_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(openvino.CompiledModel, "export_model", lambda compiled: BytesIO(b"of another version" * 99))
        open_engine("openvino", quantised_bundle, precision="fp32")
    engine = open_engine("openvino", quantised_bundle, precision="fp32")
    assert "made anew: the engine refused it (" in engine.notes[0]
    assert "taken from the cache" in open_engine("openvino", quantised_bundle, precision="fp32").notes[0]


def test_quota_is_a_number_of_cpus() -> None:
    assert cpu_quota() >= 1
