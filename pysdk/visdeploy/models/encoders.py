"""Backbones that return one feature map per stride, finest first.

Those in `TORCHVISION` come from there, with its parameter names, so its weights load as they are. Every other name is
looked up in timm, which builds the same pyramid from any of its `features_only` models.
"""

import copy
import difflib
import re
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from visdeploy.errors import InputError, requires

PerChannel = tuple[float, float, float]


class Encoder(nn.Module):
    """A backbone that maps (B, 3, H, W) to a list of feature maps.

    Attributes:
        channels: Depth of each feature map, finest first.
        strides: How many input pixels one feature pixel spans, in the same order.
    """

    # Lists, because TorchScript cannot infer the type of a tuple of any length.
    channels: list[int]
    strides: list[int]
    # Where the parts lie in torchvision's network, cut as `nn.Sequential(*children)`: a pattern of names to our own.
    positions: ClassVar[dict[str, str]] = {}

    def by_position(self, prefix: str) -> dict[str, str]:
        """Return the renames, see `weights.load_weights`, of a backbone that others cut and called `prefix`."""
        return {rf"^{re.escape(prefix)}\.{part}": f"encoder.{name}" for part, name in self.positions.items()}

    def divides_evenly(self) -> bool:
        """Whether every feature map has exactly 1 / stride of the input's size, padding rules considered.

        Raises:
            InputError: It takes images of one size only, or its feature maps are not (B, C, h, w).
        """
        side = 2 * self.strides[-1]
        was_training = self.training
        try:
            with torch.no_grad():
                features = self.eval()(torch.zeros(1, 3, side, side))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise InputError(
                f"[models] encoder: expected a backbone that takes images of any size, but this one refuses "
                f"{side}x{side} ({error}); choose another"
            ) from error
        self.train(was_training)
        depths = [feature.shape[1] for feature in features]
        if depths != self.channels:
            raise InputError(f"[models] encoder: expected features of depth {self.channels} on axis 1, got {depths}")
        return [feature.shape[-1] for feature in features] == [side // stride for stride in self.strides]


class ResNetEncoder(Encoder):
    """A torchvision ResNet without its classifier."""

    positions: ClassVar[dict[str, str]] = {
        r"0\.": "conv1.",
        r"1\.": "bn1.",
        **{rf"{position}\.": f"layer{position - 3}." for position in range(4, 8)},
    }

    def __init__(self, name: str, to_pooling: bool = False) -> None:
        super().__init__()
        import torchvision

        net = getattr(torchvision.models, name)(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        wide = 4 if name == "resnet50" else 1
        self.channels = [64, 64 * wide, 128 * wide, 256 * wide, 512 * wide]
        self.strides = [2, 4, 8, 16, 32]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features taken before each stride-2 stage, then the last."""
        x2 = self.relu(self.bn1(self.conv1(x)))
        x4 = self.layer1(self.maxpool(x2))
        x8 = self.layer2(x4)
        x16 = self.layer3(x8)
        return [x2, x4, x8, x16, self.layer4(x16)]


class MobileNetV2Encoder(Encoder):
    """Torchvision's MobileNetV2 without its classifier, and without its last convolution unless `to_pooling`."""

    positions: ClassVar[dict[str, str]] = {r"(?=\d+\.)": "features."}

    def __init__(self, name: str, to_pooling: bool = False) -> None:
        super().__init__()
        import torchvision

        net = getattr(torchvision.models, name)(weights=None)
        last = 18 if to_pooling else 17
        self.features = net.features[: last + 1]
        self.channels = [16, 24, 32, 96, 1280 if to_pooling else 320]
        self.strides = [2, 4, 8, 16, 32]
        self.last_of_stride = [1, 3, 6, 13, last]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features taken before each halving, then the last."""
        maps: list[Tensor] = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.last_of_stride:
                maps.append(x)
        return maps


class TimmEncoder(Encoder):
    """Any timm model that offers `features_only`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        timm = _import_timm()
        self.body = timm.create_model(name, features_only=True, pretrained=False)
        self.channels = list(self.body.feature_info.channels())
        self.strides = list(self.body.feature_info.reduction())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the model's own pyramid."""
        features: list[Tensor] = self.body(x)
        return features


TORCHVISION: dict[str, Callable[[str, bool], Encoder]] = {
    "resnet18": ResNetEncoder,
    "resnet34": ResNetEncoder,
    "resnet50": ResNetEncoder,
    "mobilenet_v2": MobileNetV2Encoder,
}


def create_encoder(name: str, *, to_pooling: bool = False) -> Encoder:
    """Build the backbone `name` with random weights; no network is used.

    Args:
        name: In `TORCHVISION`, or timm's.
        to_pooling: Keep what a torchvision network has between its last stage and its pooling: the convolution to 1280
            channels of MobileNetV2, nothing of a ResNet. What timm offers always ends with the last stage.

    Raises:
        InputError: Neither `TORCHVISION` nor timm know the name, or the model has no pyramid of strides.
    """
    if name in TORCHVISION:
        return TORCHVISION[name](name, to_pooling)
    _require_timm_model(name)
    try:
        encoder = TimmEncoder(name)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise InputError(f"[models] encoder: timm's {name!r} offers no feature pyramid ({error})") from error
    if any(coarse <= fine for fine, coarse in pairwise(encoder.strides)):
        raise InputError(f"[models] encoder: {name!r}: expected rising strides, got {encoder.strides}")
    return encoder


def require_multiple(x: Tensor, divisor: int, model: str) -> None:
    """Refuse images that a model cannot halve evenly; in a traced graph, where sizes are no numbers, nothing is done.

    Raises:
        ValueError: Height or width of (B, C, H, W) is no multiple of `divisor`.
    """
    if not torch.jit.is_tracing():
        height, width = x.shape[-2], x.shape[-1]
        if height % divisor != 0 or width % divisor != 0:
            raise ValueError(
                f"[{model}] x: height and width must be divisible by {divisor}, got {height} x {width}; "
                "visdeploy's predictor pads images by itself"
            )


def create_pyramid(name: str, *, to_pooling: bool = False) -> Encoder:
    """Build a backbone whose maps can be joined to each other: `create_encoder`, and its maps are what it says of them.

    Raises:
        InputError: As `create_encoder`, or there are fewer than two maps, or they do not get smaller.
    """
    encoder = create_encoder(name, to_pooling=to_pooling)
    if len(encoder.strides) < 2:
        raise InputError(
            f"[models] encoder: {name!r} has feature maps of {len(encoder.strides)} stride, "
            "but a U-Net joins maps of at least two; choose another backbone"
        )
    encoder.divides_evenly()
    return encoder


def map_sizes(network: nn.Module, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return height and width of every feature map that a network makes of an image of `size`, height and width.

    Args:
        network: It returns a feature map, a list of them, or a dict. Nothing of it changes.
        size: In pixels.

    Raises:
        InputError: It cannot take images of this size.
    """
    # On the meta device only shapes are worked out.
    shadow = copy.deepcopy(network).to("meta").eval()
    try:
        with torch.no_grad():
            maps = shadow(torch.empty(1, 3, *size, device="meta"))
    except (RuntimeError, ValueError) as error:
        message = f"[models] size: the network cannot take images of {size[0]} x {size[1]} ({error})"
        raise InputError(message) from error
    maps = [maps] if isinstance(maps, Tensor) else maps.values() if isinstance(maps, dict) else maps
    return tuple((one.shape[2], one.shape[3]) for one in maps)


def normalisation(name: str | None) -> tuple[PerChannel, PerChannel]:
    """Return the mean and std per RGB channel, on the scale 0..1, that a backbone's published weights expect.

    A backbone without published weights, and a model without a backbone (None), get ImageNet's.

    Raises:
        InputError: No backbone has this name.
    """
    config = None
    if name is not None and name not in TORCHVISION:
        _require_timm_model(name)
        config = _import_timm().get_pretrained_cfg(name)
    if config is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    (mean, std) = ((float(red), float(green), float(blue)) for red, green, blue in (config.mean, config.std))
    return mean, std


def pretrained_state(name: str, weights: str) -> dict[str, Tensor]:
    """Download the weights that torchvision or timm publish for a backbone; `weights` is their tag."""
    if name in TORCHVISION:
        import torchvision

        fetch: Callable[[], dict[str, Tensor]]
        try:
            fetch = torchvision.models.get_model_weights(name)[weights].get_state_dict
        except KeyError as error:
            known = ", ".join(entry.name for entry in torchvision.models.get_model_weights(name))
            raise InputError(f"[models] weights: no file and no torchvision tag {weights!r}; known: {known}") from error
    else:

        def fetch() -> dict[str, Tensor]:
            tagged = name if weights == "DEFAULT" else f"{name}.{weights}"
            state: dict[str, Tensor] = _import_timm().create_model(tagged, pretrained=True).state_dict()
            return state

    try:
        return fetch()
    except (OSError, RuntimeError) as error:
        raise InputError(f"[models] weights: {weights!r} is no file, and it cannot be downloaded ({error})") from error


def _require_timm_model(name: str) -> None:
    known = _import_timm().list_models()
    if name not in known:
        close = difflib.get_close_matches(name, {*TORCHVISION, *known}, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"[models] encoder: no backbone named {name!r} here or in timm{hint}")


def _import_timm() -> "timm":  # type: ignore[name-defined]  # noqa: F821
    with requires("an encoder of timm needs it", "train"):
        import timm
    return timm
