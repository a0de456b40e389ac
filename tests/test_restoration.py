"""Networks that answer a picture: the whole way from an image file to the restored one."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import visdeploy
from visdeploy import export


class Identity(nn.Module):
    """Answers what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0


class Residual(nn.Module):
    """Adds a seeded correction of a kernel's size to its input, as most restorers do."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, kernel, padding=kernel // 2)
        self.last = nn.Conv2d(8, 3, 1)
        generator = torch.Generator().manual_seed(kernel)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(torch.relu(self.first(x)))


def make(path: Path, net: nn.Module, golden: Any, **changes: Any) -> Path:
    spec = {"task": "restoration", "size": 32, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    report = export.export(net, path, spec=spec | changes, golden=golden)
    assert report.ok
    return path
