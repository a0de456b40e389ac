"""Plain folders: `images/` beside a folder of masks, matched by file stem."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from visdeploy.data.dataset import IGNORE_INDEX, Dataset, Item, hold_out
from visdeploy.data.mask_files import Colormap, read_class_map, read_mask
from visdeploy.data.names import read_names
from visdeploy.errors import InputError
from visdeploy.image import SUFFIXES, decode
from visdeploy.spec import default_palette

LAYOUT = "images/ beside a folder of masks, either directly or inside train/ and val/"
TASKS = frozenset({"segmentation"})

_BINARY_LABELS = ("background", "foreground")

Pair = tuple[str, Path, Path]


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return (root / "images").is_dir() or (root / "train" / "images").is_dir()


def has_masks(root: Path) -> bool:
    """Whether something beside `images/` may be its masks."""
    try:
        return any((part / "images").is_dir() and _fitting(part) for part in (root, root / "train"))
    except InputError:  # its images lie deeper
        return False


def read(root: Path, *, masks: str | None = None, labels: Sequence[str] | None = None) -> Dataset:
    """Read a folder of images and masks.

    Masks of two values, whichever they are, become classes 0 (the lower value) and 1. Masks of more values are taken
    as class indices, 255 meaning no label. Without `val/`, every fifth name is held out.

    Args:
        root: Holds `images/` and the masks, or `train/` and `val/` that do.
        masks: Name of the mask folder; found by itself where only one fits.
        labels: Class names by index; default, the lines of `labels.txt` in `root`, or ("background", "foreground") for
            masks of two values.

    Raises:
        InputError: There are no pairs, or more than one folder could hold the masks.
    """
    listed = root / "labels.txt"
    if labels is None and listed.is_file():
        labels = read_names(listed)
    parts = [part for name in ("train", "val") if ((part := root / name) / "images").is_dir()] or [root]
    found = [match(part / "images", _mask_folder(part, masks)) for part in parts]
    pairs = [pair for part_pairs, _ in found for pair in part_pairs]
    classes, names = find_classes([mask for _, _, mask in pairs], labels)
    items = [make_items(part_pairs, classes) for part_pairs, _ in found]
    train, val = items if len(items) == 2 else hold_out(items[0])
    background = 0 if len(names) == 2 or names[0] == "background" else None
    return Dataset(
        labels=names,
        palette=default_palette(len(names), background),
        train=train,
        val=val,
        background=background,
        problems=tuple(problem for _, problems in found for problem in problems),
    )


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name.

    Raises:
        InputError: The folder is missing or has no images.
    """
    if not folder.is_dir():
        raise InputError(f"[data] {folder}: no such folder")
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        if below := [path.name for path in sorted(folder.iterdir()) if path.is_dir()][:5]:
            raise InputError(f"[data] {folder}: expected images directly in it, found folders ({', '.join(below)})")
        raise InputError(f"[data] {folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return sorted(found)


def match(images: Path, masks: Path) -> tuple[list[Pair], list[str]]:
    """Pair the files of two folders by stem; a mask may carry the suffix `_mask`.

    Returns:
        (name, image, mask) sorted by name, and a line for each file without a partner.

    Raises:
        InputError: A folder is missing, or not one file of it has a partner.
    """
    problems: list[str] = []
    by_name = [_by_stem(images, problems), _by_stem(masks, problems)]
    names = sorted(by_name[0].keys() & by_name[1].keys())
    problems += [f"{path}: no mask in {masks.name}/" for name, path in by_name[0].items() if name not in by_name[1]]
    problems += [f"{path}: no image in {images.name}/" for name, path in by_name[1].items() if name not in by_name[0]]
    if not names:
        raise InputError(
            f"[data] {images.parent}: no image has a mask: "
            f"{len(by_name[0])} files in {images.name}/ and {len(by_name[1])} in {masks.name}/, no file stem in both"
        )
    return [(name, by_name[0][name], by_name[1][name]) for name in names], problems


def make_items(pairs: Iterable[Pair], classes: Mapping[int, int], colormap: Colormap | None = None) -> list[Item]:
    """Turn file pairs into items whose masks are mapped from file value to class index, see `read_class_map`."""
    return [
        Item(name, partial(decode, image), partial(read_class_map, mask, classes, colormap), image)
        for name, image, mask in pairs
    ]


def find_classes(paths: Sequence[Path], labels: Sequence[str] | None) -> tuple[dict[int, int], tuple[str, ...]]:
    """Decide from the values in mask files whether they are binary, and name the classes.

    Args:
        paths: The mask files.
        labels: Class names by index, or None to make them up.

    Returns:
        The class index of each file value, and the class names.
    """
    # A few masks are enough to see two values; only where they show more or fewer is it worth reading all.
    uses = _count_values(paths[:: max(1, len(paths) // 16)])
    if len(uses) != 2:
        uses = _count_values(paths)
    if len(labels or _BINARY_LABELS) == 2 and (labels or len(uses) <= 2):
        # Two names and more values: those of the most masks are meant, so that a stray one is found, not trained on.
        common = [value for value, _ in uses.most_common(2)]
        low, high = sorted(common) if len(common) == 2 else (0, max(common, default=0) or 255)
        return {IGNORE_INDEX: IGNORE_INDEX} | {low: 0, high: 1}, tuple(labels or _BINARY_LABELS)
    count = max((value for value in uses if value < IGNORE_INDEX), default=0) + 1
    names = tuple(labels or ("background", *(f"class {index}" for index in range(1, count))))
    return {index: index for index in range(len(names))} | {IGNORE_INDEX: IGNORE_INDEX}, names


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        first = found.setdefault(path.stem.removesuffix("_mask"), path)
        if first is not path:
            problems.append(f"{path}: {first.name} already has this name")
    return found


def _mask_folder(root: Path, name: str | None) -> Path:
    if name is not None:
        return root / name
    fitting = _fitting(root)
    preferred = [folder for folder in fitting if folder.name.startswith("mask")] or fitting
    if len(preferred) != 1:
        names = ", ".join(folder.name for folder in preferred) or "none"
        raise InputError(
            f"[data] {root}: expected one folder of masks beside images/, found {names}; "
            "name it with --masks, or masks= in Python"
        )
    return preferred[0]


def _fitting(root: Path) -> list[Path]:
    """Return the folders with images of the same stems."""
    stems = _by_stem(root / "images", []).keys()
    return [
        folder
        for folder in sorted(root.iterdir())
        if folder.is_dir()
        and folder.name != "images"
        and any(
            path.suffix.lower() in SUFFIXES and path.stem.removesuffix("_mask") in stems for path in folder.iterdir()
        )
    ]


def _count_values(paths: Sequence[Path]) -> Counter[int]:
    """In how many masks each value occurs."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return Counter(value for values in pool.map(_values_of, paths) for value in values)


def _values_of(path: Path) -> set[int]:
    try:
        return set(np.unique(read_mask(path)).tolist())
    except InputError:
        # Left to `check`, which names every bad file at once.
        return set()
