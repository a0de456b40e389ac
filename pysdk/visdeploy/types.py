"""What a prediction returns."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy import drawing, mask
from visdeploy.clean_up import clean
from visdeploy.errors import InputError, MissingDependencyError, VisdeployError
from visdeploy.instances import Instances, Probabilities, as_text, split
from visdeploy.kinds import Share, in_kind

Rle = dict[str, Any]


@dataclass(frozen=True)
class Timings:
    """Milliseconds that each stage took for one image; of inference and postprocessing, its share of the batch."""

    decode_ms: float = 0.0
    resize_ms: float = 0.0
    infer_ms: float = 0.0
    postprocess_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """The sum of all stages."""
        return self.decode_ms + self.resize_ms + self.infer_ms + self.postprocess_ms


@dataclass(frozen=True)
class Masks:
    """The classes found in one image.

    Attributes:
        rle: COCO RLE dicts (`size` [H, W], `counts` bytes) at the source image's size, one per class found; the
            background is left out.
        labels: (K,) int64 class index of each.
        size: Height and width of the source image.
        background: Class index of the pixels that no mask covers; None where every pixel has a class in `labels`.
        logits: (C, h, w) float32 network output of the part that is image, at network resolution; None for several
            classes in an image that was answered in tiles, as they would fill the memory.
        activation: How logits become probabilities, see `Spec.activation`.
    """

    rle: list[Rle] = field(repr=False)
    labels: NDArray[np.int64]
    size: tuple[int, int]
    background: int | None
    logits: NDArray[np.float32] | None = field(repr=False)
    activation: str = field(repr=False)

    def to_numpy(self) -> NDArray[np.uint8]:
        """Return the (H, W) class map."""
        classes = np.full(self.size, self.background or 0, np.uint8)
        for rle, label in zip(self.rle, self.labels, strict=True):
            classes[mask.decode(rle, order="C").view(bool)] = label
        return classes

    def probability(self) -> NDArray[np.float32]:
        """Return (H, W) probability of the foreground, or (C, H, W) of every class where there are several.

        Infinite logits count as very large ones; a NaN stays one.

        Raises:
            InputError: There are several classes, and the image was answered in tiles.
        """
        if self.logits is None:
            raise InputError(
                "[probability] expected an image answered at once: in tiles, several classes keep only the best of each"
                " pixel; predict a part of the image, or read to_numpy()"
            )
        height, width = self.size
        finite = np.clip(self.logits, -1e30, 1e30)
        planes = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in finite])
        if self.activation == "sigmoid":
            planes = 1 / (1 + np.exp(-np.clip(planes, -80, 80)))
        elif self.activation == "softmax":
            planes = np.exp(planes - planes.max(0))
            planes /= planes.sum(0)
        return planes[0] if len(planes) == 1 else planes

    def instances(self, *, min_area: int = 0, fill_holes: bool = False) -> Instances:
        """Return the connected parts of every class one by one: things of one class that touch are one part.

        Args:
            min_area: Parts with fewer pixels are left out.
            fill_holes: Whether pixels without a class that one class encloses belong to that, see `clean_up.clean`.

        Raises:
            InputError: `min_area` is no whole number, or below 0.
        """
        if not isinstance(min_area, Integral) or min_area < 0:
            raise InputError(f"[instances] min_area: expected a whole number of pixels, got {min_area!r}")
        found = list(zip(self.labels.tolist(), self.rle, strict=True))
        if min_area > 1 or fill_holes:
            found = clean(found, self.size, min_area=int(min_area), fill_holes=fill_holes)
        sure = None if self.logits is None else Probabilities(self.logits, self.size, self.activation)
        return split(found, self.size, sure)


@dataclass(frozen=True)
class Boxes:
    """The objects found in one image, best first.

    Attributes:
        xyxy: (N, 4) float32 corners in pixels of the source image.
        scores: (N,) float32.
        labels: (N,) int64 class index.
        names: The class name of each.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Boxes({len(self)})"

    def rows(self) -> Iterator[tuple[int, str, float, list[float]]]:
        """Yield class index, name, score and corners of each, as plain values."""
        return zip(self.labels.tolist(), self.names, self.scores.tolist(), self.xyxy.tolist(), strict=True)


@dataclass(frozen=True)
class Classes:
    """What a classifier says of one image.

    Attributes:
        probabilities: (C,) float32, one per label of the model.
        label: Class index of the largest.
        name: Its class name.
        score: Its probability.
    """

    probabilities: NDArray[np.float32] = field(repr=False)
    label: int
    name: str
    score: float


@dataclass(frozen=True)
class Picture:
    """An image that was drawn, or restored.

    Attributes:
        array: (H, W, 3) uint8 RGB.
    """

    array: NDArray[np.uint8]

    def __repr__(self) -> str:
        height, width = self.array.shape[:2]
        return f"Picture({width} x {height})"

    def save(self, path: str | Path) -> None:
        """Write it as PNG, JPEG or WebP, by the extension."""
        from visdeploy import image

        image.write(path, self.array)


Found: TypeAlias = Masks | Boxes | Classes | Picture
"""What models answer for an image; each task's is one of these."""

PARTS: Final[dict[type[Found], str]] = {Masks: "masks", Boxes: "boxes", Classes: "classes", Picture: "restored"}
"""The attribute of a `Result` that holds each."""


@dataclass(frozen=True)
class Result:
    """The answer for one image.

    Attributes:
        source: Where the image came from: its path, or a word for what was passed in.
        index: Its position in the list or stream.
        labels: The model's class names by index.
        palette: The model's RGB colour per class.
        size: Height and width of the source image; (0, 0) where it could not be read.
        masks: What a segmenter found; None for a detector.
        boxes: What a detector found, or the one box of a localizer; None for others.
        classes: What a classifier says; None for others.
        restored: What a restorer made of the image, (H * e, W * e, 3) where its spec says `enlarge` e; None for others.
        timings: Milliseconds per stage.
        error: What went wrong with this item of a stream; everything else is then empty.
    """

    source: str
    index: int
    labels: tuple[str, ...] = field(repr=False)
    palette: tuple[tuple[int, int, int], ...] = field(repr=False)
    size: tuple[int, int] = (0, 0)
    masks: Masks | None = None
    boxes: Boxes | None = None
    classes: Classes | None = None
    restored: Picture | None = None
    timings: Timings = field(default_factory=Timings)
    error: VisdeployError | None = None
    image: NDArray[np.uint8] | None = field(default=None, repr=False)

    def plot(self, opacity: float = 0.45) -> Picture:
        """Draw what was found over the image: masks of that opacity, boxes with names and scores, or the class.

        A restored picture is drawn at the right of the image that it was made of.

        Raises:
            InputError: `opacity` is no number of 0 to 1.
        """
        opacity = in_kind("plot", "opacity", Share, opacity)
        found, pixels = self.found, self.image
        assert pixels is not None
        if isinstance(found, Picture):
            return Picture(drawing.draw_beside(pixels, found.array))
        if isinstance(found, Masks):
            dense = [mask.decode(rle, order="C") for rle in found.rle]
            named = [(self.labels[label], self.palette[label]) for label in found.labels]
            masks = [(one, *entry) for one, entry in zip(dense, named, strict=True)]
            colors = np.array(self.palette, np.uint8)
            return Picture(drawing.draw_masks(pixels, found.to_numpy(), masks, colors, opacity))
        if isinstance(found, Classes):
            return Picture(drawing.draw_text(pixels, f"{found.name} {found.score:.2f}"))
        texts = [f"{name} {score:.2f}" for name, score in zip(found.names, found.scores, strict=True)]
        return Picture(drawing.draw_boxes(pixels, found.xyxy, texts, [self.palette[label] for label in found.labels]))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but pixels as plain Python values; `counts` are str, and of a picture there is the size."""
        document: dict[str, Any] = {"source": self.source, "index": self.index, "size": list(self.size)}
        if self.error is not None:
            return document | {"error": str(self.error)}
        found = self.found
        if isinstance(found, Masks):
            document["masks"] = [
                {"label": int(label), "name": self.labels[label], "rle": as_text(rle), "area": int(mask.area(rle))}
                for rle, label in zip(found.rle, found.labels, strict=True)
            ]
        elif isinstance(found, Boxes):
            document["boxes"] = [
                {"label": label, "name": name, "score": score, "xyxy": xyxy}
                for label, name, score, xyxy in found.rows()
            ]
        elif isinstance(found, Picture):
            document["restored"] = {"size": list(found.array.shape[:2])}
        else:
            document["classes"] = {
                "label": found.label,
                "name": found.name,
                "score": found.score,
                "probabilities": found.probabilities.tolist(),
            }
        stages = ("decode", "resize", "infer", "postprocess")
        timings = {f"{stage}_ms": round(getattr(self.timings, f"{stage}_ms"), 3) for stage in stages}
        return document | {"timings": timings}

    def to_json(self) -> str:
        """Return `to_dict` as one JSON document."""
        return json.dumps(self.to_dict())

    def to_coco(self, image_id: int, *, instances: bool = False) -> list[dict[str, Any]]:
        """Return COCO annotations, one per class that has a mask or per box, which has a `score` too.

        `category_id` is the class index.

        Args:
            image_id: Of the image in the document.
            instances: Whether masks are given part by part, see `Masks.instances`.

        Raises:
            InputError: The model is a classifier or a restorer, and COCO annotates objects; or a detector, of whose
                boxes there are no `instances`.
        """
        if instances:
            return self._parts("to_coco").to_coco(image_id)
        found = self._found_for("to_coco")
        if isinstance(found, Masks):
            return [
                {
                    "image_id": image_id,
                    "category_id": int(label),
                    "segmentation": as_text(rle),
                    "area": int(mask.area(rle)),
                    "bbox": [float(value) for value in mask.toBbox(rle)],
                    "iscrowd": 0,
                }
                for rle, label in zip(found.rle, found.labels, strict=True)
            ]
        if isinstance(found, Classes):
            raise InputError("[to_coco] expected masks or boxes, got the class of a whole image; use to_json()")
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }
            for label, _, score, (x1, y1, x2, y2) in found.rows()
        ]

    def to_kaggle(self, label: int | None = None, *, order: Literal["row", "column"] = "row") -> str:
        """Return "start length start length ..." of one class, one-based; empty where nothing was found.

        Args:
            label: Class index; may be left out where there is only one besides the background.
            order: "row" counts pixels left to right, then top to bottom, as Carvana does; "column" the other way.

        Raises:
            InputError: There is no such class, or it is the background, which has no mask; or the model finds no masks.
        """
        masks = self._found_for("to_kaggle")
        if not isinstance(masks, Masks):
            raise InputError("[to_kaggle] expected masks, got boxes or a class; use to_coco() or to_json()")
        classes = [index for index in range(len(self.labels)) if index != masks.background]
        if label is None and len(classes) == 1:
            label = classes[0]
        if label not in classes:
            raise InputError(f"[to_kaggle] label: expected one of {classes}, got {label}")
        for rle, found in zip(masks.rle, masks.labels, strict=True):
            if found == label:
                return mask.to_kaggle(rle, order=order)
        return ""

    def to_supervision(self, *, instances: bool = False) -> Any:
        """Return `supervision.Detections`, of a classifier `Classifications`; needs the supervision package.

        Masks come one per class found; boxes with `confidence`, and their names as `data["class_name"]`.

        Args:
            instances: Whether masks are given part by part, with `confidence`, see `Masks.instances`. Each of them is
                as large as the image.

        Raises:
            InputError: The model is a restorer; or `instances` of something else than masks are asked for.
        """
        found = self._parts("to_supervision") if instances else self._found_for("to_supervision")
        try:
            import supervision
        except ImportError as error:
            raise MissingDependencyError("supervision is not installed: pip install supervision") from error
        if isinstance(found, Classes):
            every = np.arange(len(found.probabilities))
            return supervision.Classifications(class_id=every, confidence=found.probabilities)
        if isinstance(found, Boxes):
            names = {"class_name": np.array(found.names, np.str_)}
            return supervision.Detections(xyxy=found.xyxy, confidence=found.scores, class_id=found.labels, data=names)
        dense = np.array([mask.decode(rle) for rle in found.rle], bool).reshape(-1, *self.size)
        if isinstance(found, Instances):
            return supervision.Detections(xyxy=found.boxes, mask=dense, class_id=found.labels, confidence=found.scores)
        boxes = np.array([mask.toBbox(rle) for rle in found.rle], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return supervision.Detections(xyxy=boxes, mask=dense, class_id=found.labels)

    def _parts(self, caller: str) -> Instances:
        found = self.found
        if not isinstance(found, Masks):
            raise InputError(f"[{caller}] instances: expected masks, whose parts they are; this model finds none")
        return found.instances()

    @property
    def found(self) -> Found:
        """Whichever of masks, boxes, classes and restored the model answers; raises `error` where there is one."""
        if self.error is not None:
            raise self.error
        answers = (getattr(self, name) for name in PARTS.values())
        # No boxes are an answer too, and are falsy.
        found: Found = next(answer for answer in answers if answer is not None)
        return found

    def _found_for(self, caller: str) -> Masks | Boxes | Classes:
        found = self.found
        if isinstance(found, Picture):
            raise InputError(
                f"[{caller}] expected masks, boxes or a class, got a restored picture; use restored.save()"
            )
        return found
