"""Training and validation pairs as tensors, resized by the very function that serves."""

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from visdeploy.data.dataset import IGNORE_INDEX, Item
from visdeploy.preprocess import prepare
from visdeploy.spec import Spec

CACHE_BYTES = 2 << 30

Example = tuple[Tensor, Tensor, str]
Augmentation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Pairs(TorchDataset[Example]):
    """Items at network size: (3, h, w) uint8 image, (h, w) uint8 class map, name.

    Decoding is done once where the resized set fits into `CACHE_BYTES`. What `augment` draws depends on seed, epoch and
    index alone, so a resumed run sees what it would have seen.
    """

    def __init__(self, items: Sequence[Item], spec: Spec, augment: Augmentation | None = None, seed: int = 0) -> None:
        self.items, self.spec, self.augment, self.seed = items, spec, augment, seed
        self.epoch = 0
        fits = len(items) * spec.size[0] * spec.size[1] * 4 <= CACHE_BYTES
        self._cache: dict[int, tuple[Tensor, Tensor]] | None = {} if fits else None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        image, mask = self._load(index)
        if self.augment is not None:
            torch.manual_seed((self.seed * 10_007 + self.epoch) * 1_000_003 + index)
            image, mask = self.augment(image, mask)
        return image, mask, self.items[index].name

    def _load(self, index: int) -> tuple[Tensor, Tensor]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        sample = self.items[index].load()
        prepared = prepare(sample.image, self.spec)
        height, width = prepared.valid
        mask = np.full(prepared.pixels.shape[:2], IGNORE_INDEX, np.uint8)
        mask[:height, :width] = cv2.resize(sample.mask, (width, height), interpolation=cv2.INTER_NEAREST)
        pair = torch.from_numpy(prepared.pixels.transpose(2, 0, 1).copy()), torch.from_numpy(mask)
        if self._cache is not None:
            self._cache[index] = pair
        return pair


class Shuffle(Sampler[int]):
    """A new order every epoch; Lightning calls `set_epoch`, after a resume too."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.pairs.epoch = epoch

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[int]:
        order = torch.Generator().manual_seed(self.pairs.seed * 10_007 + self.pairs.epoch)
        yield from torch.randperm(len(self.pairs), generator=order).tolist()


def loaders(train: Pairs, val: Pairs, batch: int) -> tuple[DataLoader[Example], DataLoader[Example]]:
    """Batch both sets, the training set shuffled.

    Loading stays in the training process: with the resized set in memory there is too little work for another.
    """
    drop_last = len(train) > batch
    return DataLoader(train, batch, sampler=Shuffle(train), drop_last=drop_last), DataLoader(val, batch)


def class_frequencies(train: Pairs, num_classes: int) -> Tensor:
    """Return the share of each class among the labelled training pixels, (num_classes,) float32."""
    counts = np.zeros(num_classes, np.int64)
    for index in range(len(train)):
        mask = train._load(index)[1].numpy()
        counts += np.bincount(mask[mask != IGNORE_INDEX], minlength=num_classes)
    return torch.from_numpy(counts / max(1, counts.sum())).float()
