"""`visdeploy compare`: every recipe is trained once, exported, verified and timed, and what fails does not stop it."""

import csv
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from visdeploy import compare, data, export, image
from visdeploy.errors import CheckFailedError, InputError

TINY = {"encoder": "test_efficientnet", "sizes": ((64, 64),), "epochs": (2,), "batch": 4, "precision": "fp32"}
TINY |= {"model": {"decoder_channels": 8}}


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Ten images of a bright square on dark noise, with its mask."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for index in range(10):
        pixels, mask = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64), np.uint8)
        x, y = (int(value) for value in rng.integers(4, 36, 2))
        cv2.rectangle(mask, (x, y), (x + 20, y + 20), 255, -1)
        pixels[mask > 0] += 120
        image.write(root / "images" / f"{index}.png", pixels)
        image.write(root / "masks" / f"{index}.png", mask)
    return root


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """They take half the time of so short a run."""
    monkeypatch.setattr("visdeploy.train.journal.draw_curves", lambda *_: None)


def table_of(text: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_every_recipe_is_trained_once_and_one_that_fails_leaves_a_row(squares, tmp_path, run, monkeypatch):
    shared = ["--encoder", "test_efficientnet", "--size", 64, "--epochs", 2, "--seeds", "0,1"]
    shared += ["--all", "batch=4,precision=fp32,decoder_channels=8,scale=0.9,1.1"]
    measured = ["--target", 0, "--engine", "openvino", "--duration", 0.05]
    recipes = ["unet", "unet:encoder=nowhere,batch=2"]
    arguments = ["compare", *recipes, "--data", squares, "--out", tmp_path, *shared, *measured]
    threads, real_fit, real_verify = [], compare.fit, compare.verify

    def fit(*arguments, **options):
        threads.append(torch.get_num_threads())
        return real_fit(*arguments, **options)

    def verify(*arguments, **options):
        torch.set_num_threads(3)  # as an engine does
        return real_verify(*arguments, **options)

    monkeypatch.setattr(compare, "fit", fit)
    monkeypatch.setattr(compare, "verify", verify)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        code, said, problem = run(*arguments)
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}
    assert "Trained on 1 thread." in said
    assert code == 1
    assert "unet:encoder=nowhere,batch=2 failed" in problem
    assert said == (tmp_path / "compare.md").read_text()
    trained, failed = table_of(said)
    assert trained["model"] == "unet"
    assert trained["epochs"] == "2"
    assert trained["verified"] == "yes"
    assert float(trained["openvino fp32"]) > 0
    assert failed["dice"] == failed["verified"] == "-"
    assert "- unet:encoder=nowhere,batch=2: seed 1 failed: " in said
    document = json.loads((tmp_path / "compare.json").read_text())
    options = [row["options"] for row in document["rows"]]
    assert [row["batch"] for row in options] == [4, 2]
    assert options[1]["scale"] == [0.9, 1.1]
    assert options[1]["model"] == {"decoder_channels": 8}
    runs = document["rows"][0]["runs"]
    scores = [found["metrics"]["dice"] for found in runs]
    assert scores[0] != scores[1]
    assert [trained["seed 0"], trained["seed 1"]] == [f"{score:.4f}" for score in scores]
    assert trained["dice"] == f"{sum(scores) / 2:.4f}"
    with (tmp_path / "unet-1" / "history.csv").open(newline="") as file:
        minutes = [float(row["cpu_seconds"]) / 60 for row in csv.DictReader(file)]
    assert runs[1]["cpu_minutes"] == pytest.approx(sum(minutes))
    assert runs[1]["cpu_minutes_to_target"] == pytest.approx(minutes[0])

    def refuse(*arguments, **options):
        raise CheckFailedError("it loses too much")

    monkeypatch.setattr("lightning.Trainer.fit", refuse)
    monkeypatch.setattr(export, "export", refuse)
    monkeypatch.setattr(export, "add_variants", refuse)
    code, said, _ = run(*arguments, "--precision", "int8", "--target", 1.5)
    assert code == 1
    again, failed = table_of(said)
    assert [again["seed 0"], again["seed 1"]] == [f"{score:.4f}" for score in scores]
    assert again["verified"] == "yes"
    assert again["CPU min to dice 1.5"] == "-"
    assert "- unet: int8 was refused: it loses too much" in said
    monkeypatch.setattr(compare, "verify", lambda *_, **__: SimpleNamespace(ok=False))
    code, said, _ = run(*arguments)
    assert code == 1
    assert "seed 0 failed: visdeploy verify" in said
    assert table_of(said)[0]["dice"] == again["dice"]  # it has its figures all the same


def test_what_restoration_began_with_stands_beside_what_it_reached(tmp_path):
    figures = {"psnr": 31.5, "ssim": 0.9, "psnr_before": 30.25, "ssim_before": 0.875}
    done = compare.Run(0, 1, 1.0, None, figures, 10, tmp_path / "model.vdz", True)
    found = compare.Comparison((compare.Row("a", runs=[done]),), (0,), None, (8, 2), "a processor", 1)
    (line,) = table_of(found.to_markdown())
    assert (line["psnr"], line["psnr_before"], line["ssim"]) == ("31.5000", "30.2500", "0.9000")


def test_a_budget_of_cpu_time_decides_the_epochs(squares, tmp_path):
    opened = data.open(squares)
    fields = {**TINY, "freeze_epochs": 1}
    short = compare.compare(opened, {"a": fields}, tmp_path, cpu_minutes=1e-6)
    assert short.rows[0].failed
    assert "expected more than" in short.rows[0].notes[0]
    assert table_of(short.to_markdown())[0]["verified"] == "-"
    trial = tmp_path / "a-trial" / "history.csv"
    with trial.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    with trial.open("w", newline="") as file:  # as if on a slower machine: 2 s with the encoder frozen, else 4
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"cpu_seconds": seconds} for row, seconds in zip(rows, (2, 4), strict=True))
    found = compare.compare(opened, {"a": fields}, tmp_path, cpu_minutes=13 / 60, engines=["openvino"], duration=0.05)
    assert found.rows[0].runs[0].epochs == 3
    assert found.rows[0].options["epochs"] == [3]


def test_runs_that_would_share_a_folder_are_refused_before_anything_is_trained(squares, tmp_path):
    opened = data.open(squares)
    for titles in (("a:b", "a/b"), ("",), (".",), ("/",)):
        with pytest.raises(InputError, match="expected titles that differ in letters or digits"):
            compare.compare(opened, dict.fromkeys(titles, TINY), tmp_path)
    with pytest.raises(InputError, match="goes with one size"):
        compare.compare(opened, {"a": {**TINY, "sizes": ((32, 32), (64, 64))}}, tmp_path, cpu_minutes=1)
    assert not list(tmp_path.iterdir())


def test_the_table_says_why_no_recipe_began(squares, tmp_path, run):
    out = tmp_path / "out"
    code, said, problem = run("compare", "unet:model=1", "--data", squares, "--out", out)
    assert code == 1
    assert "unet:model=1 failed" in problem
    assert said == (out / "compare.md").read_text()
    assert "- unet:model=1: seed 0 failed: [models]" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"recipes": {"a": {"bach": 1}}}, r"\[train\] bach: no such option; did you mean 'batch'"),
        ({"recipes": {"a": {"out": "x"}}}, r"\[compare\] recipes: 'a' has out, which is one for all"),
        ({"recipes": {"a": {"seed": 3}}}, r"\[compare\] recipes: 'a' has seed, which is one for all"),
        ({"recipes": {"a": {"batch": 0}}}, r"\[train\] batch: expected a number of at least 1, got 0"),
        ({"recipes": {"a": 1}}, "recipes: expected fields of TrainOptions by the title"),
        ({"recipes": {}}, "recipes: expected fields of TrainOptions by the title"),
        ({"recipes": ["unet"]}, "recipes: expected fields of TrainOptions by the title"),
        ({"out": 5}, "out: expected a path, got 5"),
        ({"seeds": ()}, "seeds: expected whole numbers"),
        ({"seeds": 3}, "seeds: expected whole numbers"),
        ({"seeds": (1.5,)}, "seeds: expected whole numbers"),
        ({"cpu_minutes": 0}, "cpu_minutes: expected a number above 0, got 0"),
        ({"cpu_minutes": "5"}, "cpu_minutes: expected a number, got '5'"),
        ({"target": float("nan")}, "target: expected a finite number, got nan"),
        ({"engines": "openvino"}, "engines: expected some of tensorrt, .* got 'openvino'"),
        ({"engines": []}, "engines: expected some of tensorrt"),
        ({"engines": ["openvin"]}, "engines: expected tensorrt, .* did you mean 'openvino'"),
        ({"precision": "fp8"}, "precision: expected auto, .* got 'fp8'"),
        ({"precision": None}, "precision: expected text, got None"),
        ({"duration": float("inf")}, "duration: expected a finite number, got inf"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_trained(squares, tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setattr(compare, "fit", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(InputError, match=sentence):
        compare.compare(**{"dataset": data.open(squares), "recipes": {"a": TINY}, "out": tmp_path / "out", **changes})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unett"], "did you mean 'unet'"),
        (["unet:deep"], "expected KEY=VALUE"),
        (["unet", "--all", "lr", "--epochs", "1"], "--all: expected KEY=VALUE,..., got 'lr'"),
        (["unet:lr=1,2"], "--lr: expected a number or find"),
        (["unet:lr=fast"], "expected numbers"),
        (["unet:dice=many"], "dice: expected a number, got 'many'"),
        (["unet:batch=2.5"], "batch: expected a whole number, got 2.5"),
        (["unet:flip=1"], "flip: expected true or false, got 1"),
        (["unet:precision=bf61"], "precision: expected 'auto'"),
        (["unet:seed=1"], "seed is one for all"),
        (["unet:optimizer=sgdd"], "optimizer: expected 'adamw'"),
        (["unet", "--cpu-minutes", "1", "--epochs", "2"], "--cpu-minutes"),
        (["unet", "--seeds", "x"], "--seeds"),
        (["unet", "--seeds", "-1"], "seeds: expected whole numbers of 0 to 4294967295"),
        (["unet", "--cpu-minutes", "nan"], "cpu_minutes: expected a finite number, got nan"),
        (["unet", "--engine", "openvin"], "did you mean 'openvino'?"),
        (["unet", "--precision", "fp8"], "--precision"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(squares, tmp_path, run, arguments, said):
    out = tmp_path / "out"
    code, _, problem = run("compare", *arguments, "--data", squares, "--out", out)
    assert code == 2
    assert said in problem
    assert "Traceback" not in problem
    assert not out.exists()
