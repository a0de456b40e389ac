"""Networks small enough to export in a second."""

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two convolutions with seeded weights; logits at 1/stride of the input's size."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride, 2)
        self.last = nn.Conv2d(8, channels, 1)
        generator = torch.Generator().manual_seed(channels)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class PickyNet(ConvNet):
    """Takes only multiples of 32, as many do."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 32 != 0 or x.shape[-2] % 32 != 0:
            raise ValueError(f"expected multiples of 32, got {x.shape}")
        return super().forward(x)


class DictNet(nn.Module):
    """Answers as torchvision's segmentation models do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = ConvNet(channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"aux": -logits, "out": logits}


class TupleNet(nn.Module):
    """Answers logits and something else."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = ConvNet(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        return logits, logits.mean()


class UnscriptableNet(nn.Module):
    """Plain Python that torch can trace but not compile."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = {"first": ConvNet(1), "gain": 2.0}
        self.add_module("kept", self.layers["first"])

    def forward(self, x: Tensor, **options: object) -> Tensor:
        steps = [lambda y: self.layers["first"](y), lambda y: y * self.layers["gain"]]
        for step in steps:
            x = step(x)
        return x
