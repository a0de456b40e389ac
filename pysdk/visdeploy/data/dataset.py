"""What every reader returns: named image and mask pairs, decoded when asked for."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError

IGNORE_INDEX = 255

Image = NDArray[np.uint8]
ClassMap = NDArray[np.uint8]
Boxes = NDArray[np.float32]
BoxLabels = NDArray[np.int64]
Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Sample:
    """One decoded pair.

    Attributes:
        name: What messages and submissions call it.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class index, `IGNORE_INDEX` where there is no label.
        boxes: (N, 4) float32 corners x1, y1, x2, y2 in pixels, or None where the data has no boxes.
        box_labels: (N,) int64 class index of each box, or None with `boxes`.
    """

    name: str
    image: Image
    mask: ClassMap
    boxes: Boxes | None = None
    box_labels: BoxLabels | None = None


@dataclass(frozen=True)
class Item:
    """One pair, not yet decoded. Each `load` function raises `InputError` on a bad file."""

    name: str
    load_image: Callable[[], Image]
    load_mask: Callable[[], ClassMap]
    image_path: Path | None = None
    load_boxes: Callable[[], tuple[Boxes, BoxLabels]] | None = None

    def load(self) -> Sample:
        """Decode image, mask and, where there are some, boxes.

        Raises:
            InputError: A file is unreadable, or image and mask differ in size.
        """
        image, mask = self.load_image(), self.load_mask()
        _check_sizes(self.name, image, mask)
        boxes, box_labels = self.load_boxes() if self.load_boxes else (None, None)
        return Sample(self.name, image, mask, boxes, box_labels)


@dataclass(frozen=True)
class Dataset:
    """The training and validation pairs of one folder, and what their class indices mean.

    Attributes:
        labels: Class names by index. A binary task has two, its background first.
        palette: RGB colour of each label.
        train: Pairs to learn from.
        val: Pairs held out.
        background: Index that marks "nothing", or None where every class is real.
        problems: What the reader already saw is wrong, such as an image without a mask; `check` reports it.
    """

    labels: tuple[str, ...]
    palette: Palette
    train: Sequence[Item]
    val: Sequence[Item]
    background: int | None = None
    problems: tuple[str, ...] = ()


def hold_out(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Split into (train, val), every fifth name held out: the same pairs on every machine."""
    held_out = {item.name for item in sorted(items, key=lambda item: item.name)[::5]}
    return (
        [item for item in items if item.name not in held_out],
        [item for item in items if item.name in held_out],
    )


def check(dataset: Dataset) -> list[str]:
    """Decode everything once and describe all that is wrong, one line per fault.

    Found are files that cannot be read, label values outside the classes, images and masks of different size, and
    images or masks without a partner. An empty list means training will not stop on its data.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        faults = pool.map(_faults, [*dataset.train, *dataset.val])
        return [*dataset.problems, *(line for lines in faults for line in lines)]


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


def _faults(item: Item) -> list[str]:
    arrays, faults = [], []
    for load in (item.load_image, item.load_mask):
        try:
            arrays.append(load())
        except InputError as error:
            faults.append(str(error))
    if not faults:
        try:
            _check_sizes(item.name, *arrays)
        except InputError as error:
            faults.append(str(error))
    return faults


def _check_sizes(name: str, image: Image, mask: ClassMap) -> None:
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"{name}: image and mask differ in size, {image.shape[1]}x{image.shape[0]} "
            f"against {mask.shape[1]}x{mask.shape[0]} (width x height)"
        )
