"""A bundle's network in other formats: replayed before the file appears, refused where it was damaged since."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("openvino")

import torch
from torch import nn

from nets import BoxNet, DictNet
from visdeploy import export, models
from visdeploy.bundle import GOLDEN, ONNX, TORCHSCRIPT, Bundle
from visdeploy.errors import CheckFailedError, EngineError, InputError, MissingDependencyError, UnsupportedError
from visdeploy.golden import pack, unpack
from visdeploy.openvino_ir import export_openvino
from visdeploy.pt2 import export_pt2
from visdeploy.report import Report
from visdeploy.spec import Variant
from visdeploy.verify import verify

UNET = {"name": "unet", "encoder": "test_efficientnet", "num_classes": 1, "decoder_channels": 8}
SPEC = {"task": "segmentation", "labels": ["car"], "mean": 0.5, "std": 0.5}


@pytest.fixture(scope="module", params=["stretch", "native"])
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, photos: list[NDArray[np.uint8]]
) -> Bundle:
    """A bundle that says which visdeploy model it holds, for one size of images and for any."""
    path = tmp_path_factory.mktemp("formats") / "car.vdz"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = models.create(**UNET)
    export.export(net, path, spec={**SPEC, "size": 64, "resize": request.param, "architecture": UNET}, golden=photos)
    return Bundle.open(path)


@pytest.fixture(scope="module")
def made(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network as files, by suffix."""
    folder = tmp_path_factory.mktemp("made")
    for suffix, make in ((".pt2", export_pt2), (".xml", export_openvino)):
        lines: list[str] = []
        report = make(bundle, folder / f"car{suffix}", progress=lines.append)
        assert ran(report) == [f"car{suffix}"] * 2
        assert report.ok
        assert "replaying the golden images" in lines
    for suffix, member in ((".onnx", ONNX), (".ts", TORCHSCRIPT)):
        (folder / f"car{suffix}").write_bytes(bundle.read(member))
    assert sorted(path.name for path in folder.iterdir()) == ["car.bin", "car.onnx", "car.pt2", "car.ts", "car.xml"]
    return {path.suffix: path for path in folder.iterdir()}


def ran(report: Report) -> list[str]:
    return [row.file for row in report.rows if row.engine]


def test_every_file_answers_as_the_bundle_did(bundle: Bundle, made: dict[str, Path]) -> None:
    files = [made[suffix] for suffix in (".pt2", ".xml", ".onnx", ".ts")]
    report = verify(bundle, files=files)
    assert report.ok
    assert ran(report) == [file.name for file in files for _ in range(2)]
    assert {row.engine for row in report.rows if row.file in ("car.pt2", "car.xml")} == {"torch.export", "openvino"}


def test_exported_program_stands_alone(bundle: Bundle, made: dict[str, Path]) -> None:
    extra = {"visdeploy.json": ""}
    module = torch.export.load(made[".pt2"], extra_files=extra).module()
    assert json.loads(extra["visdeploy.json"])["labels"] == ["background", "car"]
    sides = (96, 160) if bundle.manifest.resize == "native" else (64, 64)
    for batch in (1, 3):
        assert module(torch.zeros(batch, *sides, 3, dtype=torch.uint8)).shape == (batch, 1, *sides)


def test_ir_stands_alone(bundle: Bundle, made: dict[str, Path]) -> None:
    import openvino

    model = openvino.Core().read_model(made[".xml"])
    assert model.get_rt_info(["visdeploy", "precision"]).astype(str) == "fp32"
    assert json.loads(model.get_rt_info(["visdeploy", "manifest"]).astype(str))["labels"] == ["background", "car"]
    side = -1 if bundle.manifest.resize == "native" else 64
    assert model.inputs[0].partial_shape == openvino.PartialShape([-1, side, side, 3])
    assert not [
        op for op in model.get_ops() if op.get_type_name() == "Constant" and "f16" in str(op.get_element_type())
    ]


def other_weights(data: bytes) -> bytes:
    weights = np.frombuffer(data, np.float32).copy()
    weights[(np.abs(weights) > 1e-6) & (np.abs(weights) < 10)] *= np.float32(1.05)  # and no shapes
    return weights.tobytes()


@pytest.mark.parametrize(
    ("suffix", "damage", "said"),
    [
        (".pt2", lambda data: b"", "refused .*not a zip archive"),
        (".pt2", lambda data: data[: len(data) // 2], "refused .*not a zip archive"),
        (".pt2", lambda data: b"PK" + bytes(1000), "refused .*not a zip archive"),
        (".xml", lambda data: b"", "refused"),
        (".xml", lambda data: data[: len(data) // 2], "refused"),
        (".xml", lambda data: b"<net><layers>&&&", "refused"),
        (".xml", lambda data: data.replace(b'"fp32"', b'"fp1"'), "says that its precision is 'fp1'"),
        (".bin", lambda data: data[: len(data) // 2], "refused"),
    ],
)
def test_damaged_file_is_refused_in_a_sentence(
    suffix: str,
    damage: Callable[[bytes], bytes],
    said: str,
    bundle: Bundle,
    made: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for path in made.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / f"car{suffix}").write_bytes(damage(made[suffix].read_bytes()))
    with pytest.raises(EngineError, match=said) as caught:
        verify(bundle, files=[tmp_path / ("car.xml" if suffix == ".bin" else f"car{suffix}")])
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_archive_that_is_no_exported_program_is_refused(
    bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "car.pt2", "w") as file:
        file.writestr("car/archive_format", "pt2")
    with pytest.raises(EngineError, match="refused"):
        verify(bundle, files=[tmp_path / "car.pt2"])
    assert "Traceback" not in capfd.readouterr().err


def test_file_of_other_weights_drifts(bundle: Bundle, made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "car.xml").write_bytes(made[".xml"].read_bytes())
    (tmp_path / "car.bin").write_bytes(other_weights(made[".bin"].read_bytes()))
    assert not next(row for row in verify(bundle, files=[tmp_path / "car.xml"]).rows if row.stage == "network").ok
    with torch.no_grad():
        program = torch.export.load(made[".pt2"])
        next(value for value in program.state_dict.values() if value.ndim == 4).mul_(1.05)
        torch.export.save(program, tmp_path / "car.pt2")
    report = verify(bundle, files=[tmp_path / "car.pt2"])
    with pytest.raises(CheckFailedError, match=r"network on torch.export fp32, car\.pt2: "):
        report.require()


def test_file_that_cannot_run_here_does_not_hide_the_others(
    bundle: Bundle, made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: str | Path, bundle: Bundle) -> NoReturn:
        raise MissingDependencyError("there is no GPU")

    monkeypatch.setattr("visdeploy.engines.tensorrt.open_file", missing)
    monkeypatch.setattr("visdeploy.engines.tensorrt.version", lambda: "1")
    report = verify(bundle, files=[tmp_path / "car.engine", made[".xml"]])
    assert ran(report) == ["car.xml"] * 2
    assert [(entry.what, entry.why) for entry in report.not_run] == [(str(tmp_path / "car.engine"), "there is no GPU")]
    with pytest.raises(MissingDependencyError, match=r"car\.engine: there is no GPU"):
        report.require()
    with pytest.raises(MissingDependencyError, match="no GPU"):
        verify(bundle, files=[tmp_path / "car.engine"])


def test_file_takes_turns_with_engines_where_both_are_asked_for(
    bundle: Bundle, made: dict[str, Path], photos: list[NDArray[np.uint8]]
) -> None:
    every = {row.ran_on for row in verify(bundle).rows if row.engine}
    for asked in ({"engines": ["all"]}, {"images": photos[:1]}, {"precisions": ["fp32"]}):
        report = verify(bundle, files=[made[".onnx"]], **asked)
        assert {row.ran_on for row in report.rows if row.engine} > every


def test_file_of_another_network_is_said_to_differ_in_shape(
    classes_bundle: Path, bundle: Bundle, made: dict[str, Path]
) -> None:
    report = verify(classes_bundle, files=[made[".onnx"]])
    with pytest.raises(CheckFailedError, match="it cannot be compared: another shape"):
        report.require()


@pytest.mark.parametrize("name", ["car.zip", "nowhere.pt2", "nowhere.xml", "folder.pt2", "endless.xml"])
def test_file_that_is_none(name: str, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "endless.xml").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=name):
        verify(bundle, files=[tmp_path / name])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, photos: list[NDArray[np.uint8]]) -> tuple[Bundle, nn.Module]:
    """A bundle of a network that is not visdeploy's, and the network."""
    net, path = DictNet(1), tmp_path_factory.mktemp("foreign") / "a.vdz"
    export.export(net, path, spec={**SPEC, "size": (32, 64)}, golden=photos)
    return Bundle.open(path), net


@pytest.mark.parametrize("name", ["car.pt2", "car.xml"])
def test_file_that_answers_otherwise_never_appears(
    name: str, foreign: tuple[Bundle, nn.Module], tmp_path: Path
) -> None:
    bundle, net = foreign
    make = partial(export_pt2, net=net) if name == "car.pt2" else export_openvino
    shifted = [replace(golden, logits=golden.logits + 1) for golden in unpack(bundle.read(GOLDEN), "a.vdz")]
    with pytest.raises(CheckFailedError, match="drifted"):
        make(replace(bundle, files={**bundle.files, GOLDEN: pack(shifted)}), tmp_path / name)
    with pytest.raises(InputError, match="expected a file named"):
        make(bundle, tmp_path / "car.out")
    with pytest.raises(InputError, match="cannot write"):
        make(bundle, tmp_path / "nowhere" / name)
    assert list(tmp_path.iterdir()) == []


def test_anyone_elses_network_becomes_pt2_with_its_module(foreign: tuple[Bundle, nn.Module], tmp_path: Path) -> None:
    bundle, net = foreign
    with pytest.raises(InputError, match=r"names no visdeploy architecture.*net="):
        export_pt2(bundle, tmp_path / "a.pt2")
    assert export_pt2(bundle, tmp_path / "a.pt2", net=net).ok
    with pytest.raises(InputError, match=r"torch\.export cannot take this network"):
        export_pt2(bundle, tmp_path / "b.pt2", net=nn.Linear(2, 2))
    named = bundle.manifest.model_copy(update={"architecture": UNET})
    with pytest.raises(InputError, match="do not fit the architecture"):
        export_pt2(replace(bundle, manifest=named), tmp_path / "b.pt2")
    assert not (tmp_path / "b.pt2").exists()


def test_detector_becomes_files_that_find_the_same_boxes(detector_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(detector_bundle)
    for report in (export_pt2(bundle, tmp_path / "a.pt2", net=BoxNet(2)), export_openvino(bundle, tmp_path / "a.xml")):
        (boxes,) = [row for row in report.rows if row.stage == "end to end"]
        assert boxes.total
        assert boxes.total > 100


def test_variant_becomes_ir_in_its_precision(bundle: Bundle, made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="holds no int8 variant for openvino; to make one: visdeploy export"):
        export_openvino(bundle, tmp_path / "car.xml", precision="int8")
    with pytest.raises(UnsupportedError, match="bf16 is no file but how OpenVINO runs the fp32 graph"):
        export_openvino(bundle, tmp_path / "car.xml", precision="bf16")
    files = {f"variants/int8-openvino{suffix}": made[suffix].read_bytes() for suffix in (".xml", ".bin")}
    form = Variant(engine="openvino", precision="int8", files=tuple(files), accepted=True)
    manifest = bundle.manifest.model_copy(update={"variants": (form,)})
    held = replace(bundle, manifest=manifest, files={**bundle.files, **files})
    for precision in ("int8", "auto"):
        report = export_openvino(held, tmp_path / "car.xml", precision=precision)
        assert {row.precision for row in report.rows if row.file} == {"int8"}
