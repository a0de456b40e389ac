"""Networks small enough to export in a second."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from visdeploy.anchors import DefaultBoxes


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


class BoxNet(nn.Module):
    """A detector of 64x64 images with seeded weights that is sure of some boxes: a map of 8x8, four anchors a cell."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.values = classes + 1 + 4
        self.body = ConvNet(8, stride=8)
        self.head = nn.Conv2d(8, 4 * self.values, 1)
        generator = torch.Generator().manual_seed(classes)
        self.head.weight.data = torch.randn(self.head.weight.shape, generator=generator) * 0.4
        self.head.bias.data = torch.randn(self.head.bias.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x))).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)

    def anchors(self, size: tuple[int, int]) -> DefaultBoxes:
        cells = (-(-size[0] // 8), -(-size[1] // 8))
        return DefaultBoxes(feature_sizes=(cells,), aspect_ratios=((2.0,),), scales=(0.2, 0.4))


class TwoHeads(nn.Module):
    """The same with logits and offsets apart, as most detectors have them."""

    def __init__(self, classes: int, form: str) -> None:
        super().__init__()
        self.net, self.form = BoxNet(classes), form

    def forward(self, x: Tensor) -> object:
        answer = self.net(x)
        logits, offsets = answer[..., :-4], answer[..., -4:]
        if self.form == "dict":
            return {"bbox_regression": offsets, "cls_logits": logits}
        return (logits, offsets) if self.form == "logits first" else (offsets, x, logits)


class Answering(nn.Module):
    """Answers whatever it is told to."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)
