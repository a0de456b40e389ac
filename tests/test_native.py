"""Which native module is taken, and what is said about CUDA."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from visdeploy import __version__
from visdeploy.native import _core, cuda_status

ROOT = Path(__file__).parent.parent


def run(package: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_package(folder: Path, version: str) -> Path:
    """A visdeploy_cuda13 whose native module is one line."""
    package = folder / "visdeploy_cuda13"
    package.mkdir()
    (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (package / "_core.py").write_text("def cuda_version(): return 'from the second wheel'\n")
    return folder


def test_the_cuda_package_of_the_same_version_is_taken(tmp_path: Path) -> None:
    package = make_package(tmp_path, __version__)
    assert run(package, "from visdeploy import mask; print(mask._core.cuda_version())") == "from the second wheel"


def test_a_cuda_package_of_another_version_is_not(tmp_path: Path) -> None:
    package = make_package(tmp_path, "0.0.9")
    code = "from visdeploy import mask, native; print(mask._core.__name__, native.cuda_status()[1])"
    sentence = f"visdeploy-cuda13 is 0.0.9, which does not fit: pip install visdeploy-cuda13=={__version__}"
    assert run(package, code) == f"visdeploy._core {sentence}"


@pytest.mark.skipif(bool(_core.cuda_version()), reason="the native module has CUDA kernels")
def test_without_the_package_the_status_names_it() -> None:
    assert cuda_status() == (None, f"not installed: pip install visdeploy-cuda13=={__version__}")


def test_both_wheels_have_one_version() -> None:
    projects = [
        tomllib.loads((ROOT / name).read_text())["project"] for name in ("pyproject.toml", "cuda13/pyproject.toml")
    ]
    assert {project["version"] for project in projects} == {__version__}
    assert projects[1]["dependencies"] == [f"visdeploy=={__version__}"]
    assert run(ROOT / "cuda13", "import visdeploy_cuda13; print(visdeploy_cuda13.__version__)") == __version__
