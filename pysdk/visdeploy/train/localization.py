"""Learning the one main object of an image: its box and its class, or either alone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from visdeploy.data import Dataset, largest_objects
from visdeploy.errors import InputError
from visdeploy.train.detection import box_augmentation, require_objects
from visdeploy.train.loader import Augmentation, MainObject
from visdeploy.train.options import TrainOptions
from visdeploy.train.task import Task

HIT = 0.5
"""IoU from which a box of the right class counts as found."""


class LocalizationTask(Task):
    """L1 of the corners in pixels, plus cross-entropy; measured by both, and by what is right in both."""

    examples = MainObject
    reported = ("accuracy", "iou", "l1")
    gradient_clip = 10.0

    @classmethod
    def select(cls, dataset: Dataset) -> Dataset:
        """Return the largest object of each image."""
        require_objects(dataset, "localization")
        return largest_objects(dataset)

    @classmethod
    def architecture(cls, dataset: Dataset, options: TrainOptions) -> dict[str, Any]:
        """Return the number of classes and the one size that the linear layers are made for."""
        if options.model.get("predicts") == "label":
            raise InputError("[train] model: predicts=label goes with the task classification")
        return {"num_classes": len(dataset.labels), "size": options.sizes[0]}

    @classmethod
    def spec_fields(cls, dataset: Dataset, net: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
        """Return the labels; a network that answers with boxes alone knows one."""
        ...
