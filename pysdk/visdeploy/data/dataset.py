"""What every reader returns: named images with masks, objects or a label, decoded when asked for."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.data.degrade import Degrade
from visdeploy.errors import InputError

IGNORE_INDEX = 255

Image = NDArray[np.uint8]
ClassMap = NDArray[np.uint8]
Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Objects:
    """The objects that are marked in one image.

    Attributes:
        xyxy: (N, 4) float32 corners x1, y1, x2, y2 in pixels: a box covers x1 <= x < x2, so that its width is x2 - x1.
        labels: (N,) int64 class index of each; 0 is the background and never occurs.
        ignored: (N,) bool: difficult ones, and crowds; training leaves them out, and evaluation neither rewards nor
            punishes them.
    """

    xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """One decoded image with what is known of it.

    Attributes:
        name: What messages and submissions call it.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class index, `IGNORE_INDEX` where there is no label; None where the data has no masks.
        objects: What is marked in the image, or None where the data has no boxes.
        label: Class index of the image as a whole, or None where the data has none.
        target: (H, W, 3) uint8 RGB, the picture that restoration should make of `image`, enlarged as the data say; None
            where there is nothing to restore.
    """

    name: str
    image: Image
    mask: ClassMap | None = None
    objects: Objects | None = None
    label: int | None = None
    target: Image | None = None


@dataclass(frozen=True)
class Item:
    """One image, not yet decoded. Each `load` function raises `InputError` on a bad file.

    `size` is the height and width that its objects are marked in; the image must have it. `enlarge` is how many times
    larger than the image its target is.
    """

    name: str
    load_image: Callable[[], Image]
    load_mask: Callable[[], ClassMap] | None = None
    image_path: Path | None = None
    load_objects: Callable[[], Objects] | None = None
    label: int | None = None
    size: tuple[int, int] | None = None
    load_target: Callable[[], Image] | None = None
    enlarge: int = 1

    def load(self) -> Sample:
        """Decode the image, and read what is known of it.

        Raises:
            InputError: A file is unreadable, or the image has another size than its mask, annotation or target says.
        """
        image = self.load_image()
        mask = self.load_mask() if self.load_mask else None
        target = self.load_target() if self.load_target else None
        _check_sizes(self, image, mask, target)
        return Sample(self.name, image, mask, self.load_objects() if self.load_objects else None, self.label, target)


@dataclass(frozen=True)
class Dataset:
    """The training and validation images of one folder, and what their class indices mean.

    Attributes:
        labels: Class names by index. A binary task has two, its background first; where objects are marked, the
            background is first as well. Where pictures are to be restored, there are none.
        palette: RGB colour of each label.
        train: Images to learn from.
        val: Images held out.
        background: Index that marks "nothing", or None where every class is real.
        problems: What the reader already saw is wrong, such as an image without a mask; `check` reports it.
        notes: What the reader left out by rule, such as boxes without area; no obstacle to training.
        degrade: What makes of a picture one to restore, see `degrade.Degrade`; None where pairs are given, or nothing
            is to be restored.
    """

    labels: tuple[str, ...]
    palette: Palette
    train: Sequence[Item]
    val: Sequence[Item]
    background: int | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    degrade: Degrade | None = None

    @property
    def enlarge(self) -> int:
        """How many times larger than the images their targets are."""
        return next((item.enlarge for item in (*self.train, *self.val)), 1)

    def __repr__(self) -> str:
        return f"Dataset({len(self.labels)} labels, {len(self.train)} train, {len(self.val)} val)"


def hold_out(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Split into (train, val), every fifth name held out: the same pairs on every machine."""
    held_out = {item.name for item in sorted(items, key=lambda item: item.name)[::5]}
    return (
        [item for item in items if item.name not in held_out],
        [item for item in items if item.name in held_out],
    )


def overlap(root: Path, train: Sequence[Item], val: Sequence[Item]) -> list[str]:
    """Return a note, where lists of both name the same images, of how many are learnt from and held out too."""
    shared = len({item.image_path for item in train} & {item.image_path for item in val})
    line = f"{root}: {shared} of the {len(val)} held-out images are trained on too, which flatters the model"
    return [line] if shared else []


def check(dataset: Dataset) -> list[str]:
    """Decode everything once and describe all that is wrong, one line per fault.

    Found are files that cannot be read, label values outside the classes, images of another size than their masks,
    annotations or targets say, and files without a partner; where all of that is well, that there are no images,
    classes or objects to learn. An empty list means training for a task that these data are for will not stop on them.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        faults = [line for lines in pool.map(_faults, [*dataset.train, *dataset.val]) for line in lines]
    return list(dict.fromkeys([*dataset.problems, *faults])) or _lacks(dataset)


def check_or_raise(dataset: Dataset, *, limit: int = 20) -> None:
    """Run `check` and raise one error that lists the faults, at most `limit` of them.

    Raises:
        InputError: At least one fault was found.
    """
    faults = check(dataset)
    if not faults:
        return
    listed = faults[:limit]
    if len(faults) > limit:
        listed.append(f"and {len(faults) - limit} more")
    count = len(faults)
    raise InputError(
        "\n  ".join([f"[data] {count} problem{'s' if count > 1 else ''} to mend before training:", *listed])
    )


def _lacks(dataset: Dataset) -> list[str]:
    """What a data set without other faults has not enough of."""
    items = [*dataset.train, *dataset.val]
    lines = []
    if not dataset.train or not dataset.val:
        count = f"{len(dataset.train)} images to train on and {len(dataset.val)} held out"
        lines.append(f"expected some of each, got {count}")
    # Whether one class is enough for images that have one as a whole, the task decides.
    if len(dataset.labels) < 2 and any(item.label is None and (item.load_mask or item.load_objects) for item in items):
        lines.append(f"expected at least 2 classes, with the background, got {', '.join(dataset.labels) or 'none'}")
    boxes = [item.load_objects for item in dataset.train if item.load_objects]
    if boxes and all(load().ignored.all() for load in boxes):
        lines.append(f"expected objects to learn from, got none in {len(boxes)} images")
    return lines


def _faults(item: Item) -> list[str]:
    known: list[Any] = []
    faults = []
    for load in (item.load_image, item.load_mask, item.load_target, item.load_objects):
        try:
            known.append(load() if load is not None else None)
        except InputError as error:
            faults.append(str(error))
    if not faults:
        try:
            _check_sizes(item, *known[:3])
        except InputError as error:
            faults.append(str(error))
    return faults


def _check_sizes(item: Item, image: Image, mask: ClassMap | None, target: Image | None) -> None:
    height, width = image.shape[:2]
    if mask is not None and mask.shape != (height, width):
        raise InputError(
            f"{item.name}: image and mask differ in size, {width}x{height} "
            f"against {mask.shape[1]}x{mask.shape[0]} (width x height)"
        )
    if item.size is not None and item.size != (height, width):
        raise InputError(
            f"{item.name}: the image is {width}x{height}, but its annotation says {item.size[1]}x{item.size[0]} "
            "(width x height)"
        )
    expected = (height * item.enlarge, width * item.enlarge)
    if target is not None and target.shape[:2] != expected:
        raise InputError(
            f"{item.name}: the clean picture is {target.shape[1]}x{target.shape[0]}, expected "
            f"{expected[1]}x{expected[0]}, {item.enlarge} times the bad one (width x height)"
        )
