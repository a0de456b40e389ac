"""The networks of fast.ai's lesson 8 for the one main object of an image: its class, its box, or both at once."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from visdeploy.kinds import Count, Fraction, Sides
from visdeploy.models.encoders import create_encoder, map_sizes
from visdeploy.models.registry import register

Predicts = Literal["both", "box", "label"]
# The first guess is the middle half of the image: sigmoid(-1.1) is a quarter.
MIDDLE = (-1.1, -1.1, 1.1, 1.1)


class ConcatPool(nn.Module):
    """fast.ai's pooling: the largest and the mean value of each channel, (B, C, h, w) to (B, 2 C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima, then the means."""
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


@register(
    "localizer",
    "fast.ai's lesson-8 networks for one main object: its class, its box, or both",
    tasks=("localization", "classification"),
    encoder="resnet34",
)
class Localizer(nn.Module):
    """A backbone whose last feature map is read by linear layers.

    Args:
        encoder: Name of the backbone.
        num_classes: Classes of objects; without meaning to "box".
        predicts: "both" is the course's joint head; "box" its stand-alone regressor; "label" its classifier.
        size: Height and width of the images, which "both" and "box" are bound to; one number means a square.
        hidden: Width of the layer between, where there is one.
        dropout: Of the values before the last layer; see `head`.
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        predicts: Predicts = "both",
        size: Sides = 224,
        hidden: Count = 256,
        dropout: Fraction = 0.5,
    ) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder)
        self.height, self.width = size if isinstance(size, tuple | list) else (size, size)
        self.any_size = predicts == "label"
        channels = self.encoder.channels[-1]
        if predicts == "label":
            self.head = nn.Sequential(
                ConcatPool(),
                nn.BatchNorm1d(2 * channels),
                nn.Dropout(dropout / 2),
                nn.Linear(2 * channels, hidden),
                nn.ReLU(),
                nn.BatchNorm1d(hidden),
                nn.Dropout(dropout),
                nn.Linear(hidden, num_classes),
            )
            return
        height, width = map_sizes(self.encoder, (self.height, self.width))[-1]
        features = channels * height * width
        if predicts == "box":
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, 4))
        else:
            self.head = nn.Sequential(
                nn.Flatten(),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(features, hidden),
                nn.ReLU(),
                nn.BatchNorm1d(hidden),
                nn.Dropout(dropout),
                nn.Linear(hidden, 4 + num_classes),
            )
        with torch.no_grad():
            cast(Tensor, self.head[-1].bias)[:4] = torch.tensor(MIDDLE)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to what `bundle.Spec` says of localization or classification.

        That is (B, 4 + num_classes) of "both", (B, 4) of "box" and (B, num_classes) of "label".
        """
        if not torch.jit.is_tracing() and not self.any_size:
            height, width = x.shape[-2], x.shape[-1]
            if height != self.height or width != self.width:
                raise ValueError(
                    f"[localizer] x: made for images of {self.height} x {self.width}, got {height} x {width}; "
                    "create it with that size"
                )
        out: Tensor = self.head(self.encoder(x)[-1])
        return out
