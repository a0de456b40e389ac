"""Optimisers, schedules and the named recipes of both."""

import inspect
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from test_train import discs, options, weights  # noqa: F401  (a fixture)
from visdeploy import data
from visdeploy.errors import InputError
from visdeploy.train import TrainOptions, TrainResult, fit, recipes
from visdeploy.train.journal import Journal
from visdeploy.train.segmentation import SegmentationTask


class Steps:
    """As much of a trainer as tells how many steps there will be."""

    def __init__(self, steps: int) -> None:
        self.estimated_stepping_batches = steps


def optimisation(**changes) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """What a network of one layer with a backbone of one is trained with."""
    net = torch.nn.ModuleDict({"encoder": torch.nn.Conv2d(3, 4, 1), "head": torch.nn.Conv2d(4, 1, 1)})
    spec = type("Spec", (), {"mean": (0, 0, 0), "std": (1, 1, 1)})
    task = SegmentationTask(net, spec, TrainOptions(Path("run"), **changes), 0)
    task._trainer = Steps(10)
    made = task.configure_optimizers()
    return made["optimizer"], made["lr_scheduler"]["scheduler"]


def rates(optimizer, schedule) -> list[float]:
    """The decoder's learning rate in each of ten steps."""
    seen = []
    for _ in range(10):
        seen.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_optimisers_by_name():
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    for name, kind in kinds.items():
        assert type(optimisation(optimizer=name)[0]) is kind
    assert type(optimisation()[0]) is torch.optim.AdamW
    made, _ = optimisation(optimizer="sgd", momentum=0.9, weight_decay=0.1, lr=2.0, encoder_lr=0.5, schedule="constant")
    assert [(group["lr"], group["weight_decay"], group["momentum"]) for group in made.param_groups] == [
        (1.0, 0.1, 0.9),
        (1.0, 0.0, 0.9),
        (2.0, 0.1, 0.9),
        (2.0, 0.0, 0.9),
    ]


def test_schedules_by_name():
    assert rates(*optimisation(schedule="constant", lr=0.5)) == [0.5] * 10
    stepped = rates(*optimisation(schedule="step", lr=0.5, step_at=0.3))
    assert stepped == pytest.approx([0.5] * 3 + [0.05] * 7)
    cycle = rates(*optimisation(lr=0.5))
    assert max(cycle) == pytest.approx(0.5, rel=0.1)
    assert cycle[0] < 0.1
    assert cycle[-1] < 0.01
    optimizer, schedule = optimisation(optimizer="sgd", momentum=0.5)
    rates(optimizer, schedule)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimizer": "lion"}, "optimizer: expected 'adamw', 'adam' or 'sgd', got 'lion'"),
        ({"schedule": "cosine"}, "schedule: expected 'one_cycle', 'constant' or 'step'"),
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum: expected a number below 1, got 1.0"),
        ({"momentum": 0.9}, "momentum: goes with sgd, got the optimizer adamw"),
        ({"schedule": "step", "step_at": 1.0}, "step_at: expected a number below 1, got 1.0"),
        ({"precision": "bf61"}, "precision: expected 'auto', 'fp32' or 'bf16', got 'bf61'"),
        ({"class_weights": "balance"}, "class_weights: expected 'none' or 'balanced', got 'balance'"),
        ({"warmup": 1.5}, "warmup: expected a number of at most 1, got 1.5"),
        ({"weight_decay": -0.1}, "weight_decay: expected a number of at least 0, got -0.1"),
        ({"encoder_lr": float("nan")}, "encoder_lr: expected a finite number, got nan"),
        ({"lr": float("inf")}, "lr: expected a finite number, got inf"),
        ({"lr": ""}, "lr: expected a number, got ''"),
        ({"seed": -1}, "seed: expected a number of at least 0, got -1"),
        ({"seed": 1 << 32}, "seed: expected a number of at most 4294967295, got 4294967296"),
        ({"lighting": -1.0}, "lighting: expected a number of at least 0, got -1.0"),
        ({"rotate": float("nan")}, "rotate: expected a finite number, got nan"),
        ({"rotate": -5}, "rotate: expected a number of at least 0, got -5"),
        ({"batch": 1.5}, "batch: expected a whole number, got 1.5"),
        ({"batch": None}, "batch: expected a whole number, got None"),
        ({"batch": True}, "batch: expected a whole number, got True"),
        ({"freeze_epochs": -1}, "freeze_epochs: expected a number of at least 0, got -1"),
        ({"flip": 1}, "flip: expected true or false, got 1"),
        ({"arch": [1]}, r"arch: expected text, got \[1\]"),
        ({"model": "fpn"}, "model: expected values by name, got 'fpn'"),
        ({"out": 5}, "out: expected a path, got 5"),
        ({"epochs": None}, r"epochs: expected whole numbers of at least 1, .* got None"),
        ({"epochs": ()}, r"epochs: expected whole numbers of at least 1, .* got \(\)"),
        ({"sizes": -1}, "sizes: expected height and width of each stage, .* got -1"),
        ({"sizes": (32, 32)}, "sizes: expected height and width of each stage, .* got "),
        ({"scale": (1, float("inf"))}, r"scale: expected the smallest zoom and the largest, .* got \(1, inf\)"),
        ({"scale": {}}, "scale: expected the smallest zoom and the largest, .* got {}"),
        ({"scale": ""}, "scale: expected the smallest zoom and the largest, .* got ''"),
    ],
)
def test_wrong_options_are_named(changes, sentence):
    with pytest.raises(InputError, match=rf"^\[train\] {sentence}"):
        TrainOptions(**{"out": Path("run"), **changes})


def test_lists_and_names_of_folders_become_what_the_options_hold():
    chosen = TrainOptions("run", sizes=[[64, 96]], epochs=[2], scale=[1, 1.5])
    assert chosen == TrainOptions(Path("run"), sizes=((64, 96),), epochs=(2,), scale=(1.0, 1.5))
    assert TrainOptions(Path("run"), epochs=(1,), freeze_epochs=9).frozen_epochs_of(0) == 9  # throughout


def test_every_recipe_is_a_set_of_options():
    for name, recipe in recipes.RECIPES.items():
        chosen = recipes.options(name, out=Path("run"))
        assert all(getattr(chosen, field) == value for field, value in recipe.fields.items())
    assert recipes.options("unet", out=Path("run")) == TrainOptions(Path("run"))  # a model alone, by its name
    sgd = recipes.options("fcn-sgd", out=Path("run"), lr=0.5)
    assert (sgd.arch, sgd.optimizer, sgd.lr, sgd.weight_decay, sgd.dice) == ("fcn", "sgd", 0.5, 1e-3, 0.0)
    with pytest.raises(InputError, match=r"\[train\] bach: no such option; did you mean 'batch'"):
        recipes.options("unet", out=Path("run"), bach=2)
    with pytest.raises(InputError, match="did you mean 'resnet_unet-sgd'"):
        recipes.options("resnet-unet-sgd", out=Path("run"))


def test_a_stepped_run_resumes_where_it_stopped(discs, tmp_path, monkeypatch):  # noqa: F811
    dataset = data.open(discs)
    changes = {"optimizer": "sgd", "momentum": 0.9, "schedule": "step", "epochs": (2,), "sizes": ((32, 32),)}
    fit(dataset, options(tmp_path / "whole", **changes))

    def kill(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "on_train_epoch_start", kill)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, options(tmp_path / "killed", **changes))
    fit(dataset, options(tmp_path / "killed", **changes), resume=True)
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path / "killed").items())


@pytest.fixture
def chosen(monkeypatch, discs) -> list[TrainOptions]:  # noqa: F811
    """What the command line makes of its arguments, instead of training."""
    seen: list[TrainOptions] = []

    def keep(dataset, options, *, resume):
        seen.append(options)
        raise InputError("seen")

    monkeypatch.setattr("visdeploy.train.fit", keep)
    return seen


def test_what_is_said_wins_over_the_recipe(run, chosen, discs, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    arguments = ["train", "--data", discs, "--out", out]
    said = ["--recipe", "resnet_unet-adam-1e-4", "--lr", "0.001", "--ema", "0.98", "--size", "64"]
    code, _, err = run(*arguments, *said)
    assert code == 2
    (options,) = chosen
    assert "ResNetUNet, Adam 1e-4, from the middle of the run 1e-5; but with your own ema, lr\n" in err
    assert options == recipes.options("resnet_unet-adam-1e-4", out=out, lr=1e-3, ema=0.98, sizes=((64, 64),))
    assert (options.schedule, options.dice) == ("step", 0.0)
    code, _, err = run(*arguments, "--recipe", "unett")
    assert code == 2
    assert "did you mean 'unet'" in err


def test_the_line_of_the_best_leaves_single_classes_out(run, discs, tmp_path, monkeypatch):  # noqa: F811
    figures = {"miou": 0.5, "dice": 0.625, "iou_disc": 0.25}
    monkeypatch.setattr("visdeploy.train.fit", lambda *_, **__: TrainResult(tmp_path / "model.pt", figures, 60.0))
    arguments = ["train", "--data", discs, "--out", tmp_path / "run"]
    code, said, _ = run(*arguments)
    assert code == 0
    assert said.startswith("best: miou 0.5000, dice 0.6250\n")
    assert json.loads(run(*arguments, "--json")[1])["metrics"] == figures


def test_epochs_are_whole_numbers(run, chosen, discs, tmp_path):  # noqa: F811
    for epochs in ("1.5", "nan"):
        code, _, err = run("train", "--data", discs, "--out", tmp_path / "run", "--epochs", epochs)
        assert code == 2
        assert f"--epochs: expected whole numbers separated by commas, got '{epochs}'" in err


def test_a_wrong_value_is_refused_before_the_data_are_read(run, chosen, tmp_path):
    for option, value in (("seed", -1), ("lighting", "nan"), ("freeze-epochs", -1)):
        code, _, err = run("train", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", f"--{option}", value)
        assert code == 2
        assert f"[train] {option.replace('-', '_')}: expected a" in err
    code, _, err = run("demo", "--out", tmp_path / "run", "--seed", -1)
    assert (code, err) == (2, "error: [demo] seed: expected a number of at least 0, got -1\n")
    assert not (tmp_path / "run").exists()


def test_help_tells_the_defaults_and_the_recipes_that_there_are(run, chosen, discs, tmp_path):  # noqa: F811
    from visdeploy.cli.training import train

    out = tmp_path / "run"
    assert run("train", "--data", discs, "--out", out)[0] == 2
    assert chosen == [TrainOptions(out)]
    shown = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    defaults = {field.name: field.default for field in fields(TrainOptions)}
    same = [name for name in shown if name in defaults and isinstance(defaults[name], float | int | str | bool)]
    assert {name: str(shown[name]) for name in same} == {name: str(defaults[name]) for name in same}
    told = inspect.signature(train).parameters["recipe"].annotation.__metadata__[0].help
    assert told.partition("it: ")[2].rstrip(".").split(", ") == list(recipes.RECIPES)
