"""compare."""

import json
import re
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from visdeploy.cli.app import app
from visdeploy.cli.options import (
    AsJson,
    Clean,
    Data,
    Degradation,
    Engines,
    Format,
    Masks,
    choice,
    key_value,
    learning_rate,
    note,
    note_some,
    number_range,
    open_data,
    sizes,
    unless_all,
    whole_numbers,
)
from visdeploy.cli.training import TASKS
from visdeploy.errors import CheckFailedError, InputError


@app.command()
def compare(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE...", help="A recipe or a model; after it its own ':KEY=VALUE,...'.")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table; what is done in it is not repeated.")],
    task: Annotated[str, typer.Option(help=", ".join(TASKS))] = TASKS[0],
    format: Format = "auto",
    masks: Masks = None,
    degrade: Degradation = None,
    clean: Clean = None,
    encoder: Annotated[str | None, typer.Option(help="Of all, as in train.")] = None,
    weights: Annotated[str | None, typer.Option(help="Of all, as in train.")] = None,
    size: Annotated[str | None, typer.Option(help="Of all, as in train.")] = None,
    epochs: Annotated[str | None, typer.Option(help="Of all, as in train.")] = None,
    every: Annotated[
        str | None, typer.Option("--all", metavar="KEY=VALUE,...", help="Other options of all: lr=0.002,scale=0.8,1.6")
    ] = None,
    cpu_minutes: Annotated[
        float | None,
        typer.Option(help="In place of --epochs: as many as fit in, by a trial; name a precision too."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="To train each from.")] = "0",
    target: Annotated[float | None, typer.Option(help="Figure whose first reaching is timed.")] = None,
    engine: Engines = None,
    precision: Annotated[str, typer.Option(help="fp32; with it bf16 or int8; or auto: all that keep the figure.")] = (
        "fp32"
    ),
    duration: Annotated[float, typer.Option(help="Seconds for each use of each engine and precision.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Train several recipes on one data set, export, verify and time each, and write one table.

    KEY is an option of train (size=192x256, freeze_epochs=2), or one of the model (decoder_channels=128).
    """
    from visdeploy import compare as comparing

    if cpu_minutes is not None and epochs is not None:
        raise InputError("--cpu-minutes: decides the epochs, so leave --epochs out")
    given = {"encoder": encoder, "weights": weights, "size": size, "epochs": epochs}
    shared = ",".join(f"{key}={value}" for key, value in given.items() if value is not None)
    common = _options(shared) | _options(every or "", "--all")
    chosen = {recipe: {"task": choice("task", task, TASKS), **_recipe(recipe, common)} for recipe in recipes}
    dataset = open_data(data, format, masks, task, degrade=degrade, clean=clean)
    note_some(dataset.problems)
    with redirect_stdout(sys.stderr):  # the table alone is the answer
        found = comparing.compare(
            dataset,
            chosen,
            out,
            seeds=whole_numbers("seeds", seeds),
            cpu_minutes=cpu_minutes,
            target=target,
            engines=unless_all(engine),
            precision=choice("precision", precision, ("fp32", "bf16", "int8", "auto")),
            duration=duration,
            progress=note,
        )
    print(json.dumps(found.to_dict()) if as_json else found.to_markdown(), end="\n" if as_json else "")
    if failed := [row.title for row in found.rows if row.failed]:
        raise CheckFailedError(f"{', '.join(failed)} failed; {out / 'compare.md'} says why")


def _recipe(text: str, common: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `TrainOptions`: a recipe's own, which those for all change, which those after it change."""
    from visdeploy.train import recipes

    name, _, changes = text.partition(":")
    layers = (recipes.preset(name), common, _options(changes))
    model = {key: value for layer in layers for key, value in layer.get("model", {}).items()}
    return {key: value for layer in layers for key, value in layer.items()} | {"model": model}


def _options(text: str, where: str = "RECIPE, after its name") -> dict[str, Any]:
    """Read KEY=VALUE,KEY=VALUE,... where a value may itself have commas."""
    from visdeploy.train import TrainOptions

    known = [field.name for field in fields(TrainOptions) if field.name != "model"]
    found: dict[str, Any] = {"model": {}}
    for entry in re.split(r",(?=\w+=)", text) if text else ():
        if "=" not in entry:
            raise InputError(f"{where}: expected KEY=VALUE,..., got {text!r}")
        key, value = key_value(entry)
        plain = entry.partition("=")[2]
        if key == "size":
            found["sizes"] = sizes(plain)
        elif key == "epochs":
            found[key] = tuple(whole_numbers(key, plain))
        elif key == "scale":
            found[key] = number_range(key, plain)
        elif key == "lr":
            found[key] = learning_rate(plain)
        elif key in ("out", "seed", "task"):
            raise InputError(f"{entry}: {key} is one for all, not a recipe's")
        elif key in known:
            found[key] = value
        else:
            found["model"][key] = value
    return found
