"""Learning a class for every pixel."""

from typing import Any

from torch import Tensor, nn

from visdeploy.data import Dataset
from visdeploy.data.augment import Augment
from visdeploy.errors import InputError
from visdeploy.metrics import Confusion
from visdeploy.train.crops import OWN_SCALE, MaskCrops
from visdeploy.train.loader import Augmentation, Examples, Pairs, class_frequencies
from visdeploy.train.losses import binary_loss, multiclass_loss
from visdeploy.train.options import TrainOptions
from visdeploy.train.task import Task


class SegmentationTask(Task):
    """Cross-entropy and Dice; measured by Dice and IoU over every pixel."""

    examples = Pairs
    reported = ("accuracy",)
    class_weights: Tensor | None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("class_weights", None, persistent=False)

    @classmethod
    def select(cls, dataset: Dataset, options: TrainOptions) -> Dataset:
        """Return all of it, if it has masks."""
        if not all(item.load_mask for item in (*dataset.train, *dataset.val)):
            raise InputError("[train] data: expected a mask for every image, as the task is segmentation")
        return dataset

    @classmethod
    def architecture(cls, dataset: Dataset, options: TrainOptions) -> dict[str, Any]:
        """One channel for a binary task, else one per class."""
        return {"num_classes": 1 if _binary(dataset) else len(dataset.labels)}

    @classmethod
    def spec_fields(cls, dataset: Dataset, net: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
        """Return what the channels mean."""
        return {
            "labels": dataset.labels,
            "palette": dataset.palette,
            "background": dataset.background,
            "activation": "sigmoid" if _binary(dataset) else "softmax",
        }

    @classmethod
    def augmentation(cls, options: TrainOptions) -> Augmentation:
        """Image and mask move together."""
        return Augment(flip=options.flip, rotate=options.rotate or 0.0, scale=options.scale, lighting=options.lighting)

    def sets(self, dataset: Dataset, seed: int) -> tuple[Examples, Examples]:
        """Return whole images, or crops where the model will see images at their own scale."""
        examples = MaskCrops if self.spec.resize in OWN_SCALE else Pairs
        train = examples(dataset.train, self.spec, self.augmentation(self.options), seed)
        return train, examples(dataset.val, self.spec)

    def prepare(self, train: Examples) -> None:
        """Weigh the classes by how many pixels they have, if the options say so."""
        if self.options.class_weights == "balanced" and not self.spec.binary:
            weights = class_frequencies(train, len(self.spec.labels)).clamp(min=1e-4).rsqrt()
            self.class_weights = weights / weights.mean()

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the loss that the options name."""
        target = target.long()
        if self.spec.binary:
            return binary_loss(answer, target, pos_weight=self.options.pos_weight, dice=self.options.dice)
        return multiclass_loss(answer, target, class_weights=self.class_weights, dice=self.options.dice)

    def start_measuring(self) -> None:
        """Count from nothing."""
        self.confusion = Confusion(len(self.spec.labels))

    def measure(self, answer: Tensor, target: Tensor, images: Tensor) -> None:
        """Count the pixels of one batch."""
        predicted = (answer[:, 0] > 0).long() if self.spec.binary else answer.argmax(1)
        self.confusion.add(target.numpy(force=True), predicted.numpy(force=True))

    def measured(self) -> dict[str, float]:
        """Return Dice, IoU and pixel accuracy."""
        return self.confusion.metrics(self.spec.labels, self.spec.background)


def _binary(dataset: Dataset) -> bool:
    return len(dataset.labels) == 2 and dataset.background is not None
