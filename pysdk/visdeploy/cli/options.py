"""What verbs share: their options, how text becomes values, and how work in progress is shown."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from visdeploy.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from visdeploy.data import Dataset
    from visdeploy.engines import Engine as LoadedEngine

Item = TypeVar("Item")
BundlePath = Annotated[Path, typer.Argument(help="A .vdz file, or a directory with the same files.")]
Engine = Annotated[str, typer.Option(help="tensorrt, openvino, onnxruntime, torchscript, or auto.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, or what the engine offers beside it.")]
Engines = Annotated[list[str] | None, typer.Option(help="A name, or all (the default); may be repeated.")]
Precisions = Annotated[
    list[str] | None, typer.Option(help="fp32, ..., auto, or all that were accepted (the default); may be repeated.")
]
Threads = Annotated[int | None, typer.Option(help="Threads per inference; default, the container's CPU quota.")]
Data = Annotated[
    Path, typer.Option(help="Folder of images with masks or boxes, or of photographs; or the JSON, YAML or CSV in it.")
]
Format = Annotated[
    str,
    typer.Option(
        help="Its format: auto, folder, camvid or carvana (masks), voc or coco (masks or boxes), yolo or boxes_csv "
        "(boxes), photos (to restore)."
    ),
]
Masks = Annotated[str | None, typer.Option(help="Name of the mask folder, where it is not 'masks'.")]
Degradation = Annotated[
    list[str] | None,
    typer.Option(
        "--degrade",
        metavar="HOW",
        help="Restoration: what makes bad pictures of photographs: scale=2, holes, text, gray or jpeg=20,70 (the "
        "lowest and highest quality); may be repeated.",
    ),
]
Clean = Annotated[
    str | None, typer.Option(help="Restoration from pairs: name of the folder of clean pictures beside images/.")
]
_MAX_NOTES = 10
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def open_data(
    path: Path,
    format: str,
    masks: str | None = None,
    task: str | None = None,
    *,
    degrade: Sequence[str] | None = None,
    clean: str | None = None,
) -> "Dataset":
    """Read a data set, and say what was left out of it by rule; None stands for what was not said."""
    from visdeploy import data

    if (degrade or clean) and task not in (None, "restoration"):
        raise InputError(f"{'--degrade' if degrade else '--clean'} goes with the task restoration, got {task}")
    options = {"masks": masks, "degrade": data.Degrade.parse(degrade) if degrade else None, "clean": clean}
    given = {name: value for name, value in options.items() if value is not None}
    dataset = data.open(path, format=format, task=task, **given)
    note_some(dataset.notes)
    return dataset


def note_some(lines: Sequence[str]) -> None:
    """Print the first lines to stderr, and how many more there are."""
    for line in lines[:_MAX_NOTES]:
        note(line)
    if len(lines) > _MAX_NOTES:
        note(f"and {len(lines) - _MAX_NOTES} more such lines")


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are named, and those in the folders that are."""
    from visdeploy.image import in_folder

    found: list[Path] = []
    for path in paths:
        found += in_folder(path) if path.is_dir() else [path]
    return found


def unless_all(names: list[str] | None) -> list[str] | None:
    """Return the names, or None for all of them."""
    return None if names is None or "all" in names else names


def choice(option: str, value: str, allowed: Sequence[str]) -> str:
    """Return the value if it is allowed, else name the nearest that is."""
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise InputError(f"--{option}: expected {' or '.join(allowed)}, got {value!r}{hint}")
    return value


def height_width(text: str) -> tuple[int, int]:
    """Read 256 or 192x256."""
    sides = [part for part in text.lower().split("x") if part.isdigit()]
    if len(sides) != len(text.split("x")) or len(sides) not in (1, 2):
        raise InputError(f"--size: expected a number or HEIGHTxWIDTH, got {text!r}")
    return int(sides[0]), int(sides[-1])


def sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read 128,192x256."""
    return tuple(height_width(side) for side in text.split(","))


def learning_rate(text: str) -> float | None:
    """Read 0.001, or None for find."""
    found = [None] if text == "find" else numbers("lr", text)
    if len(found) != 1:
        raise InputError(f"--lr: expected a number or find, got {text!r}")
    return found[0]


def numbers(option: str, text: str) -> list[float]:
    """Read 0.1,2."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--{option}: expected numbers separated by commas, got {text!r}") from error


def whole_numbers(option: str, text: str) -> list[int]:
    """Read 1,8."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--{option}: expected whole numbers separated by commas, got {text!r}") from error


def number_range(option: str, text: str) -> tuple[float, float]:
    """Read 0.8,1.4."""
    values = numbers(option, text)
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise InputError(f"--{option}: expected a range such as 0.8,1.4, got {text!r}")
    return values[0], values[1]


def key_value(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, where the value is JSON or plain text."""
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--model: expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def note(line: str) -> None:
    """Say a line beside the answer on stdout."""
    print(line, file=sys.stderr, flush=True)


def note_engine(engine: "LoadedEngine") -> None:
    """Say what runs the network, and why in this precision where it was not asked for by name."""
    why = f": {engine.notes[0]}" if engine.notes else ""
    note(f"{engine.name} {engine.precision}{why}")


def track(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """Show a bar on a terminal while the items are taken."""
    from rich import progress
    from rich.console import Console

    screen = Console(stderr=True)
    if screen.is_terminal:
        return progress.track(items, what, total=total, console=screen)
    return items


@contextmanager
def share_of_work(what: str) -> Iterator[Callable[[str, float], None]]:
    """Show how much of something is done: a bar on a terminal, else a line per quarter."""
    from rich.console import Console
    from rich.progress import Progress

    screen = Console(stderr=True)
    if screen.is_terminal:
        with Progress(console=screen) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda phase, done: bar.update(task, completed=done, description=f"{what}: {phase}")
        return
    said: set[str] = set()

    def say(phase: str, done: float) -> None:
        line = f"{what}: {phase} {25 * int(4 * done)}%" if done else f"{what}: {phase}"
        if line not in said:
            said.add(line)
            note(line)

    yield say
