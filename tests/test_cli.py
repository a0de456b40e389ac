"""The command line: each verb does its work, each mistake is one sentence and its exit code."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from visdeploy import cli, image, mask
from visdeploy.engines import NAMES
from visdeploy.errors import MissingDependencyError, requires


@pytest.fixture
def photo_folder(tmp_path) -> Path:
    """Three images, the middle one broken."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.jpg"):
        image.write(folder / name, rng.integers(0, 255, (50, 70, 3), dtype=np.uint8))
    (folder / "b.jpg").write_bytes(b"\xff\xd8broken")
    return folder


def one_sentence(text: str) -> bool:
    return "Traceback" not in text and text.strip() != ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["verfy"], 2, "Did you mean 'verify'"),
        (["verify", "x.vdz", "--engin", "openvino"], 2, "--engine"),
        (["verify", "nowhere.vdz"], 2, "cannot read the bundle"),
        (["predict", "nowhere.vdz", "x.jpg"], 2, "cannot read the bundle"),
        (["train", "--data", "nowhere", "--out", "run"], 2, "expected a folder"),
        (["train", "--data", ".", "--out", "run", "--task", "segmentatoin"], 2, "did you mean 'segmentation'"),
        (["train", "--data", ".", "--out", "run", "--task", "detection", "--dice", "1"], 2, "goes with segmentation"),
        (["train", "--data", ".", "--out", "run", "--size", "12y4"], 2, "--size"),
        (["train", "--data", ".", "--out", "run", "--epochs", "many"], 2, "--epochs"),
        (["train", "--data", ".", "--out", "run", "--model", "wide"], 2, "KEY=VALUE"),
        (["train", "--data", ".", "--out", "run", "--scale", "2,1"], 2, "--scale"),
        (["export", "nowhere", "--out", "x.vdz"], 2, "SOURCE: there is no file or folder nowhere"),
        (["export", "m.onnx", "--out", "x.vdz"], 2, "--spec"),
        (["export", "photo.jpg", "--out", "x.vdz"], 2, "photo.jpg is not a file of weights"),
        (["export", ".", "--out", "x.vdz"], 2, "holds no finished run"),
        (
            ["export", "m.onnx", "--out", "x.vdz", "--precision", "fp8"],
            2,
            "expected auto or fp32 or fp16 or bf16 or int8, got 'fp8'",
        ),
        (["export", "photo.jpg", "--out", "x.xml"], 2, "give --format openvino"),
        (["train"], 2, "--data"),
    ],
)
def test_mistakes_are_one_sentence(run, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    for name in ("m.onnx", "photo.jpg"):
        (tmp_path / name).write_text("hello\n")
    ended, out, err = run(*arguments)
    assert ended == code
    assert said in out + err
    assert one_sentence(err)


def test_unknown_engine_suggests_the_nearest(run, binary_bundle):
    code, _, err = run("verify", binary_bundle, "--engine", "opnvino")
    assert code == 2
    assert "did you mean 'openvino'" in err


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["visdeploy", "--debug", "inspect", str(tmp_path / "none.vdz")])
    with pytest.raises(Exception, match="cannot read the bundle"):
        cli.main()


def test_version_and_help(run):
    assert run("--version")[1].startswith("visdeploy ")
    assert "verify" in run("--help")[1]


def test_a_missing_engine_says_what_to_install(run, binary_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, err = run("verify", binary_bundle, "--engine", "openvino")
    assert code == 3
    assert "pip install 'visdeploy[openvino]'" in err
    assert run("check")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--out", "out"],
        ["train", "--data", "data", "--out", "out"],
        ["compare", "unet", "--data", "data", "--out", "out"],
        ["export", "net.pt", "--out", "net.vdz"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_torch_says_what_to_install(arguments, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "net.pt").touch()
    code = "import sys\nsys.modules['torch'] = None\nfrom visdeploy.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("pip install 'visdeploy[train]'\n")
    assert not (tmp_path / "out").exists()


def test_a_broken_import_of_ours_is_no_missing_package():
    with pytest.raises(ModuleNotFoundError, match="nothing_here") as raised, requires("this", "train"):
        import_module("visdeploy.nothing_here")
    assert not isinstance(raised.value, MissingDependencyError)


def test_check_explains_this_machine(run):
    code, out, _ = run("check", "--json")
    assert code == 0
    found = json.loads(out)
    assert {entry["name"] for entry in found["engines"]} == set(NAMES)
    assert all("fp32" in entry["precisions"] for entry in found["engines"] if entry["version"])
    assert found["isa"] in found["isa_found"]
    assert 1 <= found["cpus"] <= found["cpus_present"]
    assert set(found["pays"]) == {"bf16", "fp16", "int8"}
    assert {"numpy", "opencv-python"} <= set(found["libraries"])
    assert found["cache"]["directory"] == os.environ["VISDEPLOY_CACHE"]
    assert found["cache"]["bytes"] <= found["cache"]["limit"]
    said = run("check")[1]
    for part in (
        "openvino",
        "CPUs for this process",
        "in use; found: scalar",
        "CUDA kernels",
        "extras",
        "compiled engines",
    ):
        assert part in said


@pytest.mark.parametrize("name", NAMES)
def test_every_adapter_says_what_it_can_compute_in(name):
    assert callable(import_module(f"visdeploy.engines.{name}").precisions)


def test_check_says_what_to_install(run, monkeypatch):
    from importlib import metadata

    version = metadata.version

    def without_nncf(package: str) -> str:
        if package == "nncf":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr("visdeploy.check.metadata.version", without_nncf)
    assert "nncf missing: pip install 'visdeploy[quantize]'" in run("check")[1]
    for name in NAMES:
        monkeypatch.setitem(sys.modules, "torch" if name == "torchscript" else name, None)
    code, out, err = run("check")
    assert code == 3
    assert "pip install 'visdeploy[onnxruntime]'" in out
    assert "no engine can run here" in err


def test_precisions_are_said_to_pay_where_the_processor_has_them(monkeypatch):
    from visdeploy import check

    monkeypatch.setattr(check, "cpu_flags", lambda: frozenset({"avx2", "avx512_vnni"}))
    found = check.check()
    assert found.pays == {"bf16": (), "fp16": (), "int8": ("avx512_vnni",)}
    assert any("int8" in line and "pays here: avx512_vnni" in line for line in found.lines())
    assert any("bf16" in line and "gains little" in line for line in found.lines())


def test_inspect_and_verify(run, binary_bundle):
    assert "manifest" not in run("inspect", binary_bundle)[2]
    assert json.loads(run("inspect", binary_bundle, "--json")[1])["task"] == "segmentation"
    code, out, _ = run("verify", binary_bundle, "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    assert "DRIFTED" not in run("verify", binary_bundle)[1]


def test_verify_exits_1_on_drift(run, binary_bundle, monkeypatch):
    from visdeploy import tolerance, verify

    monkeypatch.setattr(verify, "relative_error", lambda answered, reference: 1.0)
    code, out, err = run("verify", binary_bundle)
    assert code == 1
    assert "DRIFTED" in out
    assert "network on openvino fp32: 1 of the largest output" in err
    assert f"allowed {tolerance.LOGITS['fp32']:.3g}" in err


def test_predict_goes_on_after_a_bad_image(run, binary_bundle, photo_folder, tmp_path):
    code, out, err = run("predict", binary_bundle, photo_folder, "--out", tmp_path / "out")
    assert code == 2
    assert "b.jpg" in err
    assert "2 of 3 images" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "coco.json", "kaggle.csv"]
    document = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [entry["file_name"] for entry in document["images"]] == ["a.png", "c.jpg"]
    with (tmp_path / "out" / "kaggle.csv").open() as file:
        rows = {row["img"]: row["rle_mask"] for row in csv.DictReader(file)}
    for annotation in document["annotations"]:
        name = next(entry["file_name"] for entry in document["images"] if entry["id"] == annotation["image_id"])
        from_kaggle = mask.from_kaggle(rows[name], (50, 70))
        assert from_kaggle["counts"].decode() == annotation["segmentation"]["counts"]


def test_predict_says_that_no_box_was_found(run, detector_bundle, photo_folder, tmp_path):
    code, out, _ = run("predict", detector_bundle, photo_folder / "a.png", "--conf", 1, "--out", tmp_path / "out")
    assert code == 0
    assert "1 of 1 images, 0 boxes above 1; --conf lowers it ->" in out


def test_predict_as_json(run, binary_bundle, photo_folder, tmp_path):
    _, out, _ = run("predict", binary_bundle, photo_folder, "--out", tmp_path / "out", "--json", "--no-overlays")
    documents = json.loads(out)
    assert [("error" in document) for document in documents] == [False, True, False]


def test_predictions_of_an_earlier_run_outlive_one_that_finds_nothing(run, binary_bundle, photo_folder, tmp_path):
    assert run("predict", binary_bundle, photo_folder / "a.png", "--out", tmp_path / "out")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    code, out, err = run("predict", binary_bundle, photo_folder / "b.jpg", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "1 of 1 images could not be predicted" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_two_images_of_one_name_are_told_apart(run, binary_bundle, photo_folder, tmp_path):
    (photo_folder / "b.jpg").unlink()
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((photo_folder / "a.png").read_bytes())
    assert run("predict", binary_bundle, photo_folder, other, "--out", tmp_path / "out")[0] == 0
    names = ["a.png", "a-3.png"]
    assert {path.name for path in (tmp_path / "out").glob("a*.png")} == set(names)
    document = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [entry["file_name"] for entry in document["images"]] == [names[0], "c.jpg", names[1]]
    with (tmp_path / "out" / "kaggle.csv").open() as file:
        assert [row["img"] for row in csv.DictReader(file)] == [names[0], "c.jpg", names[1]]


def test_predict_of_an_empty_folder(run, binary_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run("predict", binary_bundle, tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2
    assert "holds no images" in err


def test_unwritable_output(run, binary_bundle, photo_folder, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("predict", binary_bundle, photo_folder, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot write" in err


def test_benchmark_and_its_gate(run, binary_bundle, tmp_path):
    quick = ["--duration", 0.01, "--batch", "2", "--clients", 2]
    code, out, _ = run("benchmark", binary_bundle, *quick, "--json")
    assert code == 0
    document = json.loads(out)
    assert [entry["engine"] for entry in document["entries"]] == ["openvino", "onnxruntime", "torchscript"]
    for entry in document["entries"]:
        assert set(entry["stages"]) == {"decode", "resize", "infer", "postprocess", "total"}
        assert (entry["changed"], entry["dice"]) == (0, 1)
        assert entry["images_per_second"]["stream, batch 2"] > 0
    (tmp_path / "base.json").write_text(out)
    code, out, err = run("benchmark", binary_bundle, *quick, "--min", 1e9, "--engine", "openvino")
    assert code == 1
    assert "images/s, below" in err
    assert "p50" in out


def test_benchmark_against_a_baseline(run, binary_bundle, tmp_path, monkeypatch):
    from test_benchmark import measured
    from visdeploy.bundle import Bundle
    from visdeploy.throughput import Figures, digest

    def pretend(**milliseconds: float) -> None:
        found = Figures("car.vdz", digest(Bundle.open(binary_bundle)), "a processor", tuple(measured(**milliseconds)))
        monkeypatch.setattr("visdeploy.throughput.compete", lambda *arguments, **options: found)

    pretend(openvino=4, onnxruntime_int8=2)
    (tmp_path / "base.json").write_text(run("benchmark", binary_bundle, "--json")[1])
    code, _, err = run("benchmark", binary_bundle, "--baseline", tmp_path / "base.json")
    assert (code, err) == (0, f"no slower than {tmp_path / 'base.json'}\n")
    pretend(openvino=4, onnxruntime_int8=2.6)
    code, out, err = run("benchmark", binary_bundle, "--baseline", tmp_path / "base.json")
    assert code == 1
    assert "onnxruntime int8, single calls: 1.54 times the reference, was 2" in err
    assert "0.0020 dice" in out
    assert run("benchmark", binary_bundle, "--baseline", tmp_path / "base.json", "--tolerance", 0.3)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "0"], "batch: expected sizes from 1"),
        (["--batch", "1.5"], "expected whole numbers"),
        (["--batch", "inf"], "expected whole numbers"),
        (["--clients", 0], "clients: expected 1"),
        (["--duration", -1], "duration: expected seconds above 0"),
        (["--tolerance", 1], "tolerance: expected a share"),
        (["--baseline", "nowhere.json"], "cannot read nowhere.json"),
        (["--engine", "opnvino"], "did you mean 'openvino'"),
        (["--precision", "fp31"], "precision: expected auto, fp32"),
    ],
)
def test_mistakes_in_a_benchmark_are_one_sentence(run, binary_bundle, arguments, said):
    code, _, err = run("benchmark", binary_bundle, *arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_verify_names_what_drifted_and_what_cannot_run(run, binary_bundle, photo_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, _ = run("verify", binary_bundle, "--images", photo_folder, "--json")
    report = json.loads(out)
    assert code == 0
    not_run = {entry["what"]: entry["why"] for entry in report["not_run"]}
    assert {str(photo_folder / "b.jpg"), "onnxruntime"} <= not_run.keys() <= {*NAMES, str(photo_folder / "b.jpg")}
    (own,) = [row for row in report["rows"] if row["stage"] == "own images"]
    assert (own["engine"], own["changed"], own["total"]) == ("openvino", 0, 2 * 50 * 70)
    code, out, _ = run("verify", binary_bundle, "--engine", "all", "--precision", "all")
    assert code == 0
    assert "not run here: onnxruntime: " in out
    assert "pip install 'visdeploy[onnxruntime]'" in out


def test_export_in_another_format_and_verify_the_file(run, binary_bundle, tmp_path):
    code, out, err = run("export", binary_bundle, "--format", "openvino", "--out", tmp_path / "car.xml")
    assert code == 0, err
    assert "openvino fp32, car.xml" in out
    code, out, _ = run("verify", binary_bundle, "--file", tmp_path / "car.xml", "--file", tmp_path / "car.xml")
    assert code == 0
    assert sum(line.startswith("end to end ") for line in out.splitlines()) == 2
    (tmp_path / "car.bin").write_bytes(b"")
    code, _, err = run("verify", binary_bundle, "--file", tmp_path / "car.xml")
    assert code == 2
    assert len(err.splitlines()) == 1
    for arguments, said in (
        (["--format", "openvion", "--out", "car.xml"], "did you mean 'openvino'"),
        (["--format", "pt2", "--out", "car.pt2"], "names no visdeploy architecture"),
        (["--out", "car.vdz"], "is a bundle: it takes --precision or another --format"),
    ):
        code, _, err = run("export", binary_bundle, *arguments)
        assert code == 2
        assert said in err


def test_train_export_val_predict(run, tmp_path):
    from visdeploy.data.scenes import write_scenes

    write_scenes(tmp_path / "scenes", 10, size=(64, 96))
    options = ["--encoder", "mobilenetv3_small_050", "--model", "decoder_channels=8", "--size", "32x64"]
    code, out, err = run(
        *("train", "--data", tmp_path / "scenes", "--out", tmp_path / "run", *options),
        *("--epochs", 2, "--batch", 4, "--precision", "fp32"),
    )
    assert code == 0, err
    assert "8 images to train on, 2 held out, 2 classes" in err
    assert "visdeploy export" in out
    assert run("export", tmp_path / "run", "--out", tmp_path / "car.vdz")[0] == 0
    code, out, _ = run("export", tmp_path / "run", "--out", tmp_path / "car.pt2", "--format", "pt2", "--json")
    assert (code, json.loads(out)["rows"][3]["file"]) == (0, "car.pt2")
    code, out, _ = run("val", tmp_path / "car.vdz", "--data", tmp_path / "scenes", "--json")
    assert code == 0
    found = json.loads(out)
    assert 0 <= found["dice"] <= 1
    assert (found["engine"], found["precision"], found["images"]) == ("openvino", "fp32", 2)
    code, _, err = run("val", tmp_path / "car.vdz", "--data", tmp_path / "scenes", "--min", 1)
    assert code == 1
    assert err.startswith("openvino fp32")
    assert "below 1" in err


def interrupt(
    arguments: list[str], ready: Path, tmp_path: Path, by: signal.Signals = signal.SIGINT
) -> subprocess.CompletedProcess[str]:
    """Start the command line, wait until `ready` exists, press Ctrl-C."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "visdeploy", *arguments]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(by)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_stopped_in_predict_leaves_no_half_written_file(by, code, binary_bundle, photo_folder, tmp_path):
    (photo_folder / "b.jpg").unlink()
    many = [str(photo_folder / "a.png")] * 4000
    done = interrupt(["predict", str(binary_bundle), *many, "--out", "out"], tmp_path / "out" / "a.png", tmp_path, by)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert not [name for name in left if name.startswith(".") or name in ("coco.json", "kaggle.csv")]


def test_ctrl_c_in_train_can_be_resumed(tmp_path, run, monkeypatch):
    from visdeploy.data.scenes import write_scenes

    write_scenes(tmp_path / "scenes", 10, size=(64, 96))
    arguments = ["train", "--data", "scenes", "--out", "run", "--encoder", "mobilenetv3_small_050", "--size", "32x64"]
    arguments += ["--model", "decoder_channels=8", "--epochs", "400", "--batch", "4", "--precision", "fp32"]
    done = interrupt(arguments, tmp_path / "run" / "stage-0-32x64" / "last.ckpt", tmp_path)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model.pt").exists()
    epochs = len((tmp_path / "run" / "history.csv").read_text().splitlines()) - 1
    assert epochs >= 1
