"""The wheel alone, in an empty environment without torch, serves a bundle with the same answers."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import visdeploy
from visdeploy import image

ROOT = Path(__file__).parent.parent

SERVE = """
import json, sys
import visdeploy as vd
model = vd.load(sys.argv[1])
result = model(sys.argv[2])
heavy = [name for name in ("torch", "onnxruntime", "matplotlib") if name in sys.modules]
counts = [rle["counts"].decode() for rle in result.masks.rle]
print(json.dumps({"engine": model.engine.name, "heavy": heavy, "counts": counts}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size < 5_000_000


def test_the_wheel_has_the_ops_of_graphs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"visdeploy/visdeploy_torch.so", "visdeploy/visdeployConfig.cmake", "visdeploy/torch_ops.py"} <= names


def test_the_wheel_serves_without_torch(wheel, binary_bundle, photos, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"{wheel}[openvino]"]
    subprocess.run(install, check=True, capture_output=True)
    image.write(tmp_path / "photo.png", photos[0])
    serve = [python, "-c", SERVE, binary_bundle, tmp_path / "photo.png"]
    done = subprocess.run(serve, check=True, capture_output=True, text=True, cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["engine"] == "openvino"
    assert said["heavy"] == []
    with visdeploy.load(binary_bundle, engine="openvino") as model:
        expected = [rle["counts"].decode() for rle in model(photos[0]).masks.rle]
    assert said["counts"] == expected
    check = subprocess.run([python, "-m", "visdeploy", "check"], capture_output=True, text=True, cwd=tmp_path)
    assert check.returncode == 0
    assert "pip install 'visdeploy[onnxruntime]'" in check.stdout
    missing = subprocess.run(
        [python, "-m", "visdeploy", "train", "--data", tmp_path, "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert missing.returncode == 3
    ops = subprocess.run([python, "-c", "import visdeploy.torch_ops"], capture_output=True, text=True, cwd=tmp_path)
    assert "MissingDependencyError: visdeploy.torch_ops needs torch (" in ops.stderr
    folder = subprocess.run([python, "-m", "visdeploy", "--cmake-dir"], capture_output=True, text=True, cwd=tmp_path)
    assert Path(folder.stdout.strip(), "visdeploy_torch.so").is_file()
    assert "pip install 'visdeploy[train]'" in missing.stderr
