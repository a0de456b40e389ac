"""What every reader returns: named image and mask pairs, decoded when indexed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255

Image = NDArray[np.uint8]
ClassMap = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One decoded pair.

    Attributes:
        name: What messages and submissions call it.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 class index, `IGNORE_INDEX` where there is no label.
    """

    name: str
    image: Image
    mask: ClassMap


@dataclass(frozen=True)
class Item:
    """One pair of files, not yet decoded."""

    name: str
    load_image: Callable[[], Image]
    load_mask: Callable[[], ClassMap]
    image_path: Path | None = None

    def load(self) -> Sample:
        """Decode both files."""
        return Sample(self.name, self.load_image(), self.load_mask())


@dataclass(frozen=True)
class Dataset:
    """The training and validation pairs of one folder, and what their class indices mean.

    Attributes:
        labels: Class names by index. A binary task has two, its background first.
        palette: RGB colour of each label.
        background: Index that marks "nothing", or None where every class is real.
        train: Pairs to learn from.
        val: Pairs held out.
    """

    labels: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    train: Sequence[Item]
    val: Sequence[Item]
    background: int | None = None
    problems: tuple[str, ...] = field(default=())
