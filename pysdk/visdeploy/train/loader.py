"""Training and validation images as tensors, resized by the very function that serves."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from visdeploy.data.dataset import IGNORE_INDEX, Item, Sample
from visdeploy.preprocess import Prepared, prepare
from visdeploy.spec import Spec

CACHE_BYTES = 2 << 30

Example = tuple[Tensor, Tensor, str]
Augmentation = Callable[..., tuple[Tensor, ...]]


class Examples(TorchDataset[Example], ABC):
    """Items at network size: (3, h, w) uint8 image, what is known of it, name.

    What was decoded is kept, up to `CACHE_BYTES`. What `augment` draws depends on seed, epoch and index alone, so a
    resumed run sees what it would have seen.
    """

    def __init__(self, items: Sequence[Item], spec: Spec, augment: Augmentation | None = None, seed: int = 0) -> None:
        self.items, self.spec, self.augment, self.seed = items, spec, augment, seed
        self.epoch = 0
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        self._room = CACHE_BYTES

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        image, target = self.load(index)
        if self.augment is not None:
            torch.manual_seed(((self.seed * 10_007 + self.epoch) * 1_000_003 + index) % (1 << 63))
            image, target = self._view(self.augment, image, target)
        return image, target, self.items[index].name

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Return what views are made of: the image, and what is known of it."""
        if index not in self._cache:
            pair = self._read(self.items[index])
            size = sum(tensor.nbytes for tensor in set(pair))
            if size > self._room:
                return pair
            self._room -= size
            self._cache[index] = pair
        return self._cache[index]

    @abstractmethod
    def _read(self, item: Item) -> tuple[Tensor, Tensor]:
        """Decode what views are made of; of a held-out image that is the one view there is."""

    @abstractmethod
    def _view(self, augment: Augmentation, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return a random view of an image, and what is known of that."""

    @staticmethod
    def join(targets: Sequence[Tensor]) -> Tensor:
        """Make one tensor of what is known of a batch."""
        return torch.stack(list(targets))


class Resized(Examples, ABC):
    """Whole images at network size."""

    def _read(self, item: Item) -> tuple[Tensor, Tensor]:
        sample = item.load()
        prepared = prepare(sample.image, self.spec)
        return torch.from_numpy(prepared.pixels.transpose(2, 0, 1).copy()), self._target(sample, prepared)

    @abstractmethod
    def _target(self, sample: Sample, prepared: Prepared) -> Tensor:
        """Return what is known of an image, at network size."""


class Pairs(Resized):
    """With (h, w) uint8 class maps."""

    def _target(self, sample: Sample, prepared: Prepared) -> Tensor:
        assert sample.mask is not None
        height, width = prepared.valid
        mask = np.full(prepared.pixels.shape[:2], IGNORE_INDEX, np.uint8)
        mask[:height, :width] = cv2.resize(sample.mask, (width, height), interpolation=cv2.INTER_NEAREST)
        return torch.from_numpy(mask)

    def _view(self, augment: Augmentation, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        image, target = augment(image, target)
        return image, target


class Boxes(Resized):
    """With (N, 6) float32 rows of class, x1, y1, x2, y2 in pixels, and whether the object is ignored.

    In a batch (B, M, 6), where rows of class -1 pad.
    """

    def _target(self, sample: Sample, prepared: Prepared) -> Tensor:
        objects = sample.objects
        assert objects is not None
        (height, width), (source_height, source_width) = prepared.valid, prepared.source_size
        scale = np.array([width / source_width, height / source_height] * 2, np.float32)
        rows = np.column_stack([objects.labels, objects.xyxy * scale, objects.ignored]).astype(np.float32)
        return torch.from_numpy(rows)

    def _view(self, augment: Augmentation, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        image, boxes, rows = augment(image, target[:, 1:5], torch.arange(len(target)))
        target = target[rows]
        target[:, 1:5] = boxes
        return image, target

    @staticmethod
    def join(targets: Sequence[Tensor]) -> Tensor:
        """Pad with rows of -1."""
        return pad_sequence(list(targets), batch_first=True, padding_value=-1.0)


class MainObject(Boxes):
    """With one row of `Boxes`; where no object is marked, the image itself is it.

    A view that has lost its object is not used.
    """

    def _target(self, sample: Sample, prepared: Prepared) -> Tensor:
        if sample.objects is not None:
            return super()._target(sample, prepared)
        assert sample.label is not None
        height, width = prepared.valid
        return torch.tensor([[sample.label, 0, 0, width, height, 0]], dtype=torch.float32)

    def _view(self, augment: Augmentation, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        seen, found = super()._view(augment, image, target)
        return (seen, found) if len(found) else (image, target)


class Shuffle(Sampler[int]):
    """A new order every epoch; Lightning calls `set_epoch`, after a resume too."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.examples.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[int]:
        order = torch.Generator().manual_seed(self.examples.seed * 10_007 + self.examples.epoch)
        yield from torch.randperm(len(self.examples), generator=order).tolist()


def loaders(train: Examples, val: Examples, batch: int) -> tuple[DataLoader[Example], DataLoader[Example]]:
    """Batch both sets, the training set shuffled.

    Loading stays in the training process: with the resized set in memory there is too little work for another.
    """
    drop_last = len(train) > batch
    return (
        DataLoader(train, batch, sampler=Shuffle(train), drop_last=drop_last, collate_fn=_collate(train)),
        DataLoader(val, batch, collate_fn=_collate(val)),
    )


def _collate(examples: Examples) -> Callable[[list[Example]], tuple[Tensor, Tensor, list[str]]]:
    def collate(batch: list[Example]) -> tuple[Tensor, Tensor, list[str]]:
        images, targets, names = zip(*batch, strict=True)
        return torch.stack(images), examples.join(targets), list(names)

    return collate


def class_frequencies(train: Examples, num_classes: int) -> Tensor:
    """Return the share of each class among the labelled training pixels, (num_classes,) float32."""
    counts = np.zeros(num_classes, np.int64)
    for index in range(len(train)):
        mask = train.load(index)[1].numpy()
        counts += np.bincount(mask[mask != IGNORE_INDEX], minlength=num_classes)
    return torch.from_numpy(counts / max(1, counts.sum())).float()
