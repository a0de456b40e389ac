"""SSD over any backbone: one small head per feature map, with or without a top-down path of U-Net blocks."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

from visdeploy.anchors import DefaultBoxes
from visdeploy.errors import InputError
from visdeploy.kinds import Count, Halved, Whole
from visdeploy.models.encoders import create_encoder, map_sizes
from visdeploy.models.registry import register
from visdeploy.models.unet import UnetBlock

Neck = Literal["none", "fpn"]
# Default boxes from this share of the image to that.
SMALLEST, LARGEST = 0.06, 0.9
# What all classes of objects together are given at first: most anchors show nothing.
FOREGROUND = 0.05


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return convolution, BatchNorm and ReLU; the map keeps its size but for the stride."""
    weights = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(weights.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(weights, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def favour_background(bias: Tensor, num_classes: int) -> None:
    """Set the biases of one map's predictions, (anchors * (num_classes + 1 + 4)), so that the background is likely."""
    with torch.no_grad():
        bias.zero_()
        bias.view(-1, num_classes + 5)[:, 0] = math.log(num_classes * (1 - FOREGROUND) / FOREGROUND)


class TopDown(nn.Module):
    """The U-Net's way up, stopped at the finest map that has anchors: detail gains what the coarse maps know."""

    def __init__(self, channels: list[int], strides: list[int], out_channels: int, even: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        width = channels[-1]
        for level in range(len(channels) - 2, -1, -1):
            scale = strides[level + 1] // strides[level]
            self.blocks.append(UnetBlock(width, channels[level], out_channels, scale, even))
            width = out_channels

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return a map for each given one, finest first; the coarsest stays as it is."""
        level = len(maps) - 1
        y = maps[level]
        out = [y]
        for block in self.blocks:
            level -= 1
            y = block(y, maps[level])
            out.insert(0, y)
        return out


@register(
    "ssd",
    "single-shot detector over any backbone, whose neck may be U-Net-shaped",
    tasks=("detection",),
    encoder="mobilenet_v2",
)
class Ssd(nn.Module):
    """A backbone, extra maps that halve its last one, and a head of two convolutions on every map.

    Args:
        encoder: Name of the backbone.
        num_classes: Classes of objects, without the background.
        neck: "none" puts heads on the backbone's maps as they are. "fpn" first joins each with the coarser ones by
            `UnetBlock`s, which helps small objects; height and width of the image must then be multiples of `divisor`.
        channels: Width of extra maps, heads and neck.
        strides: Which of the backbone's maps have anchors.
        extras: How many maps follow the last of those, each half the size of the one before.
        scales: Sides of the anchors of each map as shares of the image's, and one more; see `ops.default_boxes`. By
            default they rise from 0.06 to 0.9 by a constant factor.
        aspect_ratios: Of the anchors besides squares: numbers for all maps, or a list of them for each.

    Raises:
        InputError: An option is wrong, or the backbone has no map of such a stride.
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        neck: Neck = "none",
        channels: Halved = 128,
        strides: Sequence[Count] = (8, 16, 32),
        extras: Whole = 1,
        scales: Sequence[float] | None = None,
        aspect_ratios: Sequence[float] | Sequence[Sequence[float]] = (2.0,),
    ) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder)
        levels = len(strides) + extras
        self.scales = _scales(scales, levels)
        self.aspect_ratios = _per_map(aspect_ratios, levels)
        self.taps = _taps(strides, self.encoder.strides)
        self.values = num_classes + 5
        tapped = [self.encoder.channels[tap] for tap in self.taps]
        self.divisor = 1
        self.top_down: TopDown | None = None
        widths = tapped
        if neck == "fpn":
            self.divisor = strides[-1]
            self.top_down = TopDown(tapped, list(strides), channels, self.encoder.divides_evenly())
            widths = [channels] * (len(tapped) - 1) + tapped[-1:]
        self.extras = nn.ModuleList()
        for _ in range(extras):
            half = conv(channels // 2, channels, 3, stride=2)
            self.extras.append(nn.Sequential(conv(widths[-1], channels // 2, 1), half))
            widths = [*widths, channels]
        self.heads = nn.ModuleList()
        for width, ratios in zip(widths, self.aspect_ratios, strict=True):
            predict = nn.Conv2d(channels, (2 + 2 * len(ratios)) * self.values, 1)
            nn.init.normal_(predict.weight, std=0.01)
            favour_background(cast(Tensor, predict.bias), num_classes)
            self.heads.append(nn.Sequential(conv(width, channels, 3), predict))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to (B, N, num_classes + 1 + 4), as `bundle.Spec` says of detection."""
        if not torch.jit.is_tracing():
            height, width = x.shape[-2], x.shape[-1]
            if height % self.divisor != 0 or width % self.divisor != 0:
                raise ValueError(
                    f"[ssd] x: height and width must be divisible by {self.divisor} with this neck, "
                    f"got {height} x {width}"
                )
        features = self.encoder(x)
        maps = [features[tap] for tap in self.taps]
        y = maps[-1]
        if self.top_down is not None:
            maps = self.top_down(maps)
        for extra in self.extras:
            y = extra(y)
            maps.append(y)
        rows: list[Tensor] = []
        level = 0
        for head in self.heads:
            # One convolution answers for all anchors of a cell, in the order of the answer.
            rows.append(head(maps[level]).permute(0, 2, 3, 1).flatten(1))
            level += 1
        return torch.cat(rows, 1).reshape(x.shape[0], -1, self.values)

    def anchors(self, size: tuple[int, int]) -> DefaultBoxes:
        """Return what the offsets are relative to in an image of `size`, height and width.

        Raises:
            InputError: The network cannot take images of this size.
        """
        if any(side % self.divisor for side in size):
            raise InputError(f"[ssd] size: expected multiples of {self.divisor} with this neck, got {size}")
        of_encoder = map_sizes(self.encoder, size)
        sizes = [of_encoder[tap] for tap in self.taps]
        for _ in self.extras:
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        ratios = tuple(tuple(one) for one in self.aspect_ratios)
        return DefaultBoxes(feature_sizes=tuple(sizes), aspect_ratios=ratios, scales=tuple(self.scales))


def _taps(strides: Sequence[int], offered: list[int]) -> list[int]:
    if not strides or any(coarse <= fine for fine, coarse in pairwise(strides)):
        raise InputError(f"[ssd] strides: expected rising numbers, got {list(strides)}")
    if missing := [stride for stride in strides if stride not in offered]:
        raise InputError(f"[ssd] strides: the backbone has maps of strides {offered}, and none of {missing[0]}")
    return [offered.index(stride) for stride in strides]


def _scales(scales: Sequence[float] | None, levels: int) -> list[float]:
    if scales is None:
        factor = (LARGEST / SMALLEST) ** (1 / max(levels - 1, 1))
        return [round(SMALLEST * factor**level, 4) for level in range(levels)] + [1.0]
    if len(scales) != levels + 1 or not all(0 < scale < math.inf for scale in scales):
        raise InputError(f"[ssd] scales: expected {levels + 1} positive numbers for {levels} maps, got {list(scales)}")
    return [float(scale) for scale in scales]


def _per_map(ratios: Sequence[float] | Sequence[Sequence[float]], levels: int) -> list[list[float]]:
    lists = [entry for entry in ratios if isinstance(entry, Sequence)]
    if not lists:
        lists = [cast(Sequence[float], ratios)] * levels
    positive = all(isinstance(ratio, int | float) and 0 < ratio < math.inf for one in lists for ratio in one)
    if len(lists) != levels or not positive:
        raise InputError(f"[ssd] aspect_ratios: expected positive numbers, or {levels} lists of them, got {ratios!r}")
    return [[float(ratio) for ratio in one] for one in lists]
