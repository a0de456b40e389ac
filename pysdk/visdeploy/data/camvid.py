"""CamVid in the folders of SegNet: `train/` with `trainannot/`, `val/` with `valannot/`, and `classes.csv`."""

import csv
from pathlib import Path

from visdeploy.data import folder
from visdeploy.data.dataset import IGNORE_INDEX, Dataset, hold_out
from visdeploy.data.names import ENCODING
from visdeploy.errors import InputError

LAYOUT = "classes.csv, train/ and trainannot/ (CamVid)"
TASKS = frozenset({"segmentation"})

_COLUMNS = ("id", "name", "r", "g", "b", "ignore")


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return (root / "classes.csv").is_file() and (root / "trainannot").is_dir()


def read(root: Path) -> Dataset:
    """Read CamVid; ids that `classes.csv` marks as ignored become 255.

    Without `val/`, every fifth name is held out.

    Raises:
        InputError: A folder is missing or empty, or `classes.csv` is not what is expected.
    """
    rows = _read_classes(root / "classes.csv")
    kept = [row for row in rows if row["ignore"] != "1"]
    classes = {int(row["id"]): IGNORE_INDEX for row in rows if row["ignore"] == "1"}
    classes |= {int(row["id"]): index for index, row in enumerate(kept)}
    train_pairs, problems = folder.match(root / "train", root / "trainannot")
    train = folder.make_items(train_pairs, classes)
    if (root / "val").is_dir():
        val_pairs, val_problems = folder.match(root / "val", root / "valannot")
        val = folder.make_items(val_pairs, classes)
        problems += val_problems
    else:
        train, val = hold_out(train)
    return Dataset(
        labels=tuple(row["name"] for row in kept),
        palette=tuple((int(row["r"]), int(row["g"]), int(row["b"])) for row in kept),
        train=train,
        val=val,
        problems=tuple(problems),
    )


def _read_classes(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding=ENCODING) as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=2):
        numbers = [row.get(column) or "" for column in _COLUMNS if column != "name"]
        if not row.get("name") or not all(text.isdecimal() and int(text) <= 255 for text in numbers):
            raise InputError(
                f"[data] {path} line {number}: expected {','.join(_COLUMNS)}, all but name 0 to 255, got {row}"
            )
    if not rows:
        raise InputError(f"[data] {path}: expected a header and one row per class, found no class")
    return rows
