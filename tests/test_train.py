"""Training: it learns, leaves what it promises, resumes exactly, and names what is wrong with data or options."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from visdeploy import data, image
from visdeploy.errors import InputError
from visdeploy.train import TrainOptions, checkpoint, fit
from visdeploy.train.journal import Journal

ENCODER = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    """Twenty images of a bright disc on dark noise, with its mask."""
    root = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for index in range(20):
        pixels = rng.integers(0, 90, (72, 80, 3), dtype=np.uint8)
        mask = np.zeros((72, 80), np.uint8)
        center = (int(rng.integers(20, 60)), int(rng.integers(20, 52)))
        cv2.circle(mask, center, int(rng.integers(10, 20)), 255, -1)
        pixels[mask > 0] = pixels[mask > 0] // 2 + np.array([150, 120, 40], np.uint8)
        image.write(root / "images" / f"disc{index:02}.png", pixels)
        image.write(root / "masks" / f"disc{index:02}.png", mask)
    return root


def options(out: Path, **changes) -> TrainOptions:
    given = {"encoder": ENCODER, "model": {"decoder_channels": 8}, "sizes": ((64, 64),), "epochs": (4,), "batch": 4}
    return TrainOptions(**{"out": out, "precision": "fp32", "lr": 5e-3, "encoder_lr": 1.0, **given, **changes})


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(out)[0].state_dict()


def test_it_learns_and_leaves_what_it_promises(discs, tmp_path, capsys):
    result = fit(data.open(discs), options(tmp_path / "run", epochs=(14,), ema=0.9))
    assert result.metrics["dice"] > 0.85
    rows = history(tmp_path / "run")
    assert [int(row["epoch"]) for row in rows] == list(range(1, 15))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert max(float(row["dice"]) for row in rows) == pytest.approx(result.metrics["dice"])
    assert image.decode(tmp_path / "run" / "curves.png").shape[2] == 3
    assert len(list((tmp_path / "run" / "golden").iterdir())) == 2
    assert "epoch 14/14 at 64x64" in capsys.readouterr().out
    net, spec = checkpoint.load(result.checkpoint)
    assert not net.training
    assert spec.labels == ("background", "foreground")
    assert spec.activation == "sigmoid"
    assert spec.metrics == result.metrics


def test_resuming_after_a_kill_gives_the_run_that_was_not_killed(discs, tmp_path, monkeypatch):
    dataset = data.open(discs)
    fit(dataset, options(tmp_path / "whole"))

    def kill(self, trainer, module):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "on_train_epoch_start", kill)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, options(tmp_path / "killed"))
    assert not (tmp_path / "killed" / "model.pt").exists()
    (last,) = (tmp_path / "killed").glob("stage-0-*/last.ckpt")
    whole = last.read_bytes()
    last.write_bytes(whole[:20_000] + bytes([whole[20_000] ^ 1]) + whole[20_001:])
    with pytest.raises(InputError, match=r"last.ckpt is damaged: .*copy the file again"):
        fit(dataset, options(tmp_path / "killed"), resume=True)
    last.write_bytes(whole)
    fit(dataset, options(tmp_path / "killed"), resume=True)
    assert [row["epoch"] for row in history(tmp_path / "killed")] == ["1", "2", "3", "4"]
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "killed").items())


def test_a_run_of_a_version_that_knew_fewer_options_goes_on(discs, tmp_path):
    dataset, chosen = data.open(discs), options(tmp_path / "run", epochs=(1,))
    fit(dataset, chosen)
    record = tmp_path / "run" / "options.json"
    known = json.loads(record.read_text())
    record.write_text(json.dumps({name: value for name, value in known.items() if name != "optimizer"}))
    fit(dataset, chosen, resume=True)
    with pytest.raises(InputError, match="optimizer was adamw, now sgd"):
        fit(dataset, options(tmp_path / "run", epochs=(1,), optimizer="sgd"), resume=True)


def test_sizes_are_stages_and_the_later_continues_from_the_earlier(discs, tmp_path):
    fit(data.open(discs), options(tmp_path / "run", sizes=((32, 32), (64, 64)), epochs=(3, 1)))
    rows = history(tmp_path / "run")
    assert [(row["stage"], row["height"]) for row in rows] == [("0", "32")] * 3 + [("1", "64")]
    assert float(rows[3]["loss"]) < float(rows[0]["loss"])
    assert checkpoint.load(tmp_path / "run")[1].size == (64, 64)


def test_the_encoder_stands_still_while_frozen(discs, tmp_path):
    dataset = data.open(discs)
    fit(dataset, options(tmp_path / "run", epochs=(2,), freeze_epochs=2, ema=0.0))
    torch.manual_seed(0)
    import lightning

    from visdeploy import models

    lightning.seed_everything(0, verbose=False)
    fresh = models.create("unet", encoder=ENCODER, num_classes=1, decoder_channels=8).state_dict()
    trained = weights(tmp_path / "run")
    for name, value in fresh.items():
        if name.startswith("encoder.") and not name.endswith("num_batches_tracked"):
            assert torch.equal(trained[name], value), name
    assert not torch.equal(trained["head.weight"], fresh["head.weight"])


def test_the_learning_rate_finder_leaves_its_plot(discs, tmp_path):
    fit(data.open(discs), options(tmp_path / "run", lr=None, epochs=(1,)))
    assert (tmp_path / "run" / "stage-0-64x64" / "lr_finder.png").is_file()


def test_precision_is_measured_and_said(discs, tmp_path, capsys):
    fit(data.open(discs), options(tmp_path / "run", precision="auto", epochs=(1,)))
    said = capsys.readouterr().out
    assert "precision: " in said
    assert "fp32" in said
    assert "bf16" in said


def test_several_classes_with_balanced_weights(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for index in range(10):
        mask = np.repeat(np.arange(4, dtype=np.uint8), 16)[:, None].repeat(64, 1)
        pixels = (mask[..., None] * 60 + rng.integers(0, 30, (64, 64, 3))).astype(np.uint8)
        image.write(tmp_path / "data" / "images" / f"{index}.png", pixels)
        image.write(tmp_path / "data" / "masks" / f"{index}.png", mask)
    dataset = data.open(tmp_path / "data")
    result = fit(dataset, options(tmp_path / "run", epochs=(30,), class_weights="balanced", ema=0.0))
    assert result.metrics["miou"] > 0.5
    assert checkpoint.load(result.checkpoint)[1].activation == "softmax"


def test_a_loss_that_is_not_finite_names_the_files(discs, tmp_path):
    with pytest.raises(InputError, match=r"loss became .* on disc\d\d"):
        fit(data.open(discs), options(tmp_path / "run", lr=1e30, epochs=(6,), ema=0.0))


def test_problems_in_the_data_are_listed_before_training(discs, tmp_path):
    import shutil

    shutil.copytree(discs, tmp_path / "data")
    (tmp_path / "data" / "images" / "disc03.png").write_bytes(b"broken")
    (tmp_path / "data" / "masks" / "disc07.png").unlink()
    image.write(tmp_path / "data" / "masks" / "disc09.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError) as caught:
        fit(data.open(tmp_path / "data"), options(tmp_path / "run"))
    assert all(name in str(caught.value) for name in ("disc03", "disc07", "disc09"))
    assert not (tmp_path / "run").exists()


def test_the_largest_seed_and_batch_train_on_from_a_finished_run(discs, tmp_path):
    dataset = data.open(discs)
    first = fit(dataset, options(tmp_path / "run", epochs=(1,), sizes=((32, 32),)))
    largest = {"batch": 1 << 20, "seed": (1 << 32) - 1, "precision": "auto"}
    on = fit(dataset, options(tmp_path / "on", epochs=(1,), sizes=((32, 32),), weights=first.checkpoint, **largest))
    assert on.checkpoint.is_file()


def test_a_folder_with_another_run_is_refused(discs, tmp_path):
    dataset = data.open(discs)
    fit(dataset, options(tmp_path / "run", epochs=(1,)))
    with pytest.raises(InputError, match="already holds a run"):
        fit(dataset, options(tmp_path / "run", epochs=(1,)))
    with pytest.raises(InputError, match="batch was 4, now 2"):
        fit(dataset, options(tmp_path / "run", epochs=(1,), batch=2), resume=True)
    with pytest.raises(InputError, match=r"epochs was \[1\], now \[2\]; .* with --weights .*run/model.pt$"):
        fit(dataset, options(tmp_path / "run", epochs=(2,)), resume=True)
    before = json.loads((tmp_path / "run" / "options.json").read_text())
    assert before["batch"] == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": (1, 2)}, "epochs"),
        ({"batch": 0}, "batch"),
        ({"lr": -1.0}, "lr"),
        ({"epochs": (0,)}, "epochs"),
        ({"ema": 1.0}, "ema"),
    ],
)
def test_wrong_options_are_named(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        options(tmp_path, **changes)


@pytest.mark.parametrize("content", [b"", b"nothing", b"hello\n", None])
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "model.pt"
    if content is None:
        torch.save({"weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"not written by|not a file of weights"):
        checkpoint.load(path)
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load(tmp_path / "nothing.pt")


def test_a_mistake_leaves_no_run_behind(discs, tmp_path):
    dataset = data.open(discs)
    with pytest.raises(InputError, match="did you mean"):
        fit(dataset, options(tmp_path / "run", encoder="resnet33"))
    with pytest.raises(InputError, match="holds no run to continue"):
        fit(dataset, options(tmp_path / "run"), resume=True)
    with pytest.raises(InputError, match="multiples of 32"):
        fit(dataset, options(tmp_path / "run", sizes=((50, 64),)))
    with pytest.raises(InputError, match="freeze_to: expected 0 or one of the strides"):
        fit(dataset, options(tmp_path / "run", freeze_to=5))
    assert not (tmp_path / "run").exists()


def test_a_single_image_is_too_few(discs, tmp_path):
    dataset = data.open(discs)
    with pytest.raises(InputError, match="0 images to train on and 4 held out"):
        fit(replace(dataset, train=[]), options(tmp_path / "run"))


def test_averaging_does_not_hold_a_short_run_at_its_random_start(discs, tmp_path):
    dataset = data.open(discs)
    assert fit(dataset, options(tmp_path / "run", epochs=(14,))).metrics["dice"] > 0.8
