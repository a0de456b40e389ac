"""The recipe of install_as_pycocotools, each time in an interpreter of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EVALUATE = """
import contextlib, io, json, sys
from pathlib import Path

folder, install = Path(sys.argv[1]), sys.argv[2] == "visdeploy"
if install:
    from visdeploy import mask
    mask.install_as_pycocotools()
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools import cocoeval

stats = {"module": cocoeval.maskUtils.__name__}
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(folder / "instances_val2014_100.json")
    for kind, name in (("bbox", "fakebbox"), ("segm", "fakesegm")):
        found = truth.loadRes(str(folder / f"instances_val2014_{name}100_results.json"))
        run = COCOeval(truth, found, kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
        stats[kind] = run.stats.tolist()
print(json.dumps(stats))
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.realdata
def test_cocoeval_runs_unchanged(data_dir: Path) -> None:
    folder = data_dir / "coco_rle"
    ours, theirs = (json.loads(run(EVALUATE, str(folder), name)) for name in ("visdeploy", "pycocotools"))
    assert (ours.pop("module"), theirs.pop("module")) == ("visdeploy.mask", "pycocotools.mask")
    assert ours == theirs
    expected = json.loads((folder / "EXPECTED.json").read_text())
    for kind in ("bbox", "segm"):
        assert [round(value, 6) for value in ours[kind]] == expected[kind]


@pytest.mark.parametrize("imported_before", ["", "import pycocotools", "import pycocotools.mask"])
def test_every_import_finds_it(imported_before: str) -> None:
    run(f"""
{imported_before}
from visdeploy import mask
mask.install_as_pycocotools()
mask.install_as_pycocotools()
import pycocotools.mask
from pycocotools import mask as attribute
from pycocotools.mask import iou, merge, frPyObjects, encode, decode, area, toBbox
import pycocotools.coco, pycocotools.cocoeval
mask.install_as_pycocotools()
assert pycocotools.mask is attribute is mask is pycocotools.coco.maskUtils is pycocotools.cocoeval.maskUtils
assert {{f.__module__ for f in (iou, merge, frPyObjects, encode, decode, area, toBbox)}} == {{"visdeploy.mask"}}
""")


def test_without_pycocotools() -> None:
    run("""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "pycocotools":
            raise ModuleNotFoundError("No module named 'pycocotools'", name="pycocotools")
sys.meta_path.insert(0, Absent())
from visdeploy import mask
mask.install_as_pycocotools()
mask.install_as_pycocotools()
import pycocotools.mask as found
from pycocotools import mask as attribute
assert found is attribute is mask
assert found.iou([[0, 0, 4, 4]], [[2, 0, 4, 4]], [0]) == 1 / 3
try:
    import pycocotools.coco
except ModuleNotFoundError as error:
    assert error.name == "pycocotools.coco", error.name
else:
    raise AssertionError
import importlib.util
assert importlib.util.find_spec("pycocotools.coco") is None
""")


@pytest.mark.parametrize("module", ["pycocotools.coco", "pycocotools.cocoeval"])
def test_too_late_is_refused(module: str) -> None:
    out = run(f"""
import {module}, pycocotools.mask
from visdeploy import mask
from visdeploy.errors import VisdeployError
before = pycocotools.mask
try:
    mask.install_as_pycocotools()
except VisdeployError as error:
    print(error)
assert pycocotools.mask is before is not mask
""")
    assert out == (
        f"[install_as_pycocotools] {module} is imported already and keeps the module it found: call this first\n"
    )
