"""What a bundle says about its model: the spec that its maker writes, and the manifest that export completes."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from visdeploy import tolerance
from visdeploy.anchors import MAX_ANCHORS, Anchors
from visdeploy.errors import InputError, did_you_mean

SCHEMA_VERSION = "1.2"
MAX_CLASSES = 255
MAX_BYTES = (1 << 32) - 1
"""The largest bundle, and the largest file in one: what a zip without extensions can address."""

UNUSED = "N/A"
"""The label of an index that stands for no class, as COCO's numbering has some."""

_BACKGROUND_NAMES = ("background", "_background_", "__background__", "bg")


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _three(value: object) -> object:
    return (value,) * 3 if isinstance(value, int | float) else value


Side = Annotated[int, Field(ge=1, le=4096)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_square)]
PerChannel = Annotated[tuple[FiniteFloat, FiniteFloat, FiniteFloat], BeforeValidator(_three)]
Sample = Annotated[int, Field(ge=0, le=255)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Task = Literal["segmentation", "detection", "localization", "classification", "restoration"]
Color = tuple[Sample, Sample, Sample]


class Spec(BaseModel):
    """How to feed a model and how to read its answer.

    `task`, `labels`, `size`, `mean` and `std` are enough; the rest has the defaults below.

    Attributes:
        task: What the network answers, always in one float32 tensor:
            "segmentation": logits (B, C, h, w), or (B, 1, h, w) for a binary model;
            "detection": (B, N, C + 4), for each anchor the logits of all classes, the background first, then dx, dy,
            dw, dh;
            "localization", of the one main object: (B, 4 + C), the corners x1, y1, x2, y2 as logits of shares of width
            and height, then the logits of its class; or (B, 4) where there is one label;
            "classification": logits (B, C);
            "restoration": (B, 3, h, w), the picture that was asked for, normalised as the input is: with `mean` 0 and
            `std` 1, samples on the scale 0..1.
        labels: Class names by index. In segmentation one name means a binary model with one output channel: the map
            then holds 0 for background and 1 for that name. In detection the background is class 0, and is put there if
            `labels` begin with another name. In restoration there are none.
        size: Height and width that the network sees; one number means a square.
        mean: Per RGB channel, on the scale 0..1; subtracted inside the graph.
        std: Likewise; divided by inside the graph.
        palette: RGB colour per label, for overlays; made up where absent.
        background: Class index left out of results; by default the label called "background", if there is one.
        ignore_index: Value of unlabelled pixels in training masks.
        architecture: Name and arguments of the visdeploy model, or None for anyone else's.
        input_name: Name of the graph's uint8 (B, H, W, 3) RGB input.
        output_name: Name of its float32 output.
        divisor: Height and width must be multiples of it; 32 in segmentation and restoration, else 1.
        max_batch: Largest batch that is sent through the network at once.
        max_size: Largest height and width that engines with fixed profiles prepare for.
        exif: The EXIF orientation is applied on decoding.
        resize: "stretch" to `size`; "letterbox" keeps the aspect and pads right and bottom; "native" only pads, to a
            multiple of `divisor`; "tile" looks at the image through windows of `size`, and pads what is smaller.
        enlarge: Restoration: the image is made so many times larger, bicubically, before all else; so is the answer.
        tile_overlap: The share of a window that the next one repeats, along each axis.
        interpolation: How pixels are resampled.
        antialias: Average over areas (cv2.INTER_AREA) where neither axis grows.
        pad_value: Sample value of padding; in restoration the last row and column are repeated instead.
        activation: "sigmoid" (one channel), "softmax" (several) or "none" (the output already is a probability).
        threshold: Probability above which a binary pixel is foreground, or a detection is returned.
        anchors: What a detector's offsets are relative to.
        box_weights: Divisors of a detector's offsets, see `ops.decode_boxes`.
        iou_threshold: Largest IoU of two boxes of one class; a detector's, as the next three.
        top_k: Candidates of each class, by score, that NMS looks at.
        max_det: Boxes in one image.
        min_area: Segmentation: connected parts of a class with fewer pixels of the source image become background.
        fill_holes: Segmentation: background that one class encloses becomes that class, see `clean_up.clean`.
        nms: "exact" keeps classes apart; "torchvision" rounds as its `batched_nms` does, see `ops.detect`.
        metrics: What validation measured.
        tolerances: How far engines may differ from the golden logits, by precision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    labels: Annotated[tuple[str, ...], Field(max_length=MAX_CLASSES)] = ()
    size: Size
    mean: PerChannel
    std: PerChannel
    palette: tuple[Color, ...] = ()
    background: Annotated[int, Field(ge=0)] | None = None
    ignore_index: int = 255
    architecture: dict[str, Any] | None = None
    input_name: str = "images"
    output_name: str = "logits"
    divisor: Annotated[int, Field(ge=1, le=1024)] = 32
    max_batch: Annotated[int, Field(ge=1)] = 8
    max_size: Size | None = None
    exif: Literal[True] = True
    resize: Literal["stretch", "letterbox", "native", "tile"] = "stretch"
    enlarge: Annotated[int, Field(ge=1, le=8)] = 1
    tile_overlap: Annotated[float, Field(ge=0, le=0.75)] = 0.25
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    antialias: bool = True
    pad_value: Sample = 0
    activation: Literal["sigmoid", "softmax", "none"] | None = None
    threshold: Share = 0.5
    anchors: Anchors | None = None
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    iou_threshold: Share = 0.45
    top_k: Annotated[int, Field(ge=1, le=MAX_ANCHORS)] = 400
    max_det: Annotated[int, Field(ge=1, le=1 << 16)] = 200
    min_area: Annotated[int, Field(ge=0)] = 0
    fill_holes: bool = False
    nms: Literal["exact", "torchvision"] = "exact"
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    tolerances: dict[str, Annotated[FiniteFloat, Field(ge=0)]] = Field(default_factory=lambda: dict(tolerance.LOGITS))

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("task") == "restoration":
            return {"resize": "tile", "activation": "none", **data}
        if not isinstance(data, Mapping) or not isinstance(data.get("labels"), list | tuple):
            return data
        data = dict(data)
        labels = [str(label) for label in data["labels"]]
        task = data.get("task")
        if task == "segmentation" and len(labels) == 1:
            labels.insert(0, "background")
            data.setdefault("activation", "sigmoid")
        if task == "detection" and labels and labels[0].lower() not in _BACKGROUND_NAMES:
            labels.insert(0, "background")
        if task != "segmentation":  # whose networks halve and double their input
            data.setdefault("divisor", 1)
        data["labels"] = tuple(labels)
        if "background" not in data and task in ("segmentation", "detection"):
            data["background"] = next((i for i, name in enumerate(labels) if name.lower() in _BACKGROUND_NAMES), None)
        if not data.get("palette") and len(labels) <= MAX_CLASSES:
            data["palette"] = default_palette(len(labels), data.get("background"))
        return data

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (not self.labels) != (self.task == "restoration"):
            expected = "none, as a restored picture has no classes" if self.labels else "at least one name"
            raise ValueError(f"labels: expected {expected}, got {self.labels}")
        named = [label for label in self.labels if label != UNUSED]
        if len(set(named)) != len(named):
            raise ValueError(f"labels: every name must differ, but for {UNUSED} of an index that has no class")
        if not all(label and label.isprintable() for label in self.labels):
            raise ValueError(f"labels: expected printable names, got {self.labels}")
        if len(self.palette) != len(self.labels):
            raise ValueError(f"palette: expected {len(self.labels)} colours, got {len(self.palette)}")
        if self.background is not None and self.background >= len(self.labels):
            raise ValueError(f"background: expected a class index below {len(self.labels)}, got {self.background}")
        if self.activation == "sigmoid" and len(self.labels) != 2:
            raise ValueError(f"activation: sigmoid goes with background and one label, got {len(self.labels)} labels")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"mean: expected values on the scale 0..1, got {self.mean}; divide by 255")
        if any(value <= 0 for value in self.std):
            raise ValueError("std: every value must be positive")
        if not all(_plain(value, lists=2) for value in (self.architecture or {}).values()):
            raise ValueError(f"architecture: expected plain values or lists of them, got {self.architecture!r:.60}")
        if unknown := sorted(self.tolerances.keys() - tolerance.LOGITS.keys()):
            raise ValueError(f"tolerances: expected {', '.join(tolerance.LOGITS)}, got {unknown[0]!r}")
        if not self.input_name or not self.output_name or self.input_name == self.output_name:
            raise ValueError("output_name: expected another name than the input's, and both with a letter at least")
        if self.resize != "native" and any(side % self.divisor for side in self.size):
            raise ValueError(f"size: height and width must be multiples of {self.divisor}, got {self.size}")
        if self.task not in ("segmentation", "restoration"):
            self._agree_on_boxes()
        elif self.anchors is not None:
            raise ValueError("anchors: only a detector has them")
        if self.task == "restoration":
            self._agree_on_pictures()
        elif self.enlarge != 1:
            raise ValueError(f"enlarge: goes with the task restoration, got {self.task}")
        if self.task != "segmentation" and (self.min_area or self.fill_holes):
            raise ValueError(f"min_area, fill_holes: go with the task segmentation, got {self.task}")
        if not self.has_background and (self.min_area or self.fill_holes):
            raise ValueError("min_area, fill_holes: expected a background among the labels, which removed parts become")
        return self

    def _agree_on_pictures(self) -> None:
        if self.resize not in ("native", "tile"):
            raise ValueError(f"resize: expected native or tile for restoration, got {self.resize}")
        if self.activation not in (None, "none"):
            raise ValueError(f"activation: expected none for restoration, got {self.activation}")

    def _agree_on_boxes(self) -> None:
        if self.resize not in ("stretch", "letterbox"):
            raise ValueError(f"resize: expected stretch or letterbox for {self.task}, got {self.resize}")
        if (self.anchors is None) == (self.task == "detection"):
            raise ValueError("anchors: a detector needs them, and no other task has them")
        if self.task == "detection" and (self.background != 0 or len(self.labels) < 2):
            raise ValueError("labels: a detector's begin with the background, and name at least one class besides")
        if self.activation not in (None, "softmax"):
            raise ValueError(f"activation: expected softmax for {self.task}, got {self.activation}")

    @property
    def binary(self) -> bool:
        """Whether the model segments by one channel, thresholded, instead of one per class."""
        return self.task == "segmentation" and self._one_channel

    @property
    def has_background(self) -> bool:
        """Whether a segmented pixel may have no class; known for certain where the activation is."""
        return self.background is not None or (len(self.labels) == 2 and self.activation != "softmax")

    @property
    def _one_channel(self) -> bool:
        return self.activation == "sigmoid" or (self.activation == "none" and len(self.labels) == 2)

    @classmethod
    def parse(cls, value: "Spec | Mapping[str, Any]", where: str = "spec") -> Self:
        """Validate a spec or a dict of its fields.

        Raises:
            InputError: One sentence per field that is wrong.
        """
        # A manifest is a spec too, with fields that the spec of the next export does not have.
        data = value.model_dump(include=set(cls.model_fields)) if isinstance(value, Spec) else value
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"[{where}] " + "; ".join(sentence(cls, entry) for entry in error.errors())) from error


class FileEntry(BaseModel):
    """Digest and length in bytes of one file in a bundle."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Variant(BaseModel):
    """A form of the model in lower precision, and what it was found to cost.

    Attributes:
        engine: Name of the engine that it is for.
        precision: "fp16", "bf16" or "int8".
        files: Members of the bundle that hold its graph, and then its weights where they are apart; none where the
            engine derives it from `model.onnx`.
        accepted: Whether "auto" may choose it.
        metric: Name of the figure that was compared with that of fp32; None where nobody gave data to measure on.
        value: That figure.
        drop: How much lower it is than that of fp32.
        drift: How far its golden logits are from those of fp32, of the largest.
        measured_on: The engine that it was measured on, where `engine` could not run there.
        images: Number of images it was measured on.
        calibration: sha256 of the calibration images, for int8.
        excluded: Nodes left in fp32.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    engine: str
    precision: Literal["fp16", "bf16", "int8"]
    files: tuple[str, ...] = ()
    accepted: bool
    metric: str | None = None
    value: FiniteFloat | None = None
    drop: FiniteFloat | None = None
    drift: Annotated[FiniteFloat, Field(ge=0)] | None = None
    measured_on: str | None = None
    images: int = 0
    calibration: str | None = None
    excluded: tuple[str, ...] = ()


class Manifest(Spec):
    """`manifest.json`: the spec with what export adds.

    Attributes:
        activation: As in `Spec`, and known.
        schema_version: Major and minor number of this format; a newer major is refused.
        producer: Versions of what wrote the bundle.
        torchscript: How the model became TorchScript: "script", "trace", or "absent" for a bare ONNX file.
        variants: Forms of lower precision, one per engine and precision.
        files: Digest and size of every other file.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    activation: Literal["sigmoid", "softmax", "none"]
    schema_version: str = SCHEMA_VERSION
    producer: dict[str, str] = Field(default_factory=dict)
    torchscript: Literal["script", "trace", "absent"] = "script"
    variants: tuple[Variant, ...] = ()
    files: Annotated[dict[str, FileEntry], Field(max_length=1000)] = Field(default_factory=dict)

    def variant(self, engine: str, precision: str) -> Variant | None:
        """Return the form of lower precision for an engine, accepted or not, or None."""
        found = (entry for entry in self.variants if (entry.engine, entry.precision) == (engine, precision))
        return next(found, None)


def _plain(value: object, lists: int) -> bool:
    if isinstance(value, list | tuple):
        return lists > 0 and all(_plain(entry, lists - 1) for entry in value)
    return isinstance(value, str | int | float | None)


def default_palette(count: int, background: int | None) -> tuple[Color, ...]:
    """Return `count` RGB colours that are easy to tell apart; the background is black."""
    colors: list[Color] = []
    for index in range(count):
        hue = (0.85 + index * 0.61803399) % 1.0
        channels = [max(0.0, min(1.0, abs((hue * 6 + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]
        light = 0.95 if index % 2 else 0.75
        red, green, blue = (round(255 * light * (0.2 + 0.8 * value)) for value in channels)
        colors.append((0, 0, 0) if index == background else (red, green, blue))
    return tuple(colors)


def sentence(cls: type[Spec], error: Any) -> str:
    """Return what one of a `ValidationError`'s errors says, in the words of a spec's author."""
    field = ".".join(str(part) for part in error["loc"]) or "spec"
    if error["type"] == "extra_forbidden":
        return f"{field}: no such field{did_you_mean(field, cls.model_fields)}"
    if error["type"] == "missing":
        return f"{field}: required, and missing"
    if error["type"] == "value_error":
        return re.sub(r"^Value error, ", "", error["msg"])
    return f"{field}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r:.60}"
