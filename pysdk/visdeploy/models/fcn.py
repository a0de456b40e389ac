"""The fully convolutional network of Dive into Deep Learning (section 14.11), for any backbone."""

import torch
from torch import Tensor, nn

from visdeploy.models.encoders import create_encoder, require_multiple
from visdeploy.models.registry import register


def bilinear_kernel(channels: int, size: int) -> Tensor:
    """Return the weights of a transposed convolution that enlarges each channel by bilinear interpolation.

    Returns:
        (channels, channels, size, size) float32, zero between different channels; for a stride of size / 2.
    """
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    line = 1 - (torch.arange(size) - center).abs() / factor
    return torch.eye(channels)[:, :, None, None] * (line[:, None] * line)


@register(
    "fcn",
    "Dive into Deep Learning's FCN: a backbone, a 1x1 convolution, one bilinear transposed convolution",
    tasks=("segmentation",),
    encoder="resnet18",
)
class Fcn(nn.Module):
    """Classes of the last feature map's pixels, enlarged to full size at once.

    Args:
        encoder: Name of the backbone; only its last feature map is read.
        num_classes: Channels of the logits.
    """

    def __init__(self, encoder: str, num_classes: int) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder)
        self.encoder.divides_evenly()
        stride = self.encoder.strides[-1]
        self.divisor = stride
        self.classify = nn.Conv2d(self.encoder.channels[-1], num_classes, 1)
        self.head = nn.ConvTranspose2d(num_classes, num_classes, 2 * stride, stride=stride, padding=stride // 2)
        nn.init.xavier_uniform_(self.classify.weight)
        self.head.weight.data = bilinear_kernel(num_classes, 2 * stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to logits (B, num_classes, H, W)."""
        require_multiple(x, self.divisor, "fcn")
        out: Tensor = self.head(self.classify(self.encoder(x)[-1]))
        return out
