"""What readers of boxes share: one rule for which boxes count, one way to make a data set of what they found.

Note [Which boxes count]. A box is dropped, and a note says so, if a corner is not finite, if it has no area (x2 <= x1
or y2 <= y1), or if it lies wholly outside its image. A box that reaches beyond its image is clipped to it; one note
counts those that lose more than half a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from warnings import catch_warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visdeploy.data.dataset import Dataset, Item, Objects, hold_out, overlap
from visdeploy.data.names import read_names
from visdeploy.errors import InputError, requires
from visdeploy.image import SUFFIXES, decode
from visdeploy.spec import default_palette

BACKGROUND = "background"
BOX_TASKS = frozenset({"detection", "localization", "classification"})


@dataclass(frozen=True)
class Marked:
    """One image as its annotation describes it.

    Attributes:
        name: What messages call it.
        path: Its file.
        size: Height and width that the corners are relative to.
        xyxy: (N, 4) corners in pixels, the second exclusive; any numbers.
        labels: (N,) class index of each, from 1.
        ignored: (N,) whether it is a difficult one or a crowd.
    """

    name: str
    path: Path
    size: tuple[int, int]
    xyxy: ArrayLike
    labels: Sequence[int]
    ignored: Sequence[bool]


@dataclass
class Split:
    """The images of one part of a data set, or of all of it where nothing says which are held out."""

    images: list[Marked] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_dataset(root: Path, labels: Sequence[str], splits: Sequence[Split]) -> Dataset:
    """Apply the rule of Note [Which boxes count], and hold every fifth name out where there is one split.

    Args:
        root: The folder, for messages.
        labels: Class names of the objects by index, the background first.
        splits: One, or what to learn from and what is held out.

    Raises:
        InputError: There is no image at all.
    """
    problems = [problem for split in splits for problem in (*split.problems, *_repeated(split.images))]
    if not any(split.images for split in splits):
        raise InputError(f"[data] {root}: no image with boxes could be read: {'; '.join(problems[:3]) or 'none named'}")
    notes = [note for split in splits for note in split.notes]
    clipped: dict[str, int] = {}
    parts = [[_item(image, labels, notes, clipped) for image in split.images] for split in splits]
    if clipped:
        notes.append(
            f"{root}: {sum(clipped.values())} boxes in {len(clipped)} images reach beyond the image, and are clipped"
        )
    train, val = parts if len(parts) == 2 else hold_out(parts[0])
    notes = [*overlap(root, train, val), *notes]
    return Dataset(tuple(labels), default_palette(len(labels), 0), train, val, 0, _once(problems), _once(notes))


def keep_valid(xyxy: ArrayLike, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Apply the rule of Note [Which boxes count] to the boxes of one image.

    Args:
        xyxy: (N, 4) corners in pixels.
        size: Height and width of the image.

    Returns:
        (N, 4) float32, each clipped to the image, and (N,) why each is dropped: empty for those that count.
    """
    with np.errstate(over="ignore"):
        corners = np.asarray(xyxy, np.float64).reshape(-1, 4).astype(np.float32)
    x1, y1, x2, y2 = corners.T
    height, width = size
    reasons = np.select(
        [
            ~np.isfinite(corners).all(1),
            (x2 <= x1) | (y2 <= y1),
            (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height),
        ],
        ["a corner is not finite", "it has no area", "it lies outside the image"],
        default="",
    )
    return np.clip(corners, 0, np.array([width, height] * 2, np.float32)), reasons


def find_image(folder: Path, stem: str) -> Path | None:
    """Return the image of that stem, whatever its extension, or None."""
    for suffix in (".jpg", ".png", ".jpeg", ".JPG", *sorted(SUFFIXES)):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    return None


def read_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image file as it stands upright, from its header alone.

    Raises:
        InputError: The file is not an image.
        MissingDependencyError: Pillow is not installed.
    """
    with requires(f"{path}: sizes of images need Pillow", "train"):
        from PIL import Image as PillowImage
    try:
        with catch_warnings(category=PillowImage.DecompressionBombWarning, action="ignore"):
            picture = PillowImage.open(path)
        with picture:
            width, height = picture.size
            # To look for it in a PNG, Pillow would decode all of it; `check` finds such a file by its size.
            turned = picture.format != "PNG" and picture.getexif().get(0x0112) in (5, 6, 7, 8)
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise InputError(f"{path}: not an image, or a damaged one") from error
    return (width, height) if turned else (height, width)


def with_background(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names with the background first."""
    return tuple(names) if names and names[0] == BACKGROUND else (BACKGROUND, *names)


def given_labels(root: Path, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the class names that were asked for, or those in `labels.txt`, with the background first; else None."""
    listed = root / "labels.txt"
    if labels is None and listed.is_file():
        labels = read_names(listed)
    return None if labels is None else with_background(labels)


def _item(image: Marked, labels: Sequence[str], notes: list[str], clipped: dict[str, int]) -> Item:
    before = np.asarray(image.xyxy, np.float64).reshape(-1, 4)
    corners, reasons = keep_valid(before, image.size)
    kept = reasons == ""
    for index in np.flatnonzero(~kept).tolist():
        shown = ", ".join(f"{value:g}" for value in before[index])
        notes.append(f"{image.name}: {labels[image.labels[index]]} at ({shown}) is dropped: {reasons[index]}")
    beyond = int((np.abs(corners[kept] - before[kept]).max(1, initial=0) > 0.5).sum())
    if beyond:
        clipped[image.name] = beyond
    objects = Objects(corners[kept], np.array(image.labels, np.int64)[kept], np.array(image.ignored, bool)[kept])
    return Item(
        image.name,
        partial(decode, image.path),
        image_path=image.path,
        load_objects=partial(_copy, objects),
        size=image.size,
    )


def _once(lines: Sequence[str]) -> tuple[str, ...]:
    """An image in both parts brings its lines twice."""
    return tuple(dict.fromkeys(lines))


def _copy(objects: Objects) -> Objects:
    return Objects(objects.xyxy.copy(), objects.labels.copy(), objects.ignored.copy())


def _repeated(images: Sequence[Marked]) -> list[str]:
    first: dict[str, Marked] = {}
    return [
        f"{image.path}: {first[image.name].path} already has this name"
        for image in images
        if first.setdefault(image.name, image) is not image
    ]
