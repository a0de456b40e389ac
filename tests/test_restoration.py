"""Networks that answer a picture: the whole way from an image file to the restored one, and what vouches for it."""

import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor, nn

import visdeploy
from nets import Answering
from stub import SaysEngine
from visdeploy import cli, data, export, golden, image, preprocess
from visdeploy.bundle import GOLDEN, Bundle, Manifest
from visdeploy.data import Degrade
from visdeploy.engines.exported import open_file
from visdeploy.engines.torchscript import accepting_deprecation
from visdeploy.errors import BundleError, EngineError, InputError
from visdeploy.precision import PrecisionOptions
from visdeploy.predictor import Predictor
from visdeploy.pt2 import export_pt2
from visdeploy.torchscript_file import export_torchscript
from visdeploy.verify import verify

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = {"task": "restoration", "size": 32, "mean": MEAN, "std": STD}
SIZES = ((1, 1), (1, 40), (33, 17), (32, 32), (75, 101))
GEOMETRIES = ({"resize": "tile"}, {"resize": "native"}, {"resize": "native", "divisor": 1})
Pixels = NDArray[np.uint8]


class Residual(nn.Module):
    """Adds a seeded correction to its input, as most restorers do."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, kernel, padding=kernel // 2)
        self.last = nn.Conv2d(8, 3, 1)
        generator = torch.Generator().manual_seed(kernel)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(torch.relu(self.first(x)))


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), np.uint8)


def bicubic(pixels: Pixels, times: int) -> Pixels:
    size = pixels.shape[1] * times, pixels.shape[0] * times
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)


def normalised(pixels: Pixels) -> NDArray[np.float32]:
    return ((pixels / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


def restorer(answer: Callable[[Pixels], Any] = normalised, **changes: Any) -> Predictor:
    """A model without a network; it answers with its input."""
    manifest = Manifest.parse(SPEC | {"activation": "none"} | changes)
    return Predictor(Bundle(Path("says.vdz"), manifest, {}), SaysEngine(answer))


def restored(model: Predictor, source: Any) -> Pixels:
    picture = model(source).restored
    assert picture is not None
    return picture.array


# Exactness.


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_identity_gives_back_every_sample(geometry: dict[str, Any], size: tuple[int, int]) -> None:
    model, pixels = restorer(**geometry), photo(*size)
    result = model(pixels)
    assert result.masks is result.boxes is result.classes is None
    assert result.size == size
    assert result.restored is not None
    assert result.restored.array.dtype == np.uint8
    np.testing.assert_array_equal(result.restored.array, pixels)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_identity_of_an_enlarged_image_is_opencvs_bicubic(
    geometry: dict[str, Any], times: int, size: tuple[int, int]
) -> None:
    model, pixels = restorer(enlarge=times, **geometry), photo(*size)
    result = model(pixels)
    assert result.size == size
    assert result.restored is not None
    np.testing.assert_array_equal(result.restored.array, bicubic(pixels, times))
    np.testing.assert_array_equal(result.plot().array, np.hstack([bicubic(pixels, times)] * 2))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1"])
def test_every_kind_of_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "photo.png"
    PillowImage.fromarray(photo(37, 29)).convert(mode).save(path)
    np.testing.assert_array_equal(restored(restorer(), path), image.decode(path))


def test_a_jpeg_that_was_turned(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    turned = PillowImage.Exif()
    turned[0x0112] = 6
    PillowImage.fromarray(photo(40, 70)).save(path, exif=turned)
    assert restored(restorer(), path).shape == (70, 40, 3)
    np.testing.assert_array_equal(restored(restorer(), path), image.decode(path))


@pytest.mark.parametrize("geometry", GEOMETRIES[:2])
def test_padding_repeats_the_border(geometry: dict[str, Any]) -> None:
    seen: list[Pixels] = []
    model = restorer(lambda pixels: seen.append(pixels) or normalised(pixels), **geometry)
    model(pixels := photo(20, 30))
    np.testing.assert_array_equal(seen[0], np.pad(pixels, ((0, 12), (0, 2), (0, 0)), mode="edge"))


def test_samples_are_rounded_and_cut_at_both_ends() -> None:
    values = np.float32([-1, -np.inf, 100.4 / 255, 100.6 / 255, 2, np.inf])
    model = restorer(lambda seen: np.tile(values, (3, 1, 1)), resize="native", divisor=1, mean=0, std=1)
    assert restored(model, photo(1, 6))[0].tolist() == [[level] * 3 for level in (0, 0, 100, 101, 255, 255)]


def test_tiles_of_a_pointwise_network_are_the_whole() -> None:
    net = Residual(kernel=1)

    def answer(pixels: Pixels) -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(normalised(pixels))[None])[0].numpy()

    pixels = photo(75, 101)
    whole, tiled = (restored(restorer(answer, resize=resize), pixels) for resize in ("native", "tile"))
    assert (whole != pixels).mean() > 0.9
    # A sample that lies between two levels may fall either way.
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert (whole != tiled).mean() < 1e-3


def test_tiles_take_no_memory_for_the_floats_of_the_whole() -> None:
    model, pixels = restorer(tile_overlap=0), photo(1024, 1024)
    model(pixels[:64, :64])
    tracemalloc.start()
    try:
        model(pixels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The caller's array is copied; beside it and the picture there are a few rows.
    assert 2 * pixels.size < peak < 2.5 * pixels.size


# What goes wrong.


@pytest.mark.parametrize("resize", ["native", "tile"])
def test_nan_costs_its_own_image_alone(resize: str, tmp_path: Path) -> None:
    def answer(pixels: Pixels) -> Any:
        return normalised(pixels) if pixels.any() else normalised(pixels) * np.nan

    model, black = restorer(answer, resize=resize), np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(EngineError, match=r"the network answered with NaN; .* try fp32"):
        model(black)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8broken")
    results = list(model.stream([photo(40, 40), black, broken, photo(40, 40, 1)], batch_size=4))
    assert [type(result.error) for result in results] == [type(None), EngineError, InputError, type(None)]
    assert [result.restored is None for result in results] == [False, True, True, False]
    with pytest.raises(EngineError, match="NaN"):
        results[1].plot()


@pytest.mark.parametrize(
    "cut",
    [lambda x: x[:, :1], lambda x: x[:, :, ::2, ::2], lambda x: x.repeat(1, 1, 2, 2), lambda x: x.repeat(1, 2, 1, 1)],
)
@pytest.mark.parametrize("resize", ["native", "tile"])
def test_answers_of_another_shape_are_refused(cut: Callable[[Tensor], Tensor], resize: str, tmp_path: Path) -> None:
    model = restorer(lambda seen: cut(torch.from_numpy(normalised(seen))[None])[0].numpy(), resize=resize)
    with pytest.raises(
        EngineError, match=r"of three channels and of its input's size for restoration, \(1, 3, 32, 32\)"
    ):
        model(photo(32, 32))
    with pytest.raises(EngineError, match="of its input's size"):
        model(photo(64, 96))
    with pytest.raises(InputError, match=r"net: expected a picture of three channels .* the spec's field enlarge"):
        export.export(Answering(cut), tmp_path / "x.vdz", spec=SPEC | {"resize": resize}, golden=[photo(32, 32)])
    assert not (tmp_path / "x.vdz").exists()


def test_images_that_cannot_be_enlarged() -> None:
    with pytest.raises(
        InputError, match=r"expected at most 1073741824 pixels once it is 2 times as large, got 60000 x"
    ):
        preprocess.enlarge(np.broadcast_to(np.uint8(0), (10_000, 30_000, 3)), 2)
    with pytest.raises(
        InputError, match="expected one on the host, where those to restore are prepared; copy it first"
    ):
        preprocess.prepare(SimpleNamespace(shape=(8, 8, 3)), restorer().spec)  # type: ignore[arg-type]


def test_what_other_tasks_say_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", ModuleType("supervision"))
    model = restorer(enlarge=2)
    result = model(photo(20, 30))
    assert json.loads(result.to_json())["restored"] == {"size": [40, 60]}
    assert "restored=Picture(60 x 40)" in repr(result)
    for convert in (lambda: result.to_coco(1), result.to_kaggle, result.to_supervision):
        with pytest.raises(InputError, match=r"got a restored picture; use restored.save\(\)"):
            convert()
    with pytest.raises(InputError, match="threshold: only a binary model has one; this one's task is restoration"):
        model(photo(20, 30), threshold=0.5)
    with pytest.raises(InputError, match="conf: only a detector has it"):
        model(photo(20, 30), conf=0.5)


# Bundles.


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes images twice as large, in tiles of 32x32."""
    path = tmp_path_factory.mktemp("tiled") / "sharp.vdz"
    goldens = [photo(40, 30), photo(9, 11)]
    report = export.export(Residual(), path, spec=SPEC | {"enlarge": 2}, golden=goldens)
    assert report.ok
    return path


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise, whole."""
    path = tmp_path_factory.mktemp("native") / "sharp.vdz"
    spec = SPEC | {"enlarge": 2, "resize": "native", "divisor": 8}
    export.export(Residual(), path, spec=spec, golden=[photo(40, 30), photo(9, 11)])
    return path


def test_every_engine_restores_alike(tiled: Path, engine: str) -> None:
    bundle, pixels = Bundle.open(tiled), photo(41, 67)
    assert (bundle.manifest.activation, bundle.manifest.labels) == ("none", ())
    report = verify(bundle, engines=[engine], images=[pixels, photo(5, 5)])
    assert report.ok
    rows = {row.stage: row for row in report.rows}
    assert rows["end to end"].total == 3 * 4 * (40 * 30 + 9 * 11)
    assert rows["end to end"].unit == "of the samples"
    if engine != "torchscript":
        assert rows["own images"].total == 3 * 4 * (41 * 67 + 25)
    whole = restorer(lambda seen: _answer_of(Residual(), seen), enlarge=2)
    with visdeploy.load(tiled, engine=engine) as model:
        found = restored(model, pixels)
        assert np.abs(found.astype(int) - restored(whole, pixels)).max() <= 1
        for result in model.stream([pixels, pixels[:9, :9], pixels], batch_size=2):
            assert result.restored is not None
            expected = found if result.index != 1 else restored(model, pixels[:9, :9])
            assert np.abs(result.restored.array.astype(int) - expected).max() <= 1


def _answer_of(net: nn.Module, pixels: Pixels) -> Any:
    with torch.inference_mode():
        return net(torch.from_numpy(normalised(pixels))[None])[0].numpy()


def test_verify_sees_samples_that_drifted(tiled: Path) -> None:
    bundle = Bundle.open(tiled)
    first, *others = golden.read(bundle)
    picture = first.answer["picture"].copy()
    picture[:2, :3, 0] ^= 8
    forged = replace(
        bundle, files={**bundle.files, GOLDEN: golden.pack([replace(first, answer={"picture": picture}), *others])}
    )
    report = verify(forged, engines=["torchscript"])
    drifted = [row for row in report.rows if not row.ok]
    assert [(row.stage, row.changed) for row in drifted] == [("postprocess", 6), ("end to end", 6)]
    assert drifted[0].worst == "golden 0"
    forged.files[GOLDEN] = golden.pack([replace(first, answer={"picture": picture[1:]}), *others])
    with pytest.raises(BundleError, match=r"image 0: expected a picture of \(80, 60\), got \(79, 60\)"):
        golden.read(forged)


def test_verify_sees_samples_that_are_cut_off_where_they_were_rounded(
    tiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visdeploy.postprocess.np.rint", np.floor)
    (row,) = (row for row in verify(tiled, engines=["torchscript"]).rows if row.stage == "postprocess")
    assert not row.ok
    assert 0.1 < row.error < 0.9


def test_goldens_smaller_than_a_window_are_refused(tiled: Path) -> None:
    bundle = Bundle.open(tiled)
    forged = replace(bundle, manifest=bundle.manifest.model_copy(update={"size": (128, 128)}))
    with pytest.raises(
        BundleError, match=r"image 0: expected pixels of at least \(128, 128\), a window, got \(80, 60\)"
    ):
        verify(forged, engines=["torchscript"])


def test_goldens_too_large_for_a_bundle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one sample there are two bytes of image, one of answer, and four of the network's."""
    monkeypatch.setattr(golden, "_MAX_BYTES", 4 << 20)
    photos = [image.encode_png(np.zeros((400, 400, 3), np.uint8))] * 2
    with pytest.raises(
        InputError, match="golden: the first 2 images with all that is recorded of them take 6 MiB, of 4"
    ):
        export.export(Answering(lambda x: x), tmp_path / "x.vdz", spec=SPEC, golden=photos)


def test_torchscript_file_restores_as_the_bundle(native: Path, tmp_path: Path) -> None:
    path = tmp_path / "sharp.ts"
    assert export_torchscript(Bundle.open(native), path).ok
    with accepting_deprecation():
        script = torch.jit.load(path)
    assert (script.task, script.labels) == ("restoration", [])
    opened = open_file(path, Bundle.open(native))
    with visdeploy.load(native, engine="torchscript") as model:
        for size in SIZES:
            expected = restored(model, pixels := photo(*size))
            found = script.predict(torch.from_numpy(pixels)).numpy()
            assert found.dtype == np.uint8
            # Bicubic samples may be a level away, and what the network makes of them, too.
            assert found.shape == expected.shape
            assert np.abs(found.astype(int) - expected).max() <= 2
            for wrong in (pixels / np.float32(255), pixels[..., :1], pixels[..., 0], pixels[..., [0, 1, 2, 0]]):
                with pytest.raises(torch.jit.Error, match=r"\[predict\] image: expected uint8 \(H, W, 3\), got"):
                    script.predict(torch.from_numpy(wrong))
            (result,) = opened.stream([pixels])
            assert np.abs(result.restored.array.astype(int) - expected).max() <= 1


def test_torchscript_file_has_no_tiles(tiled: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="looks at images through tiles, which a TorchScript file does not do"):
        export_torchscript(Bundle.open(tiled), tmp_path / "sharp.ts")


def test_other_formats(tiled: Path, tmp_path: Path) -> None:
    assert export_pt2(Bundle.open(tiled), tmp_path / "sharp.pt2", net=Residual()).ok
    for suffix in ("xml", "onnx"):
        assert (
            call_main(
                "export",
                tiled,
                "--out",
                tmp_path / f"sharp.{suffix}",
                "--format",
                {"xml": "openvino"}.get(suffix, suffix),
            )
            == 0
        )
        assert verify(tiled, files=[tmp_path / f"sharp.{suffix}"]).ok


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bare_onnx_file_with_a_spec(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.onnx.export(
        Residual(), (torch.zeros(1, 3, 32, 32),), buffer, dynamo=False, input_names=["x"], output_names=["y"]
    )
    (tmp_path / "net.onnx").write_bytes(buffer.getvalue())
    report = export.export(tmp_path / "net.onnx", tmp_path / "net.vdz", spec=SPEC, golden=[photo(40, 50)])
    assert report.ok
    manifest = Bundle.open(tmp_path / "net.vdz").manifest
    assert (manifest.task, manifest.activation, manifest.torchscript) == ("restoration", "none", "absent")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of 48x48."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(12):
        image.write(folder / f"{index:02}.png", cv2.resize(photo(6, 6, index), (48, 48), interpolation=cv2.INTER_CUBIC))
    return folder


def test_precision_is_measured_by_psnr_and_a_share_of_it_may_be_lost(photographs: Path, tmp_path: Path) -> None:
    path = tmp_path / "clean.vdz"
    net = Residual()
    net.last.weight.data *= 0.1
    net.last.bias.data *= 0.1
    export.export(net, path, spec=SPEC, golden=[photo(40, 30)])
    pictures = data.open(photographs, task="restoration", degrade=Degrade(jpeg=(20, 40)))

    def made(max_drop: float) -> tuple[Any, list[str]]:
        said: list[str] = []
        options = PrecisionOptions("int8", pictures, max_drop, calibration=8, engines=("onnxruntime",))
        assert export.add_variants(path, tmp_path / "int8.vdz", precision=options, progress=said.append).ok
        return Bundle.open(tmp_path / "int8.vdz").manifest.variants[0], said

    variant, said = made(0.5)
    fp32 = variant.value + variant.drop
    assert (variant.metric, variant.accepted) == ("psnr", True)
    assert 15 < fp32 < 60
    assert any(line.endswith(f"allowed {fp32 / 2:.4g}: accepted") for line in said)
    assert variant.drop > 0
    _, said = made(0.99 * variant.drop / fp32)
    assert any(line.endswith(f"allowed {0.99 * variant.drop:.4g}: too much") for line in said)


# The command line.


def call_main(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["visdeploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs of one stem."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "a.jpg"):
        image.write(folder / name, photo(20, 30))
    return folder


def test_predict_writes_pictures(tiled: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call_main("predict", tiled, folder, "--out", out, "--engine", "torchscript") == 0
    assert capsys.readouterr().out == f"2 of 2 images -> {out}/ (restored pictures)\n"
    assert sorted(path.name for path in out.iterdir()) == ["a-2.png", "a.png"]
    with visdeploy.load(tiled, engine="torchscript") as model:
        for written, source in (("a.png", "a.jpg"), ("a-2.png", "a.png")):
            np.testing.assert_array_equal(image.decode(out / written), restored(model, folder / source))
    assert image.decode(out / "a.png").shape == (40, 60, 3)
    arguments = ("predict", tiled, folder / "a.png", "--out", out, "--engine", "torchscript", "--overlays", "--json")
    assert call_main(*arguments) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["restored"] == {"size": [40, 60]}
    assert image.decode(out / "a-before-after.png").shape == (40, 120, 3)


def test_predict_spares_the_images_and_goes_on(
    tiled: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert call_main("predict", tiled, folder, "--out", folder) == 2
    assert "restored pictures in" in (said := capsys.readouterr().err)
    assert "could replace images; choose another folder" in said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "b.jpg").write_bytes(b"\xff\xd8broken")
    assert call_main("predict", tiled, folder, "--out", tmp_path / "out") == 2
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert "1 of 3 images could not be predicted" in capsys.readouterr().err


def test_wrong_arguments_leave_nothing(tiled: Path, folder: Path, tmp_path: Path) -> None:
    for wrong in (["--conf", 0.5], ["--min-area", 5], ["--fill-holes"], ["--instances"], ["--batch", 0]):
        assert call_main("predict", tiled, folder, "--out", tmp_path / "out", "--engine", "torchscript", *wrong) == 2
        assert not (tmp_path / "out").exists()


def test_other_commands_say_what_is_true(tiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_main("inspect", tiled) == 0
    fields = {words[0]: words[-1] for line in capsys.readouterr().out.splitlines()[1:] if (words := line.split())}
    assert (fields["task"], fields["enlarge"], fields["tile_overlap"]) == ("restoration", "2", "0.25")
    assert not fields.keys() & {"threshold", "ignore_index", "iou_threshold", "fill_holes", "pad_value"}
    assert call_main("verify", tiled, "--engine", "torchscript") == 0
    said = capsys.readouterr().out
    assert "a share of the samples" in said
    assert "0 of 15,588" in said
    assert call_main("benchmark", tiled, "--engine", "torchscript", "--duration", "0.05", "--batch", "2") == 0
    assert "changed samples" in capsys.readouterr().out
