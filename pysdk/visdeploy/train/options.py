"""Everything that decides a training run, in one place; the command line fills it in."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from visdeploy.errors import InputError
from visdeploy.models.registry import REGISTRY
from visdeploy.spec import Task
from visdeploy.train.detection_losses import BoxLoss, ClassLoss

Size = tuple[int, int]
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

    out: Path
    task: Task = "segmentation"
    arch: str = ""
    encoder: str | None = None
    weights: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[Size, ...] = ()
    epochs: tuple[int, ...] = (20,)
    batch: int = 8
    lr: float | None = 1e-3
    encoder_lr: float = 0.3
    optimizer: Optimizer = "adamw"
    momentum: float = 0.0
    weight_decay: float = 1e-2
    schedule: Schedule = "one_cycle"
    warmup: float = 0.2
    step_at: float = 0.5
    freeze_epochs: int | None = None
    freeze_to: int | None = None
    freeze_bn: bool | None = None
    ema: float = 0.98
    dice: float = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    pos_weight: float = 1.0
    box_loss: BoxLoss = "smooth_l1"
    class_loss: ClassLoss = "mining"
    label_weight: float = 20.0
    feature_loss: float = 0.0
    gram_loss: float = 0.0
    flip: bool = True
    upside_down: bool = False
    rotate: float | None = None
    scale: tuple[float, float] = (0.8, 1.4)
    lighting: float = 0.2
    resize: Literal["stretch", "letterbox", "tile", "native"] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in _MODELS:
            raise InputError(f"[train] task: expected {', '.join(_MODELS)}, got {self.task!r}")
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
        for name in ("batch", *(("lr",) if self.lr is not None else ())):
            if getattr(self, name) <= 0:
                raise InputError(f"[train] {name}: expected a positive number, got {getattr(self, name)}")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise InputError(f"[train] {name}: expected {known}, got {getattr(self, name)!r}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"[train] momentum: expected a number from 0 to below 1, got {self.momentum}")
        if self.momentum and self.optimizer != "sgd":
            raise InputError(f"[train] momentum: goes with sgd, got the optimizer {self.optimizer}")
        if not 0 < self.step_at < 1:
            raise InputError(f"[train] step_at: expected a share between 0 and 1, got {self.step_at}")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"[train] warmup: expected a share from 0 to 1, got {self.warmup}")
        weights = ("dice", "pos_weight", "label_weight", "feature_loss", "gram_loss")
        for name in ("encoder_lr", "weight_decay", *weights):
            if not getattr(self, name) >= 0:
                raise InputError(f"[train] {name}: expected a number of at least 0, got {getattr(self, name)}")
        for name in ("feature_loss", "gram_loss"):
            if getattr(self, name) and (self.weights is None or self.encoder is None):
                raise InputError(
                    f"[train] {name}: expected an encoder and its weights, as pictures are compared by the features "
                    "that these have learnt; give --weights, or leave it at 0"
                )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"[train] scale: expected the smallest zoom, above 0, and the largest, got {self.scale}")
        if not 0 <= self.ema < 1:
            raise InputError(f"[train] ema: expected a decay from 0 to below 1, got {self.ema}")
        if min(self.epochs) < 1:
            raise InputError(f"[train] epochs: expected at least 1, got {min(self.epochs)}")

    def epochs_of(self, stage: int) -> int:
        """Return the number of epochs of one stage."""
        return self.epochs[stage if len(self.epochs) > 1 else 0]

    def frozen_epochs_of(self, stage: int) -> int:
        """Return how many epochs of one stage leave the encoder alone."""
        if stage > 0:
            return 0
        return self.freeze_epochs if self.freeze_epochs is not None else int(self.weights is not None)
