"""YOLO's text files: a line per object, its class and its box in shares of the image.

A YAML file names the classes and the folders of images. Without one they are `images/` and the names of `labels.txt` or
`classes.txt`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as shown  # a small YAML may hold what is gigabytes in full
from typing import Any

import numpy as np

from visdeploy.data import box_formats
from visdeploy.data.dataset import Dataset
from visdeploy.data.folder import list_images
from visdeploy.data.marked import BACKGROUND, BOX_TASKS, Marked, Split, make_dataset, read_size
from visdeploy.data.names import ENCODING, read_names
from visdeploy.errors import InputError, requires

LAYOUT = "images/ and labels/*.txt, or a YAML that names train, val and names (YOLO)"
TASKS = BOX_TASKS

_YAML = (".yaml", ".yml")
_NAME_FILES = ("labels.txt", "classes.txt")


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return bool(_yaml_files(root)) or ((root / "images").is_dir() and any((root / "labels").rglob("*.txt")))


def explain(root: Path) -> None:
    """Say what keeps the first YAML from being read, where none has the words of this format.

    Raises:
        InputError: There is a YAML.
    """
    for path in [path for path in sorted(root.iterdir()) if path.suffix in _YAML][:1]:
        lacks = ", ".join(key for key in ("train", "names") if key not in _load_yaml(path))
        if lacks:
            raise InputError(f"[data] {path}: expected train, val and names, found no {lacks}")


def read(
    root: Path, *, yaml: str | None = None, boxes: str | None = None, labels: Sequence[str] | None = None
) -> Dataset:
    """Read boxes, or the frames of polygons; an image without a text file counts as one without objects.

    Without `val` in the YAML, or `images/val/`, every fifth name is held out.

    Args:
        root: Holds the YAML, or `images/` and `labels/`.
        yaml: Name of the YAML; found by itself where there is only one.
        boxes: Folder of the text files, which takes the place of `images` in a path; default, `labels`, or the folder
            that is named as the YAML.
        labels: Class names by their id in the text files; default, those of the YAML, `labels.txt` or `classes.txt`.

    Raises:
        InputError: There is no image, or nothing names the classes.
    """
    if yaml is None and len(found := _yaml_files(root)) > 1:
        listed = ", ".join(path.name for path in found)
        raise InputError(
            f"[data] {root}: expected one YAML of classes and folders, found {listed}; "
            "name it with yaml=, or as the path"
        )
    path = root / yaml if yaml is not None else next(iter(_yaml_files(root)), None)
    described = {} if path is None else _load_yaml(path)
    names = _class_names(root, described.get("names") if labels is None else list(labels))
    numbers = [number for number in sorted(names) if names[number] != BACKGROUND]
    index = {number: label for label, number in enumerate(numbers, start=1)}
    stand_in = boxes or ("labels" if path is None or (root / "labels").is_dir() else path.stem)
    splits = []
    for folders in _parts(root, described):
        split = Split()
        for folder in folders:
            _read_folder(folder, _text_folder(folder, root, stand_in), index, split)
        splits.append(split)
    if isinstance(count := described.get("nc"), int) and isinstance(named := described.get("names"), list | dict):
        splits[0].notes += [f"{path}: nc is {count}, but names has {len(named)}"] * (count != len(named))
    return make_dataset(root, (BACKGROUND, *(names[number] for number in numbers)), splits)


def _yaml_files(root: Path) -> list[Path]:
    """The YAML files with the words of this format in them."""
    found = [path for path in sorted(root.iterdir()) if path.suffix in _YAML]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in found]
    return [path for path, text in zip(found, texts, strict=True) if "names:" in text and "train:" in text]


def _load_yaml(path: Path) -> dict[str, Any]:
    with requires(f"{path}: YAML needs PyYAML", "train"):
        from yaml import YAMLError, safe_load
    try:
        document = safe_load(path.read_bytes())
    except OSError as error:
        raise InputError(f"[data] {path}: cannot be read: {error.strerror}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"[data] {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InputError(f"[data] {path}: expected train, val and names, got {type(document).__name__}")
    return document


def _class_names(root: Path, names: object) -> dict[int, str]:
    if names is None:
        for listed in (folder / name for folder in (root, root / "labels") for name in _NAME_FILES):
            if listed.is_file():
                names = read_names(listed)
                break
    if names is None and not _yaml_files(root):
        explain(root)
    if isinstance(names, list):
        names = dict(enumerate(names))
    plain = isinstance(names, dict) and all(
        isinstance(number, int) and isinstance(name, str | int | float) for number, name in names.items()
    )
    if not isinstance(names, dict) or not names or not plain:
        raise InputError(
            f"[data] {root}: expected class names in a YAML, in classes.txt or as labels=, got {shown(names)}"
        )
    return {number: str(name) for number, name in names.items()}


def _parts(root: Path, described: Mapping[str, Any]) -> list[list[Path]]:
    """The folders of images to learn from, and those of images held out."""
    if not described:
        train, val = root / "images" / "train", root / "images" / "val"
        return [[train], [val]] if train.is_dir() and val.is_dir() else [[root / "images"]]
    parts = []
    for key in ("train", "val"):
        value = described.get(key)
        listed = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(each, str) for each in listed) or (key == "train" and not listed):
            raise InputError(f"[data] {root}: expected folders of images in {key}, got {shown(value)}")
        # Where the writer of the file had its data says little about where it is here.
        bases = [root / path, root] if isinstance(path := described.get("path"), str) else [root]
        parts += [[next((base / each for base in bases if (base / each).is_dir()), root / each) for each in listed]]
    return [part for part in parts if part]


def _text_folder(images: Path, root: Path, stand_in: str) -> Path:
    """root/images/train -> root/labels/train."""
    below = images.relative_to(root).parts if images.is_relative_to(root) else images.parts
    at = max((number for number, part in enumerate(below) if part == "images"), default=None)
    swapped = [stand_in if number == at else part for number, part in enumerate(below)]
    return Path(root, *swapped) if at is not None else images


def _read_folder(images: Path, texts: Path, index: Mapping[int, int], split: Split) -> None:
    found = list_images(images)
    without = 0
    for path in found:
        text = texts / f"{path.stem}.txt"
        without += not text.is_file()
        try:
            split.images.append(_read_text(path, text, index))
        except InputError as error:
            split.problems.append(str(error))
    stems = {path.stem for path in found}
    alone = [path for path in sorted(texts.glob("*.txt")) if path.stem not in stems and path.name not in _NAME_FILES]
    split.problems += [f"{path}: no image of this name in {images}" for path in alone]
    if without:
        split.notes.append(f"{images}: {without} images have no text file, and count as images without objects")


def _read_text(path: Path, text: Path, index: Mapping[int, int]) -> Marked:
    size = read_size(path)
    shares, labels = [], []
    try:
        lines = text.read_text(encoding=ENCODING).splitlines() if text.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            numbers = [float(word) for word in line.split()]
        except ValueError:
            raise InputError(f"{text} line {number}: expected numbers, got {line!r}") from None
        if not numbers:
            continue
        name, *values = numbers
        if name not in index:
            raise InputError(f"{text} line {number}: unknown class id {name:g}")
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise InputError(
                f"{text} line {number}: expected 4 numbers after the class, or a polygon, got {len(values)}"
            )
        shares.append(values if len(values) == 4 else _frame(values))
        labels.append(index[int(name)])
    return Marked(path.stem, path, size, box_formats.from_yolo(shares, size), labels, [False] * len(labels))


def _frame(polygon: Sequence[float]) -> list[float]:
    points = np.array(polygon).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return [*((low + high) / 2).tolist(), *(high - low).tolist()]
