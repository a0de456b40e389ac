import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stub
import visdeploy as vd
from conftest import ENGINES
from visdeploy import golden as goldens
from visdeploy import image, tolerance
from visdeploy.bundle import GOLDEN, ONNX, TORCHSCRIPT, Bundle, write
from visdeploy.comparison import relative_error
from visdeploy.engines import NAMES
from visdeploy.errors import (
    BundleError,
    CheckFailedError,
    InputError,
    MissingDependencyError,
    UnsupportedError,
    VisdeployError,
)
from visdeploy.golden import Golden
from visdeploy.report import Report
from visdeploy.spec import Manifest, Variant
from visdeploy.verify import verify

Rebuild = Callable[..., Path]
Replace = Callable[[Golden], Golden]


@pytest.fixture
def rebuild(tmp_path: Path) -> Rebuild:
    """Write a bundle again, whole and well sealed, with parts of it replaced."""

    def rebuild(source: Path, *, files: dict[str, bytes] | None = None, **fields: Any) -> Path:
        opened = Bundle.open(source)
        manifest = opened.manifest.model_copy(update=fields)
        write(tmp_path / "changed.vdz", manifest, {**opened.files, **(files or {})})
        return tmp_path / "changed.vdz"

    return rebuild


def drifted(report: Report) -> list[tuple[str, str]]:
    return [(row.stage, row.engine) for row in report.rows if not row.ok]


def with_end_to_end(stage: str) -> list[tuple[str, str]]:
    return [(stage, ""), *(("end to end", name) for name in ENGINES)]


@pytest.mark.parametrize("bundle", ["binary_bundle", "classes_bundle"])
def test_fresh_bundle_is_the_same_on_every_engine(bundle: str, request: pytest.FixtureRequest) -> None:
    report = verify(request.getfixturevalue(bundle))
    assert report.ok
    assert report.images == 2
    stages = [(row.stage, row.engine) for row in report.rows]
    assert stages == [
        *(("decode", ""), ("resize", ""), ("postprocess", "")),
        *((stage, name) for name in ENGINES for stage in ("network", "end to end")),
    ]
    assert all(row.error <= row.limit for row in report.rows)
    assert all((row.dice is None) == (row.stage in ("decode", "resize", "network")) for row in report.rows)
    report.require()


def test_one_engine_can_be_asked(engine: str, binary_bundle: Path) -> None:
    report = verify(binary_bundle, engines=[engine])
    assert {row.engine for row in report.rows} == {"", engine}
    with vd.load(binary_bundle, engine=engine) as model:
        assert [row.stage for row in model.verify().rows] == [row.stage for row in report.rows]


@pytest.mark.parametrize("bundle", ["binary_bundle", "classes_bundle"])
def test_swapped_channels_are_found_in_decoding(
    bundle: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(bundle)

    def swapped(source: Any, **options: Any) -> NDArray[np.uint8]:
        return np.ascontiguousarray(image.decode(source, **options)[..., ::-1])

    monkeypatch.setattr("visdeploy.verify.decode", swapped)
    monkeypatch.setattr("visdeploy.predictor.decode", swapped)
    report = verify(path)
    assert drifted(report) == with_end_to_end("decode")
    with pytest.raises(CheckFailedError) as caught:
        report.require()
    assert str(path) in str(caught.value)
    for part in ("decode: ", "mean gray levels, allowed 1;", "end to end on openvino fp32: ", "of the pixels"):
        assert part in str(caught.value)


def test_decoder_that_fails_here_is_found(binary_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Any, **options: Any) -> NDArray[np.uint8]:
        raise InputError("no WebP here")

    monkeypatch.setattr("visdeploy.verify.decode", fail)
    monkeypatch.setattr("visdeploy.predictor.decode", fail)
    report = verify(binary_bundle)
    assert drifted(report) == with_end_to_end("decode")
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["rows"][0]["error"] is None


@pytest.mark.parametrize(
    ("bundle", "fields"),
    [
        ("binary_bundle", {"interpolation": "nearest"}),
        ("binary_bundle", {"antialias": False}),
        ("binary_bundle", {"resize": "letterbox"}),
        ("classes_bundle", {"interpolation": "nearest"}),
        ("classes_bundle", {"pad_value": 100}),
    ],
)
def test_other_preprocessing_is_found_in_resizing(
    bundle: str, fields: dict[str, Any], rebuild: Rebuild, request: pytest.FixtureRequest
) -> None:
    report = verify(rebuild(request.getfixturevalue(bundle), **fields), engines=["openvino"])
    assert ("resize", "") in drifted(report)
    assert not {("decode", ""), ("postprocess", ""), ("network", "openvino")} & set(drifted(report))


@pytest.mark.parametrize("fields", [{"threshold": 0.51}, {"background": 1}])
def test_other_reading_of_the_logits_is_found_in_postprocessing(
    fields: dict[str, Any], rebuild: Rebuild, binary_bundle: Path
) -> None:
    assert drifted(verify(rebuild(binary_bundle, **fields))) == with_end_to_end("postprocess")


def other_normalisation(model: bytes) -> bytes:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(model)
    (mean,) = [tensor for tensor in graph.graph.initializer if tensor.name == "mean"]
    changed = onnx.numpy_helper.to_array(mean) * np.float32(0.98)
    mean.CopyFrom(onnx.numpy_helper.from_array(changed, "mean"))
    return graph.SerializeToString()


def other_weights(model: bytes) -> bytes:
    torch = pytest.importorskip("torch")
    module = torch.jit.load(io.BytesIO(model))
    with torch.no_grad():
        next(parameter for parameter in module.parameters() if parameter.ndim == 4)[0] *= 1.05
    torch.jit.save(module, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize(
    ("member", "change", "engines"),
    [(ONNX, other_normalisation, ["openvino", "onnxruntime"]), (TORCHSCRIPT, other_weights, ["torchscript"])],
)
def test_other_network_is_found_in_the_engines_that_run_it(
    member: str, change: Callable[[bytes], bytes], engines: list[str], rebuild: Rebuild, binary_bundle: Path
) -> None:
    changed = change(Bundle.open(binary_bundle).read(member))
    report = verify(rebuild(binary_bundle, files={member: changed}))
    assert [name for stage, name in drifted(report) if stage == "network"] == engines
    assert {stage for stage, _ in drifted(report)} <= {"network", "end to end"}
    assert {name for _, name in drifted(report)} == set(engines)
    with pytest.raises(CheckFailedError, match=rf"network on {engines[0]} fp32: .* output, allowed 0.0001"):
        report.require()


def test_golden_logits_that_are_not_finite_never_pass(rebuild: Rebuild, classes_bundle: Path) -> None:
    recorded = goldens.unpack(Bundle.open(classes_bundle).read(GOLDEN), "")
    recorded[1].logits[0, 0, 0] = np.nan
    report = verify(rebuild(classes_bundle, files={GOLDEN: goldens.pack(recorded)}))
    assert set(drifted(report)) >= {("network", name) for name in ENGINES}


def test_second_image_counts_as_much_as_the_first(rebuild: Rebuild, classes_bundle: Path) -> None:
    recorded = goldens.unpack(Bundle.open(classes_bundle).read(GOLDEN), "")
    recorded[1].answer["classes"][:] = 3 - recorded[1].answer["classes"]
    report = verify(rebuild(classes_bundle, files={GOLDEN: goldens.pack(recorded)}))
    assert drifted(report) == with_end_to_end("postprocess")


def test_bundle_states_its_own_tolerance(rebuild: Rebuild, binary_bundle: Path) -> None:
    report = verify(rebuild(binary_bundle, tolerances={"fp32": 0.0}), engines=["openvino"])
    (network,) = [row for row in report.rows if row.stage == "network"]
    assert network.limit == 0
    assert network.ok == (network.error == 0)


def test_reduced_precision_is_held_against_its_own_tolerance(binary_bundle: Path) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    report = verify(binary_bundle, engines=["openvino"], precisions=["bf16"])
    network, masks = report.rows[3:]
    assert (network.precision, network.limit) == ("bf16", tolerance.LOGITS["bf16"])
    assert (masks.precision, masks.limit) == ("bf16", tolerance.MASK_PIXELS["bf16"])
    assert tolerance.LOGITS["fp32"] < network.error <= network.limit


def test_bundle_without_golden_images_cannot_be_verified(rebuild: Rebuild, classes_bundle: Path) -> None:
    empty = rebuild(classes_bundle, files={GOLDEN: goldens.pack([])})
    with pytest.raises(BundleError, match="holds no golden images"):
        verify(empty)
    opened = Bundle.open(classes_bundle)
    write(empty, opened.manifest, {name: data for name, data in opened.files.items() if name != GOLDEN})
    with pytest.raises(BundleError, match=r"the bundle holds no golden\.npz"):
        verify(empty)


def test_bundle_of_the_first_schema_is_still_verified(binary_bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(binary_bundle)
    since = {"anchors", "box_weights", "iou_threshold", "top_k", "max_det", "nms", "enlarge", "min_area", "fill_holes"}
    fields = opened.manifest.model_dump(mode="json", exclude=since) | {"schema_version": "1.0"}
    (tmp_path / "old").mkdir()
    for name, data in opened.files.items():
        (tmp_path / "old" / name).write_bytes(data)
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(fields))
    report = verify(tmp_path / "old", engines=["openvino"])
    assert report.ok
    assert Bundle.open(tmp_path / "old").manifest.schema_version == "1.0"


def test_nothing_to_verify_on_is_an_error(classes_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setitem(sys.modules, "torch" if name == "torchscript" else name, None)
    with pytest.raises(MissingDependencyError, match="none can run this here"):
        verify(classes_bundle)


# Of engines that are stubs, which answer each channel's gray level minus a half, and some of them more than that.
Answers = dict[tuple[str, str], float | VisdeployError]


def stub_bundle(images: list[NDArray[np.uint8]], **fields: Any) -> Bundle:
    """A bundle whose golden images the stub engine answered."""
    engine = stub.StubEngine(1, lambda: None)
    spec = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5} | fields
    manifest = Manifest.parse(spec)
    sources = [(image.encode_png(pixels), pixels) for pixels in images]
    packed = goldens.pack(goldens.record(sources, manifest, engine.infer))
    return Bundle(Path("stub.vdz"), manifest, {GOLDEN: packed, TORCHSCRIPT: b""})


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """By engine and precision: what it adds to every logit, or the error that opening it raises; 0 where absent."""
    answers: Answers = {}

    def open_stub(name: str, bundle: Bundle, *, precision: str, num_threads: int | None = None) -> stub.StubEngine:
        answer = answers.get((name, precision), 0.0)
        if isinstance(answer, VisdeployError):
            raise answer
        engine = stub.StubEngine(1, lambda: None)
        exact = engine.infer
        engine.infer = lambda images, **options: exact(images) + np.float32(answer)  # type: ignore[method-assign]
        engine.name, engine.precision = name, precision
        return engine

    monkeypatch.setattr("visdeploy.verify.NAMES", ("openvino", "onnxruntime", "torchscript"))
    monkeypatch.setattr("visdeploy.verify.open_engine", open_stub)
    return answers


def flat(red: int, changed: int = 0) -> NDArray[np.uint8]:
    """An image of one red level, of which so many pixels are of level 120 instead, no car by a little."""
    pixels = np.full((64, 64, 3), red, np.uint8)
    pixels.reshape(-1, 3)[:changed] = 120
    return pixels


INT8 = Variant(engine="openvino", precision="int8", accepted=True)


def test_every_engine_runs_in_what_the_bundle_accepted_for_it(stubs: Answers) -> None:
    variants = INT8, INT8.model_copy(update={"precision": "bf16", "accepted": False})
    variants += (INT8.model_copy(update={"engine": "onnxruntime"}),)
    stubs["onnxruntime", "int8"] = UnsupportedError("no int8 on this processor")
    stubs["torchscript", "fp32"] = MissingDependencyError("no torch")
    report = verify(stub_bundle([flat(200)], variants=variants))
    assert report.ok
    ran = [(row.engine, row.precision) for row in report.rows if row.stage == "network"]
    assert ran == [("openvino", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp32")]
    assert [(entry.what, entry.why) for entry in report.not_run] == [
        ("onnxruntime int8", "no int8 on this processor"),
        ("torchscript", "no torch"),
    ]
    assert verify(stub_bundle([flat(200)]), precisions=["bf16"]).rows[3].precision == "bf16"


def test_engine_that_was_named_must_run(stubs: Answers) -> None:
    stubs["onnxruntime", "int8"] = UnsupportedError("no int8 on this processor")
    with pytest.raises(UnsupportedError, match="no int8"):
        verify(stub_bundle([flat(200)]), engines=["openvino", "onnxruntime"], precisions=["int8"])
    for name in ("openvino", "torchscript"):
        stubs[name, "int8"] = MissingDependencyError(f"no {name}")
    with pytest.raises(UnsupportedError, match=r"none can run this here\. no openvino; no int8"):
        verify(stub_bundle([flat(200)], variants=(INT8,)), precisions=["int8"])
    with pytest.raises(UnsupportedError, match=r"no engine here runs .* in int8; to add variants"):
        verify(stub_bundle([flat(200)]), precisions=["int8"])


def test_drifted_precision_is_named_with_its_pixels(stubs: Answers) -> None:
    stubs["openvino", "int8"] = 0.3  # a fifth of the second image's pixels are that close below the threshold
    bundle = stub_bundle([flat(200), flat(20, changed=819)], variants=(INT8,))
    report = verify(bundle)
    assert drifted(report) == [("network", "openvino"), ("end to end", "openvino")]
    network, masks = [row for row in report.rows if not row.ok]
    assert network.error == pytest.approx(0.3, rel=1e-5)
    assert (masks.changed, masks.total, masks.worst) == (819, 2 * 64 * 64, "golden 1")
    assert masks.error == 819 / 64**2
    assert masks.dice == 0
    with pytest.raises(CheckFailedError, match=r"end to end on openvino int8: 0\.2 of the pixels, allowed 0\.05"):
        report.require()


def test_own_images_are_compared_with_torchscript(stubs: Answers, tmp_path: Path) -> None:
    stubs["openvino", "fp32"] = 0.1
    paths = [tmp_path / "dark.png", tmp_path / "broken.png", tmp_path / "edge.png"]
    image.write(paths[0], flat(20))
    paths[1].write_bytes(b"no image")
    image.write(paths[2], flat(20, changed=7))
    report = verify(stub_bundle([flat(250)]), images=paths)
    assert (report.own_images, report.reference) == (2, "torchscript fp32")
    openvino, onnxruntime = [row for row in report.rows if row.stage == "own images"]
    assert (openvino.engine, openvino.changed, openvino.total) == ("openvino", 7, 2 * 64 * 64)
    assert openvino.worst == str(paths[2])
    assert not openvino.ok
    assert (onnxruntime.changed, onnxruntime.worst, onnxruntime.dice, onnxruntime.ok) == (0, "", 1, True)
    assert [entry.what for entry in report.not_run] == [str(paths[1])]
    with pytest.raises(InputError, match="none of the 1 could be predicted"):
        verify(stub_bundle([flat(250)]), images=paths[1:2])


def test_own_images_without_torch_are_compared_with_onnx(stubs: Answers) -> None:
    stubs["torchscript", "fp32"] = MissingDependencyError("no torch")
    report = verify(stub_bundle([flat(250)]), images=[flat(20)])
    assert report.reference == "onnxruntime fp32"
    assert [row.engine for row in report.rows if row.stage == "own images"] == ["openvino"]


@pytest.mark.parametrize(
    ("answered", "reference", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.1, 0.0], [0.0, 0.0], 0.1),
        ([1.0], [1.0, 2.0], np.inf),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([1.0, np.inf], [1.0, np.inf], np.inf),
        ([3e38], [-3e38], 2),
    ],
)
def test_relative_error(answered: list[float], reference: list[float], expected: float) -> None:
    error = relative_error(np.array(answered, np.float32), np.array(reference, np.float32))
    assert error == pytest.approx(expected, rel=1e-6)
