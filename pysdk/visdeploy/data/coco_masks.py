"""COCO's semantic masks: PNGs of category ids in `semantic/`, and the names in the panoptic JSON."""

from collections.abc import Sequence
from pathlib import Path

from visdeploy.data import coco, folder
from visdeploy.data.dataset import IGNORE_INDEX, Dataset, hold_out
from visdeploy.data.photos import split_folders
from visdeploy.errors import InputError, did_you_mean
from visdeploy.spec import default_palette

LAYOUT = "a COCO panoptic JSON, images/ and semantic/*.png of its category ids"
TASKS = frozenset({"segmentation"})

_MASKS = "semantic"
_UNLABELLED = 0
_BACKGROUND = "background"


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return (root / _MASKS).is_dir() and bool(coco.panoptic_files(root))


def read(
    root: Path,
    *,
    json: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    labels: Sequence[str] | None = None,
) -> Dataset:
    """Read masks of category ids; id 0 means no label.

    Classes are the categories in the order of their ids, which have gaps. The split is `train*/` and `val*/` in the
    mask folder, with the same names in that of the images; else every fifth name is held out.

    Args:
        root: Holds the JSON, directly or in `annotations/`, and the folders.
        json: Path of the JSON below `root`; default, all that are panoptic there, which must have the same categories.
        images: Folder of the images; default, `images`.
        masks: Folder of the masks, PNGs of 8 or 16 bits; default, `semantic`.
        labels: The categories to keep, by name, in the order wanted; the others become "background" where that is the
            first of them, else pixels without label.

    Raises:
        InputError: A folder or the JSON is missing, or the JSON is not what is expected.
    """
    ids = _categories(root, json)
    if name := ids.get(_UNLABELLED):
        raise InputError(
            f"[data] {root}: the category {name!r} has the id {_UNLABELLED}, which means no label in masks; "
            "expected ids from 1"
        )
    names = tuple(labels if labels is not None else ids.values())
    background = 0 if names[:1] == (_BACKGROUND,) else None
    if unknown := [name for name in names if name not in (*ids.values(), _BACKGROUND)]:
        hint = did_you_mean(unknown[0], ids.values()) or f"; its JSON has {', '.join(ids.values())}"
        raise InputError(f"[data] labels: {unknown[0]!r} is no category of {root}{hint}")
    others = IGNORE_INDEX if background is None else background
    index = {name: number for number, name in enumerate(names)}
    classes = {number: index.get(name, others) for number, name in ids.items()} | {_UNLABELLED: IGNORE_INDEX}
    base = root / (masks or _MASKS)
    problems: list[str] = []
    parts = []
    for part in split_folders(base):
        pairs, unmatched = folder.match(root / (images or "images") / part.relative_to(base), part)
        parts.append(folder.make_items(pairs, classes))
        problems += unmatched
    train, val = parts if len(parts) == 2 else hold_out(parts[0])
    return Dataset(names, default_palette(len(names), background), train, val, background, tuple(problems))


def _categories(root: Path, json: str | None) -> dict[int, str]:
    files = [root / json] if json is not None else coco.panoptic_files(root)
    if not files:
        raise InputError(
            f"[data] {root}: expected a panoptic JSON that names the ids in {_MASKS}/, directly or in annotations/, "
            "for segmentation of COCO; its boxes need --task detection"
        )
    found = [coco.category_names(coco.load(path), path) for path in files]
    for path, names in zip(files, found, strict=True):
        if names != found[0]:
            raise InputError(
                f"[data] {path}: expected the categories of {files[0].name}, got others; name one with json="
            )
    return found[0]
