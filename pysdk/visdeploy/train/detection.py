"""Learning where objects are, and of which classes."""

from typing import Any, cast

from torch import Tensor, nn

from visdeploy import ops
from visdeploy.average_precision import MEASURED_FROM, AveragePrecision
from visdeploy.data import Dataset
from visdeploy.data.augment import AugmentBoxes
from visdeploy.errors import InputError
from visdeploy.train import detection_losses
from visdeploy.train.loader import Augmentation, Boxes
from visdeploy.train.options import TrainOptions
from visdeploy.train.task import Task


class DetectionTask(Task):
    """Anchors are given to objects by IoU; measured by mean average precision at network size."""

    examples = Boxes
    gradient_clip = 10.0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        assert self.spec.anchors is not None
        self.anchors = self.spec.anchors.boxes(self.spec.size)

    @classmethod
    def select(cls, dataset: Dataset, options: TrainOptions) -> Dataset:
        """Return all of it, if it has objects."""
        require_objects(dataset, options.task)
        if dataset.background is None:
            raise InputError("[train] data: expected all objects for detection, got the largest of each image alone")
        return dataset

    @classmethod
    def architecture(cls, dataset: Dataset, options: TrainOptions) -> dict[str, Any]:
        """Classes of objects; the model adds the background."""
        return {"num_classes": len(dataset.labels) - 1}

    @classmethod
    def spec_fields(cls, dataset: Dataset, net: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
        """Return the labels, the background first, and the anchors."""
        return {
            "labels": dataset.labels,
            "palette": dataset.palette,
            "activation": "softmax",
            "anchors": cast(Any, net).anchors(size).model_dump(),
        }

    @classmethod
    def augmentation(cls, options: TrainOptions) -> Augmentation:
        """Image and boxes move together."""
        return box_augmentation(options)

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the loss that the options name."""
        offsets, classes = detection_losses.targets(target, self.anchors)
        return detection_losses.detection_loss(
            answer, offsets, classes, box_loss=self.options.box_loss, class_loss=self.options.class_loss
        )

    def start_measuring(self) -> None:
        """Begin with no boxes."""
        self.precision = AveragePrecision(len(self.spec.labels))

    def measure(self, answer: Tensor, target: Tensor, images: Tensor) -> None:
        """Find the boxes of one batch as the served model does."""
        host = answer.numpy(force=True)
        found = ops.detect(
            host[..., :-4],
            host[..., -4:],
            self.anchors,
            image_size=self.spec.size,
            weights=self.spec.box_weights,
            score_threshold=MEASURED_FROM,
            iou_threshold=self.spec.iou_threshold,
            top_k=self.spec.top_k,
            max_det=self.spec.max_det,
            mode=self.spec.nms,
        )
        for one, rows in zip(found, target.numpy(force=True), strict=True):
            truth = rows[rows[:, 0] >= 0]
            labels, ignored = truth[:, 0].astype("int64"), truth[:, 5] > 0
            self.precision.add(one.boxes, one.scores, one.labels, truth[:, 1:5], labels, ignored)

    def measured(self) -> dict[str, float]:
        """Return mean average precision and that of each class."""
        return self.precision.metrics(self.spec.labels)


def require_objects(dataset: Dataset, task: str) -> None:
    """Make sure that a task finds boxes in the data.

    Raises:
        InputError: No boxes are marked.
    """
    if not all(item.load_objects for item in (*dataset.train, *dataset.val)):
        raise InputError(f"[train] data: expected boxes of objects, as the task is {task}, got images without")
    if all(item.load_objects().ignored.all() for item in dataset.train if item.load_objects):
        raise InputError(
            f"[train] data: expected objects to learn {task} from, got none in {len(dataset.train)} images"
        )


def box_augmentation(options: TrainOptions) -> Augmentation:
    """Return the augmentation that the options name, for images with boxes."""
    return AugmentBoxes(
        flip=options.flip,
        upside_down=options.upside_down,
        rotate=options.rotate or 0.0,
        scale=options.scale,
        lighting=options.lighting,
    )
