"""Everything that decides a training run, in one place; the command line fills it in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints

from pydantic import Field

from visdeploy.errors import InputError, did_you_mean
from visdeploy.kinds import Count, Factor, Folder, Fraction, Positive, Seed, Share, Size, Whole, in_kind
from visdeploy.models.registry import REGISTRY
from visdeploy.spec import Task
from visdeploy.train.detection_losses import BoxLoss, ClassLoss

Sizes = Annotated[
    tuple[Size, ...],
    Field(strict=False, description="height and width of each stage, of 1 to 4096, such as ((256, 256),)"),
]
Epochs = Annotated[
    tuple[Count, ...],
    Field(strict=False, min_length=1, description="whole numbers of at least 1, one or each stage's, such as (20,)"),
]
Zoom = Annotated[float, Field(ge=0.01, le=100)]
Zooms = Annotated[
    tuple[Zoom, Zoom], Field(strict=False, description="the smallest zoom and the largest, of 0.01 to 100")
]
Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["one_cycle", "constant", "step"]

_MODELS: dict[str, tuple[str, Size]] = {
    "segmentation": ("unet", (256, 256)),
    "detection": ("ssd", (256, 256)),
    "localization": ("localizer", (224, 224)),
    "classification": ("localizer", (224, 224)),
    "restoration": ("dynamic_unet", (128, 128)),
}

_BOXES = ("detection", "localization", "classification")
_SEEN_AT_ANY_SCALE = ("segmentation", *_BOXES)
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "dice": ("segmentation",),
    "class_weights": ("segmentation",),
    "pos_weight": ("segmentation",),
    "box_loss": ("detection",),
    "class_loss": ("detection",),
    "label_weight": ("localization",),
    "upside_down": (*_BOXES, "restoration"),
    "feature_loss": ("restoration",),
    "gram_loss": ("restoration",),
    "scale": _SEEN_AT_ANY_SCALE,
    "lighting": _SEEN_AT_ANY_SCALE,
    "rotate": _SEEN_AT_ANY_SCALE,
}


@dataclass(frozen=True)
class TrainOptions:
    """What `fit` needs to know; the defaults suit a few hundred images and two cores.

    Attributes:
        out: Folder of the run: checkpoints, curves, golden images.
        task: What is learnt; "localization" and "classification" are of the largest object of each image.
        arch: A name of `models.list()`; by default the usual one of the task.
        encoder: The backbone, see `models.create`; by default the model's usual one.
        weights: File or published tag of encoder weights; None starts from random ones.
        model: Further options of the model, such as `decoder_channels`.
        sizes: Height and width of each stage; a later stage continues from the best weights of the one before. By
            default one stage of 256x256, or of 224x224 where the task knows one object.
        epochs: Passes over the training data, per stage (one number serves all stages).
        batch: Images per step.
        lr: Peak learning rate of the decoder; None runs the learning-rate finder first.
        encoder_lr: The encoder's learning rate as a share of the decoder's.
        optimizer: "adamw", "adam" or "sgd".
        momentum: SGD's.
        weight_decay: The optimiser's, on weights; biases and norms have none.
        schedule: How the learning rate runs: "one_cycle" rises to `lr` and falls to nothing, "constant" stays there,
            "step" goes on at a tenth of it after `step_at`.
        warmup: Share of the steps in which the one-cycle schedule rises.
        step_at: Share of the steps after which the step schedule drops.
        freeze_epochs: Epochs of the first stage in which the encoder stands still; None means 1 with `weights`, else 0.
            As many as the stage has, or more, leave the encoder as it came for all of it: with `weights` and one epoch
            only the decoder learns.
        freeze_to: The encoder stands still for the whole run up to its feature map of this stride; its finest layers
            are the dearest to train, and ImageNet has taught them well. 0 is none of it; None means 4 for a detector
            with `weights`, else 0.
        freeze_bn: Keep the encoder's BatchNorm statistics for the whole run, not only while it is frozen; None means
            for a detector with `weights`.
        ema: Decay of the running average of the weights that is validated and kept, never longer than a fifth of a
            stage; 0 turns it off.
        dice: Weight of the Dice loss beside cross-entropy.
        class_weights: "none", or "balanced" by the square root of the inverse pixel frequency.
        pos_weight: Factor on foreground pixels of a binary task.
        box_loss: A detector's loss of offsets, see `detection_loss`.
        class_loss: A detector's loss of classes: "mining" or "focal".
        label_weight: Factor on the cross-entropy beside the L1 loss of the one box, in pixels.
        feature_loss: Restoration: weight of the difference in the features of the encoder as `weights` has it, beside
            L1. Details get sharper, and PSNR worse.
        gram_loss: Likewise, of their Gram matrices, which tell textures.
        flip: Mirror half of the images.
        upside_down: Mirror half of the images top to bottom too, where there is no up; not in segmentation.
        rotate: Largest rotation in degrees; None means 5 in segmentation, and 0 where boxes would no longer fit;
            not in restoration, as `scale` and `lighting`.
        scale: Range of the random zoom.
        lighting: Range of the random brightness and contrast.
        resize: How images reach network size, see `Spec.resize`. With "tile" and "native", which segmentation and
            restoration can have, training sees random crops of that size, at the image's own scale. None means "tile"
            in restoration, else "stretch".
        precision: "fp32", "bf16", or "auto": both are timed at the start and the faster one is used.
        seed: Makes two runs on one machine the same.
    """

    out: Folder
    task: Task = "segmentation"
    arch: str = ""
    encoder: str | None = None
    weights: str | Path | None = None
    model: dict[str, Any] = field(default_factory=dict)
    sizes: Sizes = ()
    epochs: Epochs = (20,)
    batch: Count = 8
    lr: Positive | None = 1e-3
    encoder_lr: Factor = 0.3
    optimizer: Optimizer = "adamw"
    momentum: Fraction = 0.0
    weight_decay: Factor = 1e-2
    schedule: Schedule = "one_cycle"
    warmup: Share = 0.2
    step_at: Annotated[float, Field(gt=0, lt=1)] = 0.5
    freeze_epochs: Whole | None = None
    freeze_to: Whole | None = None
    freeze_bn: bool | None = None
    ema: Fraction = 0.98
    dice: Factor = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    pos_weight: Factor = 1.0
    box_loss: BoxLoss = "smooth_l1"
    class_loss: ClassLoss = "mining"
    label_weight: Factor = 20.0
    feature_loss: Factor = 0.0
    gram_loss: Factor = 0.0
    flip: bool = True
    upside_down: bool = False
    rotate: Annotated[float, Field(ge=0, le=360)] | None = None
    scale: Zooms = (0.8, 1.4)
    lighting: Factor = 0.2
    resize: Literal["stretch", "letterbox", "tile", "native"] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Seed = 0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, in_kind("train", name, kind, getattr(self, name)))
        for option in fields(self):
            tasks = _ONLY_FOR.get(option.name, (self.task,))
            if self.task not in tasks and getattr(self, option.name) != option.default:
                raise InputError(f"[train] {option.name}: goes with {' or '.join(tasks)}, got the task {self.task}")
        arch, size = _MODELS[self.task]
        # The record of a run says what was trained, not that it was the default.
        object.__setattr__(self, "arch", self.arch or arch)
        model = REGISTRY.get(self.arch)  # of an unknown name `models.create` knows the nearest
        object.__setattr__(self, "encoder", self.encoder or (model.encoder if model else None))
        object.__setattr__(self, "sizes", self.sizes or (size,))
        if model and self.task not in model.tasks:
            raise InputError(f"[train] arch: {self.arch} is for {' and '.join(model.tasks)}, got the task {self.task}")
        if self.rotate is None and self.task != "restoration":
            object.__setattr__(self, "rotate", 5.0 if self.task == "segmentation" else 0.0)
        if self.resize is None:
            object.__setattr__(self, "resize", "tile" if self.task == "restoration" else "stretch")
        taught = self.task == "detection" and self.encoder is not None and self.weights is not None
        if self.freeze_to is None:
            object.__setattr__(self, "freeze_to", 4 if taught else 0)
        if self.freeze_bn is None:
            object.__setattr__(self, "freeze_bn", taught)
        if self.arch == "localizer" and len(self.sizes) > 1:
            raise InputError(f"[train] sizes: expected one, as a localizer is made for it, got {len(self.sizes)}")
        if len(self.epochs) not in (1, len(self.sizes)):
            raise InputError(f"[train] epochs: expected 1 or {len(self.sizes)} numbers, got {len(self.epochs)}")
        if self.momentum and self.optimizer != "sgd":
            raise InputError(f"[train] momentum: goes with sgd, got the optimizer {self.optimizer}")
        for name in ("feature_loss", "gram_loss"):
            if getattr(self, name) and (self.weights is None or self.encoder is None):
                raise InputError(
                    f"[train] {name}: expected an encoder and its weights, as pictures are compared by the features "
                    "that these have learnt; give --weights, or leave it at 0"
                )
        if self.scale[0] > self.scale[1]:
            raise InputError(
                f"[train] scale: expected the smallest zoom and the largest, in this order, got {self.scale}"
            )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return options from their fields by name.

        Raises:
            InputError: There is no such field, a value is not of its kind, or fields contradict each other.
        """
        known = [option.name for option in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"[train] {name}: no such option{did_you_mean(name, known)}")
        return cls(**values)

    def epochs_of(self, stage: int) -> int:
        """Return the number of epochs of one stage."""
        return self.epochs[stage if len(self.epochs) > 1 else 0]

    def frozen_epochs_of(self, stage: int) -> int:
        """Return how many epochs of one stage leave the encoder alone."""
        if stage > 0:
            return 0
        return self.freeze_epochs if self.freeze_epochs is not None else int(self.weights is not None)
