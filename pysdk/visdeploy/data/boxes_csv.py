"""Tables with the columns `fn` and `bbox`, `fn` and `cat`, or all three, beside a folder of images.

`bbox` holds top, left, bottom and right in pixels, the last ones included, for as many objects as there are fours.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from visdeploy.data import box_formats
from visdeploy.data.dataset import Dataset, Item, hold_out
from visdeploy.data.folder import list_images
from visdeploy.data.marked import BACKGROUND, BOX_TASKS, Marked, Split, given_labels, make_dataset, read_size
from visdeploy.data.names import ENCODING
from visdeploy.errors import InputError
from visdeploy.image import SUFFIXES, decode
from visdeploy.spec import default_palette

LAYOUT = "a CSV of fn,bbox and/or fn,cat beside a folder of images"
TASKS = BOX_TASKS

_ONE_KIND = "object"


@dataclass(frozen=True)
class _Row:
    name: str
    kind: str
    boxes: list[list[float]] | None


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return any(_columns(path) for path in root.glob("*.csv"))


def explain(root: Path) -> None:
    """Say which columns the first table lacks, where none has those of this format.

    Raises:
        InputError: There is a table.
    """
    for path in sorted(root.glob("*.csv"))[:1]:
        raise _other_columns(path)


def read(
    root: Path, *, table: str | None = None, images: str | None = None, labels: Sequence[str] | None = None
) -> Dataset:
    """Read boxes, classes, or both; every fifth name is held out.

    A file of `fn,bbox` is completed by one of `fn,cat` where both are there. Without `cat`, everything is an "object".
    Without `bbox`, the class is that of the image.

    Args:
        root: Holds the tables and the images.
        table: Name of the table; found by itself where only one fits.
        images: Folder of the images below `root`; default, the only one that has any, or `root` itself.
        labels: Class names by index; default, the lines of `labels.txt` in `root`, or the names found, sorted.

    Raises:
        InputError: There is no such table, more than one, or a row that cannot be read.
    """
    rows = _rows(root, table)
    folder = root / images if images is not None else _image_folder(root)
    files = {path.name: path for path in list_images(folder)}
    names = given_labels(root, labels) or (BACKGROUND, *sorted({row.kind for row in rows}))
    index = {name: number for number, name in enumerate(names) if number}
    split = Split()
    known: dict[str, list[_Row]] = {}
    for row in rows:
        if row.name not in files:
            split.problems.append(f"{folder / row.name}: no such image")
        elif row.kind not in index:
            split.problems.append(f"{row.name}: unknown class {row.kind!r}; known are {', '.join(index)}")
        else:
            known.setdefault(row.name, []).append(row)
    if missing := len(files.keys() - {row.name for row in rows}):
        split.notes.append(f"{folder}: {missing} images are in no row, and are left out")
    if all(row.boxes is None for row in rows):
        return _of_images({files[name]: index[found[0].kind] - 1 for name, found in known.items()}, names[1:], split)
    for name, found in known.items():
        boxes = [(box, index[row.kind]) for row in found for box in row.boxes or []]
        corners = box_formats.from_inclusive_yxyx([box for box, _ in boxes])
        kinds = [label for _, label in boxes]
        try:
            size = read_size(files[name])
        except InputError as error:
            split.problems.append(str(error))
        else:
            split.images.append(Marked(files[name].stem, files[name], size, corners, kinds, [False] * len(kinds)))
    return make_dataset(root, names, [split])


def _of_images(labels: Mapping[Path, int], names: Sequence[str], split: Split) -> Dataset:
    """Classes of whole images, counted from 0."""
    items = [Item(path.stem, partial(decode, path), image_path=path, label=label) for path, label in labels.items()]
    train, val = hold_out(items)
    palette = default_palette(len(names), None)
    return Dataset(tuple(names), palette, train, val, None, tuple(split.problems), tuple(split.notes))


def _rows(root: Path, name: str | None) -> list[_Row]:
    paths = [root / name] if name is not None else [path for path in sorted(root.glob("*.csv")) if _columns(path)]
    by_columns = {frozenset(_columns(path)): path for path in paths}
    boxes, kinds = by_columns.get(frozenset({"fn", "bbox"})), by_columns.get(frozenset({"fn", "cat"}))
    if len(paths) == 2 and boxes is not None and kinds is not None:
        of_name = {row.name: row.kind for row in _read_table(kinds)}
        rows = _read_table(boxes)
        if unnamed := [row.name for row in rows if row.name not in of_name]:
            raise InputError(f"[data] {kinds}: expected a row for {unnamed[0]}, which has one in {boxes.name}")
        return [replace(row, kind=of_name[row.name]) for row in rows]
    if not paths:
        explain(root)
    for path in paths:
        if path.is_file() and not _columns(path):
            raise _other_columns(path)
    if len(paths) != 1 or not by_columns or not all(by_columns):
        found = ", ".join(path.name for path in paths) or "none"
        raise InputError(
            f"[data] {root}: expected one CSV with the columns fn,bbox and/or cat, found {found}; "
            "name it with table=, or as the path"
        )
    return _read_table(paths[0])


def _columns(path: Path) -> set[str]:
    """The columns of this format that a table has; empty where it is another kind of table."""
    found = {"fn", "cat", "bbox"} & set(_header(path))
    return found if "fn" in found and len(found) > 1 else set()


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding=ENCODING) as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _other_columns(path: Path) -> InputError:
    return InputError(
        f"[data] {path}: expected the columns fn (file name) with bbox (top left bottom right in pixels, the last ones "
        f"included) and/or cat (class), got {','.join(_header(path))[:200] or 'no line of columns in UTF-8'}"
    )


def _read_table(path: Path) -> list[_Row]:
    try:
        rows = _parse(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"[data] {path}: not a CSV in UTF-8: {error}") from error
    if not rows:
        raise InputError(f"[data] {path}: expected a row per image, found none")
    return rows


def _parse(path: Path) -> list[_Row]:
    rows = []
    with path.open(newline="", encoding=ENCODING) as file:
        table = csv.DictReader(file)
        for row in table:
            where = f"[data] {path} line {table.line_num}"
            name, kind, text = row["fn"], row.get("cat", _ONE_KIND), row.get("bbox") or ""
            if not name or not kind or Path(name).name != name:
                raise InputError(f"{where}: expected the name of a file and a class, got {name!r} and {kind!r}")
            try:
                numbers = [float(word) for word in text.split()]
            except ValueError:
                numbers = [0.0]
            if len(numbers) % 4:
                raise InputError(f"{where}: expected top, left, bottom and right in bbox, got {text!r}")
            boxes = [numbers[at : at + 4] for at in range(0, len(numbers), 4)]
            rows.append(_Row(name, kind, boxes if "bbox" in row else None))
    return rows


def _image_folder(root: Path) -> Path:
    holds = [
        folder
        for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir()))
        if any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    ]
    if len(holds) != 1:
        found = ", ".join(str(folder.relative_to(root)) for folder in holds) or "none"
        raise InputError(f"[data] {root}: expected one folder of images, found {found}; name it with images=")
    return holds[0]
