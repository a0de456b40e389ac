"""Training at the image's own scale: random crops of network size, and of held-out images the middle one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visdeploy.data.dataset import Dataset, Item
from visdeploy.data.degrade import Degrade
from visdeploy.errors import InputError
from visdeploy.preprocess import prepare
from visdeploy.spec import Spec
from visdeploy.train.loader import Augmentation, Examples

OWN_SCALE = ("tile", "native")
"""The values of `Spec.resize` with which the network sees images at their own scale."""

_NAMED = 10


class MaskCrops(Examples):
    """With (h, w) uint8 class maps."""

    def _read(self, item: Item) -> tuple[Tensor, Tensor]:
        sample = item.load()
        assert sample.mask is not None
        pair = _tensor(sample.image), torch.from_numpy(np.array(sample.mask))
        return pair if self.augment else _middle(*pair, self.spec.size)

    def _view(self, augment: Augmentation, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        image, target = augment(*_crop(image, target, self.spec.size, torch.rand(2).tolist()))
        return image, target


class PictureCrops(Examples):
    """With (3, h, w) uint8 pictures that are to be restored.

    Args:
        items: As in `Examples`.
        spec: Likewise.
        augment: Likewise; it moves bad and clean picture alike.
        seed: Likewise.
        degrade: Makes a new bad picture of each view that is learnt from; None takes those that the items have. What is
            held out always has its own.
    """

    def __init__(
        self,
        items: Sequence[Item],
        spec: Spec,
        augment: Augmentation | None = None,
        seed: int = 0,
        degrade: Degrade | None = None,
    ) -> None:
        super().__init__(items, spec, augment, seed)
        self.degrade = degrade

    def _read(self, item: Item) -> tuple[Tensor, Tensor]:
        assert item.load_target is not None
        clean = _tensor(item.load_target())
        if self.augment and self.degrade is not None:
            return clean, clean
        image = _tensor(item.load_image())
        if self.augment:
            return image, clean
        image, clean = _middle(image, clean, self.spec.size)
        return self._enlarged(image), clean

    def _view(self, augment: Augmentation, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        image, target = augment(*_crop(image, target, self.spec.size, torch.rand(2).tolist()))
        if self.degrade is not None:
            image = _tensor(self.degrade(_pixels(target), int(torch.randint(1 << 31, ()))))
        return self._enlarged(image), target

    def _enlarged(self, image: Tensor) -> Tensor:
        return _tensor(prepare(_pixels(image), self.spec).pixels)


def large_enough(dataset: Dataset, spec: Spec) -> Dataset:
    """Return the images that are at least as large as the crop, and name the others in a note.

    Raises:
        InputError: None is, of those to learn from or of those held out; or the network cannot take such a crop.
    """
    height, width = spec.size
    if wrong := [unit for unit in (spec.divisor, spec.enlarge) if height % unit or width % unit]:
        raise InputError(f"[train] size: expected multiples of {wrong[0]} for crops, got {width}x{height}")
    kept, small = [], []
    for part, which in ((dataset.train, "train on"), (dataset.val, "hold out")):
        with ThreadPoolExecutor(max_workers=4) as pool:
            sizes = list(pool.map(_size, part))
        fits = [size[0] >= height and size[1] >= width for size in sizes]
        if not any(fits):
            largest = max(range(len(part)), key=lambda index: min(sizes[index]))
            raise InputError(
                f"[train] size: crop larger than the images: expected some of at least {width}x{height} to {which}, "
                f"and the largest, {part[largest].name}, has {sizes[largest][1]}x{sizes[largest][0]} (width x height)"
            )
        kept.append([item for item, fit in zip(part, fits, strict=True) if fit])
        small += [
            f"{item.name} ({size[1]}x{size[0]})" for item, size, fit in zip(part, sizes, fits, strict=True) if not fit
        ]
    if not small:
        return dataset
    more = f" and {len(small) - _NAMED} more" if len(small) > _NAMED else ""
    note = f"left out, as smaller than the crop of {width}x{height}: {', '.join(small[:_NAMED])}{more}"
    return replace(dataset, train=kept[0], val=kept[1], notes=(*dataset.notes, note))


def _size(item: Item) -> tuple[int, int]:
    height, width = (item.load_target or item.load_image)().shape[:2]
    return height, width


def _crop(image: Tensor, target: Tensor, size: tuple[int, int], where: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return one part of both, of `size` in the target, which may be a whole number of times larger than the image.

    Args:
        image: (3, H, W).
        target: (..., k * H, k * W).
        size: Height and width, multiples of k.
        where: In 0..1, from the topmost and leftmost part to the last.
    """
    ratio = target.shape[-1] // image.shape[-1]
    slices, enlarged = [], []
    for side, length, share in zip(size, image.shape[-2:], where, strict=True):
        start = int(share * (length - side // ratio + 1))
        slices.append(slice(start, start + side // ratio))
        enlarged.append(slice(start * ratio, start * ratio + side))
    return image[:, slices[0], slices[1]], target[..., enlarged[0], enlarged[1]]


def _middle(image: Tensor, target: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the middle part as copies, so that the whole need not be kept."""
    image, target = _crop(image, target, size, (0.5, 0.5))
    return image.clone(), target.clone()


def _tensor(picture: NDArray[Any]) -> Tensor:
    """Return (3, H, W) of (H, W, 3), a copy."""
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())


def _pixels(picture: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture.numpy().transpose(1, 2, 0))
