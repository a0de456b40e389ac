"""Anyone's network, brought to the form that every bundle has: one float32 tensor out."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from visdeploy.engines import reason
from visdeploy.errors import InputError, VisdeployError
from visdeploy.spec import Spec

# What detectors call their two outputs, logits and offsets, where they answer a dict.
_NAMED_HEADS = (("cls_logits", "bbox_regression"), ("logits", "offsets"), ("scores", "boxes"))


class SelectOutput(nn.Module):
    """A network that returns a dict, tuple or list, reduced to the one tensor that matters."""

    def __init__(self, net: nn.Module, key: str | int) -> None:
        super().__init__()
        self.net, self.key = net, key

    def forward(self, x: Tensor) -> Tensor:
        """Return the chosen output."""
        chosen: Tensor = self.net(x)[self.key]
        return chosen


class JoinHeads(nn.Module):
    """A detector that returns logits (B, N, C) and offsets (B, N, 4) apart, side by side in one tensor."""

    def __init__(self, net: nn.Module, logits: str | int, offsets: str | int) -> None:
        super().__init__()
        self.net, self.logits, self.offsets = net, logits, offsets

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C + 4)."""
        answer = self.net(x)
        return torch.cat([answer[self.logits], answer[self.offsets]], 2)


def as_network(net: nn.Module) -> nn.Module:
    """Return the part of a torchvision SSD that is a network, and any other module as it is."""
    torchvision = sys.modules.get("torchvision.models.detection.ssd")  # imported by whoever made one
    if torchvision is None or not isinstance(net, torchvision.SSD):
        return net
    from visdeploy import models

    return models.from_torchvision(net)


def completed(spec: Spec | Mapping[str, Any], net: nn.Module) -> Spec | Mapping[str, Any]:
    """Add to a spec what the network knows of itself; what the spec says stays.

    Raises:
        InputError: The network has no anchors for images of this size.
    """
    if isinstance(spec, Spec) or not isinstance(spec, Mapping):
        return spec
    known: Any = getattr(net, "spec_fields", dict)
    spec = {**known(), **spec}
    anchors, size = getattr(net, "anchors", None), spec.get("size")
    if spec.get("task") != "detection" or spec.get("anchors") is not None or not callable(anchors):
        return spec
    try:
        return {**spec, "anchors": anchors((size, size) if isinstance(size, int) else size)}
    except VisdeployError:
        raise
    except Exception as error:  # of a size that is none, or that the network cannot take
        raise InputError(f"[export] size: the network has no anchors for {size} ({reason(error, 0)})") from error


def single_output(net: nn.Module, spec: Spec, example: NDArray[np.uint8]) -> nn.Module:
    """Return a module that answers one tensor, given the (h, w, 3) size it is asked for."""
    answer = net(torch.zeros(1, 3, *example.shape[:2]))
    if isinstance(answer, Tensor):
        return net
    if isinstance(answer, Mapping):
        entries: dict[str | int, Any] = dict(answer)
    elif isinstance(answer, list | tuple):
        entries = dict(enumerate(answer))
    else:
        entries = {}
    tensors = {key: entry for key, entry in entries.items() if isinstance(entry, Tensor)}
    if spec.task == "detection" and (heads := _heads(tensors, spec)) is not None:
        return JoinHeads(net, *heads)
    keys = [key for key in (spec.output_name, "out", *entries) if key in entries]
    if not keys or keys[0] not in tensors:
        raise InputError(f"[export] net: expected a module that returns a tensor, got {type(answer).__name__}")
    return SelectOutput(net, keys[0])


def _heads(tensors: Mapping[str | int, Tensor], spec: Spec) -> tuple[str | int, str | int] | None:
    """Return which outputs are logits and offsets; None where one tensor holds both."""
    for logits, offsets in _NAMED_HEADS:
        if logits in tensors and offsets in tensors:
            return logits, offsets
    return heads_by_shape({key: tuple(tensor.shape) for key, tensor in tensors.items()}, spec)


def heads_by_shape(shapes: Mapping[Any, tuple[int, ...]], spec: Spec) -> tuple[Any, Any] | None:
    """Return the names of the outputs of shape (B, N, C) and (B, N, 4); None without them.

    Where several pairs fit, as with four classes, known names decide, and else the order: logits come first.
    """
    logits = [name for name, shape in shapes.items() if len(shape) == 3 and shape[2] == len(spec.labels)]
    fitting = [
        (name, key)
        for name in logits
        for key, shape in shapes.items()
        if key != name and shape == (*shapes[name][:2], 4)
    ]
    return next((pair for pair in (*_NAMED_HEADS, *fitting) if pair in fitting), None)
