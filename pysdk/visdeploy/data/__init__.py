"""Folders of images and labels, read through one interface.

A file per format turns a folder into a `Dataset`: named pairs that are decoded only when asked for.
"""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any, get_args

from visdeploy.data import boxes_csv, camvid, carvana, coco, coco_masks, folder, photos, voc, voc_masks, yolo
from visdeploy.data.colormap import classes_of, colors_of, voc_colormap
from visdeploy.data.dataset import Dataset, Item, Objects, Sample, check, check_or_raise
from visdeploy.data.degrade import Degrade
from visdeploy.data.largest import largest_object, largest_objects
from visdeploy.data.names import check_names
from visdeploy.errors import InputError
from visdeploy.kinds import check_arguments
from visdeploy.spec import Task

__all__ = [
    "Dataset",
    "Degrade",
    "Item",
    "Objects",
    "Sample",
    "check",
    "check_or_raise",
    "classes_of",
    "colors_of",
    "largest_object",
    "largest_objects",
    "open",
    "voc_colormap",
]

# The most telling layout first: the plain folder asks for the least. A format that is read in two ways is so by task.
_READERS: tuple[tuple[str, Any], ...] = (
    ("camvid", camvid),
    ("carvana", carvana),
    ("voc", voc_masks),
    ("coco", coco_masks),
    ("folder", folder),
    ("voc", voc),
    ("coco", coco),
    ("yolo", yolo),
    ("boxes_csv", boxes_csv),
    ("photos", photos),
)
_NAMES = {reader: name for name, reader in _READERS}

# What a file that describes a data set is, by its extension: the format, and the option of its reader that names it.
_FILES = {
    ".json": ("coco", "json"),
    ".yaml": ("yolo", "yaml"),
    ".yml": ("yolo", "yaml"),
    ".csv": ("boxes_csv", "table"),
}


def open(path: str | os.PathLike[str], *, format: str = "auto", task: str | None = None, **options: object) -> Dataset:
    """Read a folder of images and labels, without decoding the images yet.

    Args:
        path: The folder; or the JSON, YAML or CSV in it that describes the boxes, where there are several.
        format: "folder", "carvana" or "camvid" for masks; "voc" or "coco" for masks or boxes, by the task; "yolo" or
            "boxes_csv" for boxes; "photos" for pictures to restore; or "auto" to tell by what is in the folder.
        task: What it is for: "segmentation", "detection", "localization", "classification" or "restoration"; the third
            and fourth take the largest object of each image. None takes what the folder has, masks before boxes; or
            pictures to restore where `degrade=` or `clean=` is given.
        options: Passed to the reader of that format, such as `masks=` and `labels=` of `folder.read`.

    Raises:
        InputError: The folder is missing, empty, of no known format, or has not what the task needs; its format has no
            such option; or two classes have one name, or one has none.

    Example:
        >>> dataset = open("nuclei", masks="masks_union", labels=("background", "nucleus"))  # doctest: +SKIP
        >>> dataset = open("cells", task="detection")  # doctest: +SKIP
        >>> dataset = open("holiday", task="restoration", degrade=Degrade(scale=2))  # doctest: +SKIP
    """
    check_arguments("data.open", open, {"path": path, "format": format, "task": task})
    root = Path(path)
    if task is None and ("degrade" in options or "clean" in options):
        task = "restoration"
    if task is not None and task not in get_args(Task):
        raise InputError(f"[data.open] task: expected {', '.join(get_args(Task))} or None, got {task!r}")
    try:
        if format == "auto" and root.suffix in _FILES and root.is_file():
            format, option = _FILES[root.suffix]
            folder_above = root.parent.parent if root.parent.name == "annotations" else root.parent
            root, options = folder_above, {**options, option: str(root.relative_to(folder_above))}
        if not root.is_dir():
            raise InputError(f"[data.open] path: expected a folder, got {root}")
        dataset = _read(root, format, task, options)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"[data.open] path: {root} cannot be read: {error}") from error
    if task in ("detection", "localization") and not all(item.load_objects for item in (*dataset.train, *dataset.val)):
        raise InputError(f"[data.open] path: {root} names classes of images, but no boxes, which {task} needs")
    return largest_objects(dataset) if task in ("localization", "classification") else dataset


def _read(root: Path, format: str, task: str | None, options: dict[str, object]) -> Dataset:
    reader = _detect(root, task, options) if format == "auto" else _named(format, root, task)
    known = list(signature(reader.read).parameters)[1:]
    if unknown := sorted(options.keys() - known):
        takes = f"takes {', '.join(known)}" if known else "has no options"
        raise InputError(f"[data.open] {unknown[0]}: the format {_NAMES[reader]!r}, which {root} has, {takes}")
    options = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    check_arguments("data.open", reader.read, options)
    if options.get("labels") is not None and not options["labels"]:
        raise InputError("[data.open] labels: expected the names of the classes, got none")
    dataset: Dataset = reader.read(root, **options)
    check_names(dataset.labels, root)
    return dataset


def _named(format: str, root: Path, task: str | None) -> Any:
    readers = [reader for reader, name in _NAMES.items() if name == format]
    if not readers:
        near = get_close_matches(format, _NAMES.values(), n=1, cutoff=0.0)[0]
        known = ", ".join(dict.fromkeys(_NAMES.values()))
        raise InputError(f"[data.open] format: no format {format!r}; did you mean {near!r}? ({known})")
    fitting = [reader for reader in readers if task is None or task in reader.TASKS]
    if not fitting:
        raise InputError(f"[data.open] format: {format!r} is for {_tasks(readers)}, not for {task}")
    return next((reader for reader in fitting if reader.matches(root)), fitting[-1])


def _detect(root: Path, task: str | None, options: dict[str, object]) -> Any:
    if task == "restoration":
        return photos
    # Every folder of images is one of photographs: it is read so only where something is to be restored.
    readers = [reader for reader in _NAMES if reader is not photos]
    found = [reader for reader in readers if reader.matches(root)]
    if found[:1] == [folder] and "masks" not in options and not folder.has_masks(root):
        # Bare images are of no use to what needs no masks.
        found = found[1:] or ([folder] if task in (None, "segmentation") else [])
        bare = found in ([], [folder])
    else:
        bare = not found
    fitting = [reader for reader in found if task is None or task in reader.TASKS]
    if task != "segmentation" and (bare or not fitting):
        for reader in (coco, yolo, boxes_csv) if bare else (coco,):
            reader.explain(root)
    if fitting:
        return fitting[0]
    if not any(root.iterdir()):
        raise InputError(f"[data.open] path: {root} is an empty folder")
    if found:
        names = ", ".join(_NAMES[reader] for reader in found)
        raise InputError(f"[data.open] path: {root} has no labels for {task}, only for {_tasks(found)} ({names})")
    layouts = "; ".join(reader.LAYOUT for reader in readers if task is None or task in reader.TASKS)
    raise InputError(f"[data.open] path: {root} has none of the known layouts: {layouts}")


def _tasks(readers: Iterable[Any]) -> str:
    return ", ".join(sorted({task for reader in readers for task in reader.TASKS}))
