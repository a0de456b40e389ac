"""The wheel of `make cuda`, where it was made: on a machine without a driver it imports, works and says why not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from visdeploy import __version__

ROOT = Path(__file__).parent.parent
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"

CODE = """
import numpy as np
from visdeploy import mask, native, ops
from visdeploy.errors import UnsupportedError

class Labelled:
    def __dlpack_device__(self):
        return 2, 0
    def __dlpack__(self, stream=None):
        return np.ones(3, np.float32).__dlpack__()

assert mask._core.__name__ == "visdeploy_cuda13._core"
assert mask.decode(mask.encode(np.eye(3, dtype=np.uint8))).sum() == 3
for call in (lambda: ops.null(Labelled()), lambda: native._core.DeviceArray(np.ones(3))):
    try:
        call()
    except UnsupportedError as error:
        print(error)
print(native.cuda_status())
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    wheels = list((ROOT / "dist").glob(f"visdeploy_cuda13-{__version__}-{PYTHON}-*.whl"))
    if not wheels:
        pytest.skip("no wheel for this Python: make cuda")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a driver here")
def test_without_a_driver_it_works_on_the_cpu_and_says_why_not_on_a_device(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, check=True, capture_output=True, text=True)
    why = "the NVIDIA driver is missing or older than this build's CUDA 13.0 needs"
    assert done.stdout.splitlines() == [f"[null] {why}", why, str((None, why))]


def test_it_links_nothing_of_cuda(installed: Path) -> None:
    (module,) = (installed / "visdeploy_cuda13").glob("_core*.so")
    needed = subprocess.run(["objdump", "-p", module], check=True, capture_output=True, text=True).stdout
    libraries = [line.split()[1] for line in needed.splitlines() if "NEEDED" in line]
    assert libraries
    assert not [name for name in libraries if "cuda" in name]
