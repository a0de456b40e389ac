"""TinySSD of "Dive into Deep Learning", section 14.7, with its blocks, anchors and initial weights.

https://d2l.ai/chapter_computer-vision/ssd.html
"""

import torch
from torch import Tensor, nn

from visdeploy.anchors import MultiboxPrior
from visdeploy.models.encoders import map_sizes
from visdeploy.models.registry import register

SIZES = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
RATIOS = (1.0, 2.0, 0.5)
ANCHORS = 4  # of a cell: len(sizes) + len(ratios) - 1
CHANNELS = (64, 128, 128, 128, 128)


def halving(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return the book's `down_sample_blk`: twice convolution, BatchNorm and ReLU, then the maximum of four pixels."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class TinyBody(nn.Module):
    """Five stages; the first halves the image three times, the last looks at all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(halving(3, 16), halving(16, 32), halving(32, 64)),
                halving(64, 128),
                halving(128, 128),
                halving(128, 128),
                nn.AdaptiveMaxPool2d((1, 1)),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the map of each stage, finest first."""
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


@register("tinyssd", "the small detector of the d2l book, with a body of its own", tasks=("detection",))
class TinySsd(nn.Module):
    """The book's body, and on each of its maps a convolution for the classes and one for the boxes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classes = num_classes + 1
        self.encoder = TinyBody()
        self.cls = nn.ModuleList([nn.Conv2d(width, ANCHORS * self.classes, 3, padding=1) for width in CHANNELS])
        self.bbox = nn.ModuleList([nn.Conv2d(width, ANCHORS * 4, 3, padding=1) for width in CHANNELS])

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to (B, N, num_classes + 1 + 4), as `bundle.Spec` says of detection."""
        maps = self.encoder(x)
        logits: list[Tensor] = []
        offsets: list[Tensor] = []
        level = 0
        for cls, bbox in zip(self.cls, self.bbox):  # noqa: B905 (TorchScript knows no strict=)
            logits.append(cls(maps[level]).permute(0, 2, 3, 1).flatten(1))
            offsets.append(bbox(maps[level]).permute(0, 2, 3, 1).flatten(1))
            level += 1
        batch = x.shape[0]
        parts = [torch.cat(logits, 1).reshape(batch, -1, self.classes), torch.cat(offsets, 1).reshape(batch, -1, 4)]
        return torch.cat(parts, 2)

    def anchors(self, size: tuple[int, int]) -> MultiboxPrior:
        """Return what the offsets are relative to in an image of `size`, height and width.

        Raises:
            InputError: The image is too small for the body.
        """
        sizes = map_sizes(self.encoder, size)
        return MultiboxPrior(feature_sizes=sizes, sizes=SIZES, ratios=(RATIOS,) * len(SIZES))
