"""Which parts of the backbone stand still while the rest learns."""

import copy
from collections.abc import Set
from typing import Any, cast

import torch
from torch import nn

from visdeploy.errors import InputError


def names_up_to(net: nn.Module, stride: int) -> frozenset[str]:
    """Return the names, in `net.encoder`, of the parameters that its feature map of `stride` depends on.

    Raises:
        InputError: The backbone has no such map.
    """
    if stride == 0:
        return frozenset()
    encoder = cast(Any, net.get_submodule("encoder"))
    strides = getattr(encoder, "strides", [])
    if stride not in strides:
        raise InputError(f"[train] freeze_to: expected 0 or one of the strides {strides}, got {stride}")
    # On the meta device nothing is computed but what depends on what.
    shadow = copy.deepcopy(encoder).to("meta").eval().requires_grad_()
    side = 2 * max(strides)
    reached = shadow(torch.empty(1, 3, side, side, device="meta"))[strides.index(stride)]
    names, parameters = zip(*shadow.named_parameters(), strict=True)
    gradients = torch.autograd.grad(reached.sum(), parameters, allow_unused=True)
    return frozenset(name for name, gradient in zip(names, gradients, strict=True) if gradient is not None)


def freeze(net: nn.Module, *, everything: bool, names: Set[str], statistics: bool) -> None:
    """Stop parameters of `net.encoder` from learning, and let the others learn.

    Args:
        net: A model of `models.create`; one without an encoder learns as a whole.
        everything: All of them stand still, and so do the BatchNorm statistics.
        names: Those that do in any case, with the statistics of BatchNorm layers they belong to.
        statistics: All BatchNorm statistics stand still.
    """
    encoder = getattr(net, "encoder", None)
    if encoder is None:
        return
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not everything and name not in names)
    for name, module in encoder.named_modules():
        if isinstance(module, nn.BatchNorm2d) and (everything or statistics or f"{name}.weight" in names):
            module.eval()
