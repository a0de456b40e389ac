"""How good a bundle is on labelled images, at the size of the images themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from visdeploy import ops
from visdeploy.asked import Asked
from visdeploy.average_precision import MEASURED_FROM, MIN_IOU, AveragePrecision
from visdeploy.errors import InputError
from visdeploy.metrics import Confusion, Fidelity
from visdeploy.predictor import Predictor
from visdeploy.preprocess import enlarge, extent
from visdeploy.spec import Manifest, Spec
from visdeploy.types import Boxes, Result

if TYPE_CHECKING:
    from visdeploy.data import Item, Sample
    from visdeploy.data.dataset import Objects

Known = TypeVar("Known")

ONE_OBJECT = ("object",)
"""The labels of a localizer that was trained to tell where the main object is, whatever its class."""

# Labels that a message names.
_NAMED = 5


def evaluate(
    predictor: Predictor, items: Sequence["Item"], *, progress: Callable[[int], None] | None = None
) -> dict[str, float]:
    """Predict every item, compare with what is known of it, and return the figures of the whole set by name.

    Args:
        predictor: An opened model of any task.
        items: Labelled images, such as a dataset's `val`; of one that `data.largest_objects` returned, where the model
            localizes or classifies.
        progress: Called with the number of images done.

    Returns:
        For segmentation what `metrics.Confusion.metrics` says, for detection what `AveragePrecision.metrics` says of
        all boxes with a score above 0.01. For localization `loc_accuracy`, the share of images with the right class and
        an IoU of at least 0.5; `accuracy`, that with the right class, where there are several; `iou`, the mean; and
        `l1`, the mean error of a corner's coordinate in pixels at network size. For classification `accuracy`. For
        restoration what `metrics.Fidelity.metrics` says, where the bad picture is the image, enlarged bicubically.

    Raises:
        InputError: There are no items, or an image or its labels cannot be used.
    """
    return measure(predictor, items, progress=progress).figures()


def check_labels(labels: tuple[str, ...], spec: Spec, step: str) -> None:
    """Compare the labels of a data set with those of a bundle.

    Raises:
        InputError: They differ, and the classes matter.
    """
    if labels == spec.labels or (spec.task == "localization" and spec.labels == ONE_OBJECT):
        return
    lacks, more = (
        _few([name for name in names if name not in others])
        for names, others in ((spec.labels, labels), (labels, spec.labels))
    )
    differences = [f"lack {lacks}" if lacks else "", f"have {more} besides" if more else ""]
    how = " and ".join(filter(None, differences)) or f"have another order, {_few(labels)}"
    raise InputError(
        f"[{step}] data: its labels {how}; expected those of the bundle, {_few(spec.labels)}: labels.txt in the "
        "folder names them"
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


class Tally(Protocol):
    """What was found so far, beside what is known of the same images."""

    def add(self, sample: "Sample", result: Result) -> None:
        """Take one image."""

    def figures(self) -> dict[str, float]:
        """Return what was measured by name."""


def measure(
    predictor: Predictor,
    items: Sequence["Item"],
    *,
    confidence: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """Do the same, and return all that was counted: the tally of the model's task.

    A detector's precision, recall and confusion are of the boxes with a score above `confidence`.
    """
    if not items:
        raise InputError("[val] data: there are no labelled images to compare with")
    spec = predictor.spec
    Asked(conf=confidence).check(spec)
    detector = spec.task == "detection"
    tally = Detections(spec, confidence) if detector else _TALLIES[spec.task](spec)
    conf = min(MEASURED_FROM, spec.threshold, *(() if confidence is None else (confidence,))) if detector else None
    for done, item in enumerate(items, 1):
        sample = item.load()
        tally.add(sample, predictor(sample.image, conf=conf))
        if progress is not None:
            progress(done)
    return tally


class Segmented:
    """Pixels of every class.

    Attributes:
        confusion: Counts of pixels.
    """

    def __init__(self, spec: Manifest) -> None:
        self.spec = spec
        self.confusion = Confusion(len(spec.labels))

    def add(self, sample: "Sample", result: Result) -> None:
        """Compare pixel by pixel."""
        assert result.masks is not None
        self.confusion.add(_known(sample.mask, sample, "mask"), result.masks.to_numpy())

    def figures(self) -> dict[str, float]:
        """Return Dice, IoU and accuracy."""
        return self.confusion.metrics(self.spec.labels, self.spec.background)


@dataclass(frozen=True)
class Detected:
    """One image with its objects and detections, in pixels of the image."""

    size: tuple[int, int]
    objects: "Objects"
    boxes: Boxes


class Detections:
    """Boxes of every class.

    Attributes:
        precision: Counts of boxes; its confusion is that above a confidence; default, the spec's threshold.
        images: What it was counted from.
    """

    def __init__(self, spec: Manifest, confidence: float | None = None) -> None:
        self.spec = spec
        sure = spec.threshold if confidence is None else confidence
        self.precision = AveragePrecision(len(spec.labels), confidence=sure)
        self.images: list[Detected] = []

    def add(self, sample: "Sample", result: Result) -> None:
        """Compare box by box."""
        boxes, objects = result.boxes, _known(sample.objects, sample, "box")
        assert boxes is not None
        self.precision.add(boxes.xyxy, boxes.scores, boxes.labels, objects.xyxy, objects.labels, objects.ignored)
        self.images.append(Detected(result.size, objects, boxes))

    def figures(self) -> dict[str, float]:
        """Return the average precisions."""
        return self.precision.metrics(self.spec.labels)


class Classified:
    """The class of every image.

    Attributes:
        confusion: Counts of images.
    """

    def __init__(self, spec: Manifest) -> None:
        self.spec = spec
        self.confusion = Confusion(len(spec.labels))

    def add(self, sample: "Sample", result: Result) -> None:
        """Compare the best class with the right one."""
        assert result.classes is not None
        self._count(sample, result.classes.label)

    def figures(self) -> dict[str, float]:
        """Return the accuracy."""
        counts = self.confusion.counts
        return {"accuracy": float(counts.trace() / counts.sum())}

    def _count(self, sample: "Sample", label: int) -> int:
        truth = 0 if self.spec.labels == ONE_OBJECT else _known(sample.label, sample, "class")
        if not 0 <= truth < len(self.spec.labels):
            raise InputError(f"{sample.name}: expected a class below {len(self.spec.labels)}, got {truth}")
        self.confusion.add(np.array([truth]), np.array([label]))
        return truth


class Localized(Classified):
    """The box and the class of every image's main object.

    Attributes:
        confusion: Counts of images.
        labels: The right class of each image so far.
        right: Whether that was the answer.
        overlaps: IoU of its box.
        distances: Mean error of a coordinate of its box, in pixels at network size.
    """

    def __init__(self, spec: Manifest) -> None:
        super().__init__(spec)
        self.labels: list[int] = []
        self.right: list[bool] = []
        self.overlaps: list[float] = []
        self.distances: list[float] = []

    def add(self, sample: "Sample", result: Result) -> None:
        """Compare the one box and its class."""
        assert result.boxes is not None
        found, label = result.boxes.xyxy, int(result.boxes.labels[0])
        truth = _known(sample.objects, sample, "box").xyxy
        if len(truth) != 1:
            raise InputError(f"{sample.name}: expected the one main object, got {len(truth)} boxes")
        right = self._count(sample, label)
        (height, width), (fed_height, fed_width) = result.size, extent(result.size, self.spec)[0]
        scale = np.array([fed_width / width, fed_height / height] * 2)
        self.labels.append(right)
        self.right.append(right == label)
        self.overlaps.append(float(np.nan_to_num(ops.box_iou(_doubles(found), _doubles(truth))[0, 0])))
        self.distances.append(float(np.abs((_doubles(found) - truth) * scale).mean()))

    def figures(self) -> dict[str, float]:
        """Return the share found, the accuracy, mean IoU and mean distance."""
        found = np.array(self.right) & (np.array(self.overlaps) >= MIN_IOU)
        figures = {"loc_accuracy": float(found.mean())}
        if len(self.spec.labels) > 1:
            figures |= super().figures()
        return figures | {"iou": float(np.mean(self.overlaps)), "l1": float(np.mean(self.distances))}


class Restored:
    """Pictures made good.

    Attributes:
        fidelity: What was measured of each.
    """

    def __init__(self, spec: Manifest) -> None:
        self.spec = spec
        self.fidelity = Fidelity()

    def add(self, sample: "Sample", result: Result) -> None:
        """Compare with the clean picture, and so the image itself."""
        assert result.restored is not None
        restored, clean = result.restored.array, _known(sample.target, sample, "clean picture")
        if restored.shape != clean.shape:
            (height, width), (clean_height, clean_width) = restored.shape[:2], clean.shape[:2]
            raise InputError(
                f"{sample.name}: the bundle makes {width}x{height} of it, and the clean picture has {clean_width}x"
                f"{clean_height} (width x height); is it {self.spec.enlarge} times larger in these data?"
            )
        before = np.asarray(enlarge(sample.image, self.spec.enlarge))
        try:
            self.fidelity.add(restored, before, clean)
        except InputError as error:
            raise InputError(f"{sample.name}: {error}") from error

    def figures(self) -> dict[str, float]:
        """Return PSNR and SSIM, after and before."""
        return self.fidelity.metrics()


_TALLIES: dict[str, Callable[[Manifest], Tally]] = {
    "segmentation": Segmented,
    "detection": Detections,
    "localization": Localized,
    "classification": Classified,
    "restoration": Restored,
}


def _known(value: Known | None, sample: "Sample", what: str) -> Known:
    if value is None:
        raise InputError(f"{sample.name}: expected a {what} to compare with, and the data have none")
    return value


def _doubles(xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    return xyxy.astype(np.float64)
