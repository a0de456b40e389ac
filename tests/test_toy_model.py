"""A model is one file: this one holds a toy, which everything else takes by its name alone."""

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import visdeploy as vd
from visdeploy import data, export, models
from visdeploy.data.scenes import write_scenes
from visdeploy.errors import InputError
from visdeploy.models.registry import REGISTRY
from visdeploy.train import TrainOptions, checkpoint, fit
from visdeploy.verify import verify


class Toy(nn.Module):
    """Two convolutions, and no backbone."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


@pytest.fixture(autouse=True)
def toy():
    """The toy among the models, for a test."""
    yield models.register("toy", "two convolutions", tasks=("segmentation",))(Toy)
    del REGISTRY["toy"]


@pytest.fixture
def scenes(tmp_path):
    """Five generated scenes; one is held out."""
    write_scenes(tmp_path / "scenes", 5, size=(64, 64))
    return tmp_path / "scenes"


def test_in_python(scenes, tmp_path):
    assert models.list()["toy"] == "two convolutions"
    assert models.create("toy", num_classes=3, width=8).last.in_channels == 8
    dataset = data.open(scenes)
    options = TrainOptions(
        tmp_path / "run", arch="toy", model={"width": 6}, sizes=((64, 64),), epochs=(1,), precision="fp32"
    )
    result = fit(dataset, options)
    assert set(result.metrics) >= {"dice", "iou"}
    net, spec = checkpoint.load(result.checkpoint)
    assert spec.architecture == {"name": "toy", "num_classes": 1, "width": 6}
    photos = [item.load_image() for item in dataset.val]
    assert export.export(net, tmp_path / "toy.vdz", spec=spec, golden=photos).ok
    assert verify(tmp_path / "toy.vdz").ok
    with vd.load(tmp_path / "toy.vdz") as predictor:
        assert predictor(photos[0]).masks.to_numpy().shape == (64, 64)


def test_on_the_command_line(run, scenes, tmp_path):
    code, _, err = run(
        *("train", "--data", scenes, "--out", tmp_path / "run", "--arch", "toy", "--model", "width=6"),
        *("--size", 64, "--epochs", 1, "--precision", "fp32", "--lr", 0.01),
    )
    assert code == 0, err
    bundle = tmp_path / "toy.vdz"
    code, _, err = run("export", tmp_path / "run", "--out", bundle)
    assert code == 0, err
    photo = sorted((scenes / "images").iterdir())[0]
    code, _, err = run("predict", bundle, photo, "--out", tmp_path / "out")
    assert code == 0, err
    code, out, err = run("val", bundle, "--data", scenes, "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == 1
    # A process that has never heard of the toy: a bundle needs no class.
    code = (
        "import sys, visdeploy as vd; print([len(vd.load(sys.argv[1], engine=e)(sys.argv[2]).masks.rle) for e in %r])"
    )
    command = [sys.executable, "-c", code % (("torchscript", "onnxruntime"),), str(bundle), str(photo)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[1, 1]\n"


def test_what_a_toy_has_not_is_said(scenes, tmp_path):
    common = {"arch": "toy", "sizes": ((64, 64),), "epochs": (1,), "precision": "fp32"}
    with pytest.raises(InputError, match="encoder: expected none, because toy has a body of its own"):
        fit(data.open(scenes), TrainOptions(tmp_path / "run", encoder="resnet18", **common))
    for freezing in ({"freeze_epochs": 1}, {"freeze_bn": True}, {"freeze_to": 4}):
        with pytest.raises(InputError, match=r"freeze.*: expected none, because toy has no encoder"):
            fit(data.open(scenes), TrainOptions(tmp_path / "run", **common, **freezing))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="expected a model with an encoder, got Toy"):
        models.freeze_encoder(Toy(1))
