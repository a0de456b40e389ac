import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visdeploy import bundle as bundles
from visdeploy import data, image, tolerance
from visdeploy.bundle import ONNX, Bundle
from visdeploy.engines import open_engine
from visdeploy.errors import CheckFailedError, EngineError, InputError, MissingDependencyError, UnsupportedError

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

from timm.layers import Conv2dSame  # noqa: E402
from torch import nn  # noqa: E402

from visdeploy import export  # noqa: E402
from visdeploy.calibration import FEWEST, prepare_images  # noqa: E402
from visdeploy.comparison import relative_error  # noqa: E402
from visdeploy.precision import PrecisionOptions, add_variants  # noqa: E402
from visdeploy.quantize import Quantizer, as_model  # noqa: E402

SPEC = {"task": "segmentation", "labels": ["red"], "size": (32, 64), "mean": 0.5, "std": 0.5}
EVERY_KIND = {
    ("openvino", "int8"),
    ("onnxruntime", "int8"),
    ("tensorrt", "fp16"),
    ("tensorrt", "int8"),
}


class Chain(nn.Module):
    """Calls red what is red, through `depth` layers; some add a channel of a size that leaves int8 no steps for red."""

    def __init__(self, depth: int, outliers: tuple[int, ...] = ()) -> None:
        super().__init__()
        layers = []
        for index in range(depth):
            last = index == depth - 1
            layer = nn.Conv2d(3 if index == 0 else 4, 1 if last else 4, 1)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            layer.weight.data[0, 0] = 8.0 if last else 1.0
            if not last:
                layer.weight.data[1, 1] = layer.weight.data[2, 2] = 1.0
                layer.bias.data[0] = 2.0 if index == 0 else 0.0  # so that ReLU cuts nothing
                layer.bias.data[3] = 1e6 if index in outliers else 1.0
            else:
                layer.bias.data[0] = -16.0
            layers += [layer, nn.Identity() if last else nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class SamePadding(nn.Module):
    """Pads as TensorFlow does: by arithmetic on the size of its input, in floats once it is a graph."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.conv = Conv2dSame(3, 1, 3, stride=2)
        self.conv.weight.data = torch.randn(self.conv.weight.shape, generator=generator) * 0.3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class OneAtATime(SamePadding):
    """Works out its answer's shape, batch and all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y.reshape(x.shape[0], 1, x.shape[2] // 2, -1)


def picture(seed: int, size: tuple[int, int] = (32, 64)) -> np.ndarray:
    """Noise whose samples keep away from the threshold, so that rounding changes no pixel."""
    rng = np.random.default_rng(seed)
    shape = (*size, 3)
    return np.where(rng.random(shape) < 0.5, rng.integers(0, 90, shape), rng.integers(165, 256, shape)).astype(np.uint8)


def make(path: Path, net: nn.Module, **spec: object) -> Path:
    export.export(net, path, spec=SPEC | spec, golden=[picture(100), picture(101)])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Fifty pictures and what is red in them; a fifth is held out."""
    root = tmp_path_factory.mktemp("red")
    for name in ("images", "masks"):
        (root / name).mkdir()
    (root / "labels.txt").write_text("background\nred\n")
    for index in range(50):
        pixels = picture(index)
        image.write(root / "images" / f"{index:02}.png", pixels)
        image.write(root / "masks" / f"{index:02}.png", np.repeat((pixels[:, :, :1] > 127) * np.uint8(255), 3, 2))
    return root


@pytest.fixture(scope="module")
def labelled(folder) -> data.Dataset:
    return data.open(folder)


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("easy") / "red.vdz", Chain(3))


@pytest.fixture(scope="module")
def easy_with_variants(tmp_path_factory, easy, labelled) -> Bundle:
    path = tmp_path_factory.mktemp("variants") / "red.vdz"
    report = export.add_variants(easy, path, precision=PrecisionOptions(data=labelled))
    assert report.ok
    return Bundle.open(path)


def test_auto_keeps_what_keeps_the_metric(easy_with_variants, labelled):
    variants = {(variant.engine, variant.precision): variant for variant in easy_with_variants.manifest.variants}
    assert variants.keys() - {("openvino", "bf16")} == EVERY_KIND  # bf16 is the processor's
    for (engine, precision), variant in variants.items():
        assert variant.accepted
        assert (variant.metric, variant.images) == ("dice", len(labelled.val))
        assert variant.value == pytest.approx(1, abs=0.005)
        assert variant.drop <= 0.005
        assert variant.measured_on == ("onnxruntime" if engine == "tensorrt" else None)
        assert (variant.calibration is None) == (precision != "int8")
        assert bool(variant.files) == (precision != "bf16")
        assert all(easy_with_variants.files[name] for name in variant.files)


def test_verify_allows_what_was_accepted(easy, labelled, monkeypatch):
    """Logits may drift far where masks do not; the same variant is then known by its own drift."""
    from visdeploy import precision

    monkeypatch.setattr(precision, "relative_error", lambda answered, reference: 0.5)
    made = add_variants(Bundle.open(easy), PrecisionOptions("fp16", labelled))
    assert made.manifest.variant("tensorrt", "fp16").drift == 0.5
    assert made.manifest.tolerances == tolerance.LOGITS
    monkeypatch.setattr(precision, "relative_error", lambda answered, reference: float("inf"))
    with pytest.raises(EngineError, match="fp16 for tensorrt has answers beyond its range"):
        add_variants(Bundle.open(easy), PrecisionOptions("fp16", labelled))
    made = add_variants(Bundle.open(easy), PrecisionOptions("fp16"))
    assert made.manifest.variant("tensorrt", "fp16").drift is None


def test_variants_answer_like_fp32(easy_with_variants):
    images = np.stack([picture(7), picture(8)])
    exact = open_engine("openvino", easy_with_variants, precision="fp32").infer(images)
    for variant in easy_with_variants.manifest.variants:
        if variant.engine == "tensorrt":
            graph = as_model(easy_with_variants, easy_with_variants.read(variant.files[0]))
            answer = open_engine("onnxruntime", graph, precision="fp32").infer(images)
        else:
            answer = open_engine(variant.engine, easy_with_variants, precision=variant.precision).infer(images)
        error = relative_error(answer, exact)
        assert 0 < error <= tolerance.LOGITS[variant.precision], variant


def test_weights_are_stored_in_low_precision(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 1, 1))
    made = add_variants(Bundle.open(make(tmp_path / "wide.vdz", net)), PrecisionOptions("int8"))
    weights = 4 * 64 * 64 * 9
    assert len(made.read(ONNX)) > weights
    assert len(made.read("variants/int8-openvino.bin")) < weights / 3
    assert len(made.read("variants/int8-onnxruntime.onnx")) < weights / 3
    assert len(made.read("variants/int8-tensorrt.onnx")) < weights / 3
    half = add_variants(made, PrecisionOptions("fp16"))
    assert len(half.read("variants/fp16-tensorrt.onnx")) < weights / 1.8
    assert {*made.files} < {*half.files}
    assert len(half.manifest.variants) == 4


def test_engines_of_tensorrt_are_built_from_them(easy_with_variants):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    for name in ("variants/fp16-tensorrt.onnx", "variants/int8-tensorrt.onnx"):
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(easy_with_variants.read(name)), parser.get_error(0).desc()
        assert network.get_input(0).dtype == trt.uint8
        assert network.get_output(0).dtype == trt.float32
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("images", (1, 32, 64, 3), (1, 32, 64, 3), (8, 32, 64, 3))
        assert config.add_optimization_profile(profile) >= 0
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        assert builder.build_serialized_network(network, config) is not None


def test_the_costliest_layers_stay_in_fp32(run, tmp_path, labelled):
    bundle = Bundle.open(make(tmp_path / "outlier.vdz", Chain(8, outliers=(3,))))
    said: list[str] = []
    made = add_variants(bundle, PrecisionOptions("int8", labelled), progress=said.append)
    for variant in made.manifest.variants:
        assert variant.accepted
        first, last, *costliest = variant.excluded
        assert "layers.0/" in first
        assert "layers.14/" in last
        assert any("layers.8/" in name for name in costliest)  # which reads the outlier
    assert sum("too much" in line for line in said) >= 2 * 3
    bundles.write(tmp_path / "made.vdz", made.manifest, made.files)
    code, table, _ = run("inspect", tmp_path / "made.vdz")
    assert code == 0
    assert table.count("accepted: dice 1.0000, 0.0000 below fp32, over 10 images") == 3
    assert table.count("layers in fp32") == 3


def test_what_loses_too_much_is_refused(tmp_path, labelled):
    lossy = make(tmp_path / "lossy.vdz", Chain(8, outliers=(1, 2, 3, 4, 5)))
    target = tmp_path / "target.vdz"
    options = PrecisionOptions("int8", labelled, engines=("onnxruntime",))
    with pytest.raises(CheckFailedError, match=r"int8 for onnxruntime has dice 0\..* fp32 1\.0000: a drop of") as error:
        export.add_variants(lossy, target, precision=options)
    assert "left in fp32" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["lossy.vdz"]
    export.add_variants(lossy, target, precision=PrecisionOptions("auto", labelled, engines=("onnxruntime",)))
    (variant,) = Bundle.open(target).manifest.variants
    assert not variant.accepted
    assert variant.files == ()
    assert variant.drop > 0.005
    assert not [name for name in Bundle.open(target).files if name.startswith("variants/")]


def test_the_budget_decides(easy, labelled, monkeypatch):
    from visdeploy import precision

    figures = iter([{"dice": 0.9}, {"dice": 0.89}])
    monkeypatch.setattr(precision, "evaluate", lambda predictor, items: next(figures))
    options = PrecisionOptions("fp16", labelled, max_drop=0.0101)
    (variant,) = add_variants(Bundle.open(easy), options).manifest.variants
    assert variant.accepted
    assert (variant.value, variant.drop) == (0.89, pytest.approx(0.01))
    figures = iter([{"dice": 0.89}, {"dice": 0.9}])
    said: list[str] = []
    add_variants(Bundle.open(easy), options, progress=said.append)
    assert "a gain of 0.0100, allowed a drop of 0.0101: accepted" in said[-1]
    figures = iter([{"miou": 0.9, "dice": 1.0}, {"miou": 0.89, "dice": 1.0}])
    with pytest.raises(CheckFailedError, match=r"miou 0\.8900 .*a drop of 0\.0100, allowed 0\.0099"):
        add_variants(Bundle.open(easy), PrecisionOptions("fp16", labelled, max_drop=0.0099))


def test_masks_without_foreground_decide_nothing(easy, labelled):
    empty = [replace(item, load_mask=lambda: np.zeros((32, 64), np.uint8)) for item in labelled.val]
    with pytest.raises(InputError, match="no held-out mask has a pixel of 'red'"):
        add_variants(Bundle.open(easy), PrecisionOptions("fp16", replace(labelled, val=empty)))


def test_a_variant_that_is_left_out_does_not_stay_from_before(easy_with_variants, labelled, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    options = PrecisionOptions("auto", labelled, engines=("openvino",))
    made = add_variants(easy_with_variants, options)
    assert made.manifest.variant("openvino", "int8") is None
    assert not [name for name in made.files if "openvino" in name]
    assert made.manifest.variant("onnxruntime", "int8") is not None


def test_another_format_measures_what_it_is_given_data_for(run, easy, folder, tmp_path):
    ungated, out = tmp_path / "ungated.vdz", tmp_path / "easy.xml"
    options = ["--precision", "int8", "--format", "openvino", "--out", out]
    assert run("export", easy, "--precision", "int8", "--engine", "openvino", "--out", ungated)[0] == 0
    code, _, err = run("export", ungated, *options)
    assert code == 0, err
    assert "int8 for openvino was not accepted by any measurement" in err
    code, _, err = run("export", ungated, *options, "--data", folder)
    assert code == 0, err
    assert "allowed 0.005: accepted" in err


def test_without_labels_nothing_is_accepted(easy, folder):
    said: list[str] = []
    made = add_variants(Bundle.open(easy), PrecisionOptions("fp16"), progress=said.append)
    assert [(variant.accepted, variant.metric) for variant in made.manifest.variants] == [(False, None)]
    assert made.read("variants/fp16-tensorrt.onnx")
    assert said[0] == "without labels nothing is measured, and the variants are only loaded by name"
    plain = sorted((folder / "images").iterdir())
    options = PrecisionOptions("int8", plain, engines=("onnxruntime",))
    made = add_variants(Bundle.open(easy), options, progress=said.append)
    (variant,) = made.manifest.variants
    assert not variant.accepted
    assert variant.calibration == prepare_images(plain, made.manifest, 64).sha256


def test_calibration_is_named_by_its_pixels(easy, labelled, folder):
    spec = Bundle.open(easy).manifest
    first = prepare_images(labelled, spec, 16)
    assert len(first.pixels) == 16
    assert first.sha256 == prepare_images(data.open(folder, labels=("background", "red")), spec, 16).sha256
    assert first.sha256 != prepare_images(labelled, spec, 15).sha256
    other = spec.model_copy(update={"size": (32, 32)})
    assert first.sha256 != prepare_images(labelled, other, 16).sha256
    held_out = {item.name for item in labelled.val}
    assert len(prepare_images(labelled, spec, 1000).pixels) == 50 - len(held_out)


def test_gray_images_calibrate(easy):
    gray = [np.repeat(picture(index, (20, 30))[:, :, :1], 3, 2) for index in range(FEWEST)]
    assert len(prepare_images(gray, Bundle.open(easy).manifest, 64).pixels) == FEWEST


def test_bad_data_are_one_sentence(easy, labelled, folder, tmp_path):
    bundle = Bundle.open(easy)
    with pytest.raises(InputError, match=r"auto measures on labelled images; give a folder .* or of photographs"):
        PrecisionOptions("auto")
    with pytest.raises(InputError, match="expected auto, fp16, bf16, int8, got 'fp8'"):
        PrecisionOptions("fp8")
    with pytest.raises(InputError, match="max_drop: expected a share from 0 to 1, got 5"):
        PrecisionOptions("int8", max_drop=5)
    with pytest.raises(InputError, match="there is no fp16 for openvino"):
        PrecisionOptions("fp16", engines=("openvino",))
    with pytest.raises(InputError, match=f"at least {FEWEST} images, got 3"):
        add_variants(bundle, PrecisionOptions("int8", [picture(0)] * 3))
    with pytest.raises(InputError, match=f"at least {FEWEST} images, got 2"):
        add_variants(bundle, PrecisionOptions("int8", labelled, calibration=2))
    with pytest.raises(InputError, match=f"at least {FEWEST} images, got 0"):
        add_variants(bundle, PrecisionOptions("int8", []))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG broken")
    with pytest.raises(InputError, match=r"broken\.png"):
        add_variants(bundle, PrecisionOptions("int8", [*sorted((folder / "images").iterdir())[:20], broken] * 2))
    with pytest.raises(InputError, match="its labels"):
        add_variants(bundle, PrecisionOptions("int8", data.open(folder, labels=("background", "blue"))))


def test_a_missing_package_is_named(easy, labelled, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    options = PrecisionOptions("int8", labelled, engines=("openvino",))
    with pytest.raises(MissingDependencyError, match=r"pip install 'visdeploy\[quantize,openvino\]'"):
        add_variants(Bundle.open(easy), options)
    said: list[str] = []
    made = add_variants(Bundle.open(easy), PrecisionOptions("auto", labelled), progress=said.append)
    assert ("openvino", "int8") not in {(variant.engine, variant.precision) for variant in made.manifest.variants}
    assert any("int8 for openvino left out" in line and "pip install" in line for line in said)


def operators(graph: bytes) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load_from_string(graph).graph.node}


def test_arithmetic_on_sizes_is_folded(tmp_path):
    bundle = Bundle.open(make(tmp_path / "same.vdz", SamePadding()))
    assert "Shape" in operators(bundle.read(ONNX))
    pixels = [picture(0), picture(1)]
    exact = open_engine("onnxruntime", bundle, precision="fp32").infer(np.stack(pixels))
    with Quantizer(bundle, pixels) as quantizer:
        for precision, graph in (
            ("fp16", quantizer.fp16()),
            ("int8", quantizer.int8_onnx("tensorrt")),
            ("int8", quantizer.int8_onnx("onnxruntime")),
        ):
            assert not operators(graph) & {"Shape", "Gather", "Ceil", "Slice"}
            answer = open_engine("onnxruntime", as_model(bundle, graph), precision="fp32").infer(np.stack(pixels))
            assert relative_error(answer, exact) <= tolerance.LOGITS[precision]


def test_sizes_that_vary_stay_exact(tmp_path):
    bundle = Bundle.open(make(tmp_path / "native.vdz", SamePadding(), resize="native"))
    pixels = [picture(0), picture(1)]
    with Quantizer(bundle, pixels) as quantizer:
        graph = quantizer.int8_onnx("onnxruntime")
        with pytest.raises(UnsupportedError, match="computes with sizes of images in floats"):
            quantizer.fp16()
    for size in ((32, 64), (32, 4126)):
        image = picture(0, size)[None]
        exact = open_engine("onnxruntime", bundle, precision="fp32").infer(image)
        answer = open_engine("onnxruntime", as_model(bundle, graph), precision="fp32").infer(image)
        assert relative_error(answer, exact) <= tolerance.LOGITS["int8"]


def test_a_batch_that_cannot_be_fixed_stays_free(tmp_path):
    bundle = Bundle.open(make(tmp_path / "free.vdz", OneAtATime()))
    pixels = [picture(0), picture(1)]
    exact = open_engine("onnxruntime", bundle, precision="fp32").infer(np.stack(pixels))
    with Quantizer(bundle, pixels) as quantizer:
        graph = quantizer.int8_onnx("onnxruntime")
    answer = open_engine("onnxruntime", as_model(bundle, graph), precision="fp32").infer(np.stack(pixels))
    assert relative_error(answer, exact) <= tolerance.LOGITS["int8"]


def test_a_library_that_fails_is_quoted(easy, labelled, monkeypatch):
    from visdeploy import quantize

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such thing\nnode Conv_3 is too odd")

    monkeypatch.setattr(quantize, "convert_float_to_float16", fail)
    with pytest.raises(EngineError, match=r"cannot make fp16 of this graph \(node Conv_3 is too odd\)"):
        add_variants(Bundle.open(easy), PrecisionOptions("fp16", labelled))


def test_the_command_line(run, easy, folder, tmp_path):
    out = tmp_path / "out.vdz"
    options = ["--precision", "int8", "--engine", "onnxruntime"]
    code, said, err = run("export", easy, "--out", out, *options, "--data", folder / "images", "--json")
    assert code == 0, err
    assert json.loads(said)["ok"] is True
    assert "without labels nothing is measured" in err
    (variant,) = Bundle.open(out).manifest.variants
    assert (variant.engine, variant.precision, variant.accepted) == ("onnxruntime", "int8", False)
    assert "onnxruntime int8" in (table := run("inspect", out)[1])
    assert "not measured, loaded by name only" in table
    assert len(err.splitlines()) < 8  # of ours: the libraries' own is not shown
    other = tmp_path / "other"
    other.mkdir()
    for name in ("images", "masks"):  # and no labels.txt
        (other / name).symlink_to(folder / name)
    for arguments, sentence in (
        (["--precision", "auto"], "as --data"),
        (["--precision", "int9"], "expected auto"),
        ([], "is a bundle: it takes --precision"),
        (["--data", folder], "go with --precision"),
        ([*options, "--data", tmp_path / "nowhere"], "expected a folder"),
        ([*options, "--data", other], "its labels"),
    ):
        code, _, err = run("export", easy, "--out", tmp_path / "none.vdz", *arguments)
        assert code == 2
        assert sentence in err
        assert "Traceback" not in err
    assert not (tmp_path / "none.vdz").exists()


def test_export_makes_them_at_once(tmp_path, labelled):
    path = tmp_path / "red.vdz"
    options = PrecisionOptions("fp16", labelled)
    report = export.export(Chain(3), path, spec=SPEC, golden=[picture(100)], precision=options)
    assert report.ok
    assert [variant.precision for variant in Bundle.open(path).manifest.variants] == ["fp16"]
