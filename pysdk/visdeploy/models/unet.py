"""The U-Net of the fast.ai course (lesson 14, `Unet34`), for any backbone, without hooks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from visdeploy.kinds import Halved
from visdeploy.models.encoders import create_pyramid, require_multiple
from visdeploy.models.registry import register


class UnetBlock(nn.Module):
    """Upsample by a transposed convolution, join the cross feature, ReLU, BatchNorm."""

    def __init__(self, up_channels: int, cross_channels: int, out_channels: int, scale: int, even: bool) -> None:
        super().__init__()
        self.even = even
        half = out_channels // 2
        self.tr_conv = nn.ConvTranspose2d(up_channels, out_channels - half, scale, stride=scale)
        self.x_conv = nn.Conv2d(cross_channels, half, 1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, up: Tensor, cross: Tensor) -> Tensor:
        """Map (B, up, h, w) and (B, cross, h * scale, w * scale) to (B, out, h * scale, w * scale)."""
        up = self.tr_conv(up)
        if not self.even:
            # A backbone that pads in its own way leaves neighbouring maps a pixel apart.
            up = functional.interpolate(up, size=cross.shape[-2:], mode="nearest")
        joined = torch.cat([up, self.x_conv(cross)], dim=1)
        out: Tensor = self.bn(torch.relu(joined))
        return out


@register(
    "unet",
    "fast.ai's lesson-14 U-Net (Unet34) over any ResNet or timm backbone",
    tasks=("segmentation",),
    encoder="resnet34",
)
class Unet(nn.Module):
    """Backbone, one `UnetBlock` per finer feature map, then a transposed convolution to full resolution."""

    def __init__(self, encoder: str, num_classes: int, decoder_channels: Halved = 256) -> None:
        super().__init__()
        self.encoder = create_pyramid(encoder)
        channels, strides = self.encoder.channels, self.encoder.strides
        self.divisor = strides[-1]
        self.blocks = nn.ModuleList()
        even = self.encoder.divides_evenly()
        width = channels[-1]
        for level in range(len(channels) - 2, -1, -1):
            scale = strides[level + 1] // strides[level]
            self.blocks.append(UnetBlock(width, channels[level], decoder_channels, scale, even))
            width = decoder_channels
        self.head = nn.ConvTranspose2d(width, num_classes, strides[0], stride=strides[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to logits (B, num_classes, H, W)."""
        require_multiple(x, self.divisor, "unet")
        features = self.encoder(x)
        y = torch.relu(features[-1])
        level = len(features) - 2
        for block in self.blocks:
            y = block(y, features[level])
            level -= 1
        out: Tensor = self.head(y)
        return out

    def layouts(self) -> dict[str, dict[str, str]]:
        """Return what the course calls the parameters of its `Unet34`, see `weights.load_weights`."""
        blocks = {rf"^up{number}\.": f"blocks.{number - 1}." for number in range(1, len(self.blocks) + 1)}
        head = {rf"^up{len(self.blocks) + 1}\.": "head."}
        return {"fastai": {**self.encoder.by_position("rn"), **blocks, **head}}
