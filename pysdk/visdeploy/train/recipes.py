"""Named presets of `TrainOptions`: what a course or a paper trained a model with, and what this package does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from visdeploy.errors import InputError, did_you_mean
from visdeploy.models.registry import REGISTRY
from visdeploy.train.options import TrainOptions


@dataclass(frozen=True)
class Recipe:
    """Some fields of `TrainOptions`; the others keep their defaults.

    Attributes:
        line: What it is, in a line.
        fields: The fields by name.
    """

    line: str
    fields: Mapping[str, Any]


# One rate for the whole network, plain cross-entropy, and the weights as the optimiser leaves them.
_PLAIN = {"schedule": "constant", "encoder_lr": 1.0, "weight_decay": 0.0, "freeze_epochs": 0, "ema": 0.0, "dice": 0.0}
_FCN = {**_PLAIN, "arch": "fcn", "optimizer": "sgd"}
_RESNET_UNET = {**_PLAIN, "arch": "resnet_unet"}

RECIPES: dict[str, Recipe] = {
    "fcn-sgd": Recipe("d2l's FCN, SGD 1e-3, weight decay 1e-3", {**_FCN, "lr": 1e-3, "weight_decay": 1e-3}),
    "fcn-sgd-sum": Recipe(
        "the same on the loss summed over a batch of 32, as d2l steps: 3.2e-2 on the mean",
        {**_FCN, "lr": 3.2e-2, "weight_decay": 1e-3 / 32},
    ),
    "resnet_unet-sgd": Recipe("ResNetUNet, SGD 1e-3", {**_RESNET_UNET, "optimizer": "sgd", "lr": 1e-3}),
    "resnet_unet-adam-1e-3": Recipe("ResNetUNet, Adam 1e-3", {**_RESNET_UNET, "optimizer": "adam", "lr": 1e-3}),
    "resnet_unet-adam-1e-4": Recipe(
        "ResNetUNet, Adam 1e-4, from the middle of the run 1e-5",
        {**_RESNET_UNET, "optimizer": "adam", "lr": 1e-4, "schedule": "step"},
    ),
}


def preset(name: str) -> Mapping[str, Any]:
    """Return the fields of `TrainOptions` that a recipe sets.

    Args:
        name: One of `RECIPES`; or a model's, which is trained with the defaults: one-cycle AdamW.

    Raises:
        InputError: There is neither.
    """
    if name in RECIPES:
        return RECIPES[name].fields
    if name in REGISTRY:
        return {"arch": name}
    known = [*RECIPES, *sorted(REGISTRY)]
    hint = did_you_mean(name, known)
    raise InputError(f"[train] recipe: expected one of {', '.join(known)}, got {name!r}{hint}")


def options(name: str, **overrides: Any) -> TrainOptions:
    """Return the options of a recipe.

    Args:
        name: See `preset`.
        **overrides: Fields of `TrainOptions`, `out` among them, which win over the recipe's.

    Raises:
        InputError: There is no such recipe or no such field, or the fields contradict each other.
    """
    return TrainOptions.parse({**preset(name), **overrides})
