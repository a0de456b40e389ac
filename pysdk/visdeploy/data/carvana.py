"""Kaggle's Carvana folder: `train/` with `train_masks/` or `train_masks.csv`."""

import csv
from functools import partial
from pathlib import Path

from visdeploy.data import folder
from visdeploy.data.dataset import ClassMap, Dataset, Item
from visdeploy.data.names import ENCODING
from visdeploy.errors import InputError
from visdeploy.image import decode
from visdeploy.spec import default_palette

LAYOUT = "train/ with train_masks/ or train_masks.csv (Carvana)"
TASKS = frozenset({"segmentation"})

_LABELS = ("background", "car")


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return (root / "train").is_dir() and ((root / "train_masks").is_dir() or (root / "train_masks.csv").is_file())


def read(root: Path, *, size: tuple[int, int] = (1280, 1918)) -> Dataset:
    """Read Carvana, from the mask files if they are there, else from the CSV.

    Every fifth car is held out with all of its views: a car seen in training would flatter the validation.

    Args:
        root: Holds `train/`, and `train_masks/` or `train_masks.csv`.
        size: Height and width that the run lengths in the CSV refer to.

    Raises:
        InputError: There are no pairs, or the CSV is not what is expected.
    """
    if (root / "train_masks").is_dir():
        pairs, problems = folder.match(root / "train", root / "train_masks")
        classes, _ = folder.find_classes([mask for _, _, mask in pairs], _LABELS)
        items = folder.make_items(pairs, classes)
    else:
        items, problems = _read_csv(root, size)
    held_out = set(sorted({_car(item) for item in items})[::5])
    return Dataset(
        labels=_LABELS,
        palette=default_palette(2, 0),
        train=[item for item in items if _car(item) not in held_out],
        val=[item for item in items if _car(item) in held_out],
        background=0,
        problems=tuple(problems),
    )


def _car(item: Item) -> str:
    return item.name.rpartition("_")[0] or item.name


def _read_csv(root: Path, size: tuple[int, int]) -> tuple[list[Item], list[str]]:
    path = root / "train_masks.csv"
    with path.open(newline="", encoding=ENCODING) as file:
        rows = csv.DictReader(file)
        if not {"img", "rle_mask"} <= set(rows.fieldnames or ()):
            raise InputError(f"[data] {path}: expected the columns img,rle_mask, got {rows.fieldnames}")
        runs = {row["img"]: row["rle_mask"] or "" for row in rows}
    images = {image.name: image for image in folder.list_images(root / "train")}
    items = [
        Item(
            Path(name).stem, partial(decode, images[name]), partial(_decode_runs, name, runs[name], size), images[name]
        )
        for name in sorted(runs.keys() & images.keys())
    ]
    if not items:
        raise InputError(f"[data] {path}: names no image of train/")
    problems = [f"{images[name]}: no mask in {path.name}" for name in sorted(images.keys() - runs.keys())]
    problems += [f"{path}: {name} is not in train/" for name in sorted(runs.keys() - images.keys())]
    return items, problems


def _decode_runs(name: str, text: str, size: tuple[int, int]) -> ClassMap:
    # Imported here because it loads the compiled library, which only this format needs.
    from visdeploy import mask

    try:
        return mask.decode(mask.from_kaggle(text, size, order="row"))
    except ValueError as error:
        raise InputError(f"[data] {name} in train_masks.csv: {error}") from error
