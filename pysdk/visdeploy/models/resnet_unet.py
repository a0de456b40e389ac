"""The ResNet-UNet of the repository usuyama/pytorch-unet: bilinear upsampling, and a branch at full size."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from visdeploy.errors import InputError
from visdeploy.models.encoders import create_pyramid, require_multiple
from visdeploy.models.registry import register

STRIDES = [2, 4, 8, 16, 32]
# Of the maps at 1/16, 1/8, 1/4 and 1/2 of the size, then of those at full size.
WIDTHS = (512, 256, 256, 128)
FULL = 64


def conv_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size, with its ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.ReLU(inplace=True))


def enlarge_to(x: Tensor, other: Tensor) -> Tensor:
    """Interpolate to another map's height and width, corners on corners."""
    return functional.interpolate(x, size=other.shape[-2:], mode="bilinear", align_corners=True)


@register(
    "resnet_unet",
    "ResNet-UNet (usuyama/pytorch-unet): bilinear upsampling, two convolutions of the image at full size",
    tasks=("segmentation",),
    encoder="resnet18",
)
class ResnetUnet(nn.Module):
    """Backbone, each feature through a 1x1 convolution, joined from coarse to fine, at last with the image's own.

    Args:
        encoder: Name of a backbone with feature maps at strides 2, 4, 8, 16 and 32.
        num_classes: Channels of the logits.

    Raises:
        InputError: The backbone has other strides.
    """

    def __init__(self, encoder: str, num_classes: int) -> None:
        super().__init__()
        self.encoder = create_pyramid(encoder)
        channels, strides = self.encoder.channels, self.encoder.strides
        if strides != STRIDES:
            raise InputError(f"[resnet_unet] encoder: expected one with strides {STRIDES}, got {strides} of {encoder}")
        self.divisor = strides[-1]
        self.cross = nn.ModuleList([conv_relu(width, width, 1) for width in channels])
        self.up = nn.ModuleList()
        width = channels[-1]
        for level, joined in enumerate(WIDTHS):
            self.up.append(conv_relu(width + channels[-2 - level], joined, 3))
            width = joined
        self.full = nn.Sequential(conv_relu(3, FULL, 3), conv_relu(FULL, FULL, 3))
        self.join = conv_relu(width + FULL, FULL, 3)
        self.head = nn.Conv2d(FULL, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to logits (B, num_classes, H, W)."""
        require_multiple(x, self.divisor, "resnet_unet")
        features = self.encoder(x)
        crosses = [cross(features[level]) for level, cross in enumerate(self.cross)]
        y = crosses[-1]
        for level, up in enumerate(self.up):
            cross = crosses[len(crosses) - 2 - level]
            y = up(torch.cat([enlarge_to(y, cross), cross], dim=1))
        out: Tensor = self.head(self.join(torch.cat([enlarge_to(y, x), self.full(x)], dim=1)))
        return out
