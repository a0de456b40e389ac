"""Learning the one main object of an image: its box and its class, or either alone."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from visdeploy.average_precision import MIN_IOU
from visdeploy.data import Dataset, largest_objects
from visdeploy.errors import InputError
from visdeploy.train.detection import box_augmentation, require_objects
from visdeploy.train.loader import Augmentation, MainObject
from visdeploy.train.options import TrainOptions
from visdeploy.train.task import Task


class LocalizationTask(Task):
    """L1 of the corners in pixels, plus cross-entropy; measured by both, and by what is right in both."""

    examples = MainObject
    reported: ClassVar[tuple[str, ...]] = ("accuracy", "iou", "l1")
    gradient_clip = 10.0
    predicts: ClassVar[tuple[str, ...]] = ("both", "box")
    scale: Tensor

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        height, width = self.spec.size
        self.register_buffer("scale", torch.tensor([width, height] * 2, dtype=torch.float32), persistent=False)

    @classmethod
    def select(cls, dataset: Dataset, options: TrainOptions) -> Dataset:
        """Return the largest object of each image; boxes alone have no class, and then there is one for all."""
        require_objects(dataset, options.task)
        dataset = largest_objects(dataset)
        if options.model.get("predicts") == "box" and len(dataset.labels) > 1:
            dataset = replace(dataset, labels=("object",), palette=dataset.palette[:1])
        return dataset

    @classmethod
    def architecture(cls, dataset: Dataset, options: TrainOptions) -> dict[str, Any]:
        """Return the number of classes, what is predicted, and the one size that the linear layers are made for."""
        predicts = options.model.get("predicts", cls.predicts[0])
        if predicts not in cls.predicts:
            raise InputError(
                f"[train] model: expected predicts={' or '.join(cls.predicts)} for {options.task}, got {predicts!r}"
            )
        return {"num_classes": len(dataset.labels), "predicts": predicts, "size": options.sizes[0]}

    @classmethod
    def spec_fields(cls, dataset: Dataset, net: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
        """Return the labels."""
        return {"labels": dataset.labels, "palette": dataset.palette, "activation": "softmax"}

    @classmethod
    def augmentation(cls, options: TrainOptions) -> Augmentation:
        """Image and box move together."""
        return box_augmentation(options)

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance of the corners in pixels, plus the weighted cross-entropy."""
        truth = target[:, 0]
        loss = functional.l1_loss(self._boxes(answer), truth[:, 1:5])
        if answer.shape[1] > 4:
            loss = loss + self.options.label_weight * functional.cross_entropy(answer[:, 4:], truth[:, 0].long())
        return loss

    def start_measuring(self) -> None:
        """Forget the last epoch's answers."""
        self.right: list[Tensor] = []
        self.overlaps: list[Tensor] = []
        self.distances: list[Tensor] = []

    def measure(self, answer: Tensor, target: Tensor, images: Tensor) -> None:
        """Compare the answers to one batch with the truth."""
        truth = target[:, 0]
        boxes = self._boxes(answer)
        self.overlaps.append(_iou(boxes, truth[:, 1:5]))
        self.distances.append((boxes - truth[:, 1:5]).abs().mean(1))
        if answer.shape[1] > 4:
            self.right.append(answer[:, 4:].argmax(1) == truth[:, 0].long())

    def measured(self) -> dict[str, float]:
        """Return what share was found, what share has the right class, mean IoU, and mean distance of the corners."""
        overlaps = torch.cat(self.overlaps)
        figures = {"iou": overlaps.mean().item(), "l1": torch.cat(self.distances).mean().item()}
        if not self.right:
            return {"loc_accuracy": (overlaps >= MIN_IOU).float().mean().item()} | figures
        right = torch.cat(self.right)
        both = {"loc_accuracy": (right & (overlaps >= MIN_IOU)).float().mean().item()}
        return both | {"accuracy": right.float().mean().item()} | figures

    def _boxes(self, answer: Tensor) -> Tensor:
        boxes: Tensor = torch.sigmoid(answer[:, :4]) * self.scale
        return boxes


class ClassificationTask(LocalizationTask):
    """Cross-entropy of the class alone; measured by accuracy."""

    reported = ()
    predicts = ("label",)

    @classmethod
    def select(cls, dataset: Dataset, options: TrainOptions) -> Dataset:
        """Return the images with one class each: their own, or that of their largest object."""
        if any(item.label is None for item in (*dataset.train, *dataset.val)):
            require_objects(dataset, options.task)
        dataset = largest_objects(dataset)
        if len(dataset.labels) < 2:
            raise InputError(f"[train] data: expected classes to tell apart, got {', '.join(dataset.labels)} alone")
        return dataset

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(answer, target[:, 0, 0].long())

    def measure(self, answer: Tensor, target: Tensor, images: Tensor) -> None:
        """Compare the answers to one batch with the truth."""
        self.right.append(answer.argmax(1) == target[:, 0, 0].long())

    def measured(self) -> dict[str, float]:
        """Return the share that is right."""
        return {"accuracy": torch.cat(self.right).float().mean().item()}


def _iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of each pair of rows, (B,)."""
    inside = (torch.minimum(boxes[:, 2:], truth[:, 2:]) - torch.maximum(boxes[:, :2], truth[:, :2])).clamp(min=0)
    common = inside.prod(1)
    areas = [(pair[:, 2:] - pair[:, :2]).clamp(min=0).prod(1) for pair in (boxes, truth)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-9)
