"""The fast.ai course's baseline for the U-Net (lesson 14, `Upsample34`): the same decoder without cross connections."""

import torch
from torch import Tensor, nn

from visdeploy.kinds import Count
from visdeploy.models.encoders import create_pyramid, require_multiple
from visdeploy.models.registry import register


class StdUpsample(nn.Module):
    """Upsample by a transposed convolution, ReLU, BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, scale: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, scale, stride=scale)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, h, w) to (B, out, h * scale, w * scale)."""
        out: Tensor = self.bn(torch.relu(self.conv(x)))
        return out


@register(
    "upsample",
    "fast.ai's lesson-14 baseline (Upsample34): a U-Net without cross connections",
    tasks=("segmentation",),
    encoder="resnet34",
)
class Upsample(nn.Module):
    """Backbone, one `StdUpsample` for each of its halvings but the first, then a transposed convolution to full size.

    Args:
        encoder: Name of the backbone; only its last feature map is read.
        num_classes: Channels of the logits.
        decoder_channels: Width of every block.
    """

    def __init__(self, encoder: str, num_classes: int, decoder_channels: Count = 256) -> None:
        super().__init__()
        self.encoder = create_pyramid(encoder)
        strides = self.encoder.strides
        self.divisor = strides[-1]
        self.blocks = nn.Sequential()
        width = self.encoder.channels[-1]
        for level in range(len(strides) - 2, -1, -1):
            self.blocks.append(StdUpsample(width, decoder_channels, strides[level + 1] // strides[level]))
            width = decoder_channels
        self.head = nn.ConvTranspose2d(width, num_classes, strides[0], stride=strides[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to logits (B, num_classes, H, W)."""
        require_multiple(x, self.divisor, "upsample")
        out: Tensor = self.head(self.blocks(torch.relu(self.encoder(x)[-1])))
        return out

    def layouts(self) -> dict[str, dict[str, str]]:
        """Return what the course calls the parameters of its `Upsample34`, see `weights.load_weights`."""
        blocks = {rf"^features\.{2 + index}\.": f"blocks.{index}." for index in range(len(self.blocks))}
        head = {rf"^features\.{2 + len(self.blocks)}\.": "head."}
        # The course's file holds the backbone under both names.
        backbone = {**self.encoder.by_position("rn"), **self.encoder.by_position("features.0")}
        return {"fastai": {**backbone, **blocks, **head}}
