"""Loading weights that were trained elsewhere, with every mismatch listed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visdeploy.errors import InputError

LAYOUTS = ("visdeploy", "torchvision", "timm", "fastai")

# Mismatches that a message names.
_EXAMPLES = 3

# The course cuts a ResNet with `nn.Sequential(*children)`, so its stages are known by position.
_FASTAI = {
    r"^rn\.0\.": "encoder.conv1.",
    r"^rn\.1\.": "encoder.bn1.",
    **{rf"^rn\.{position}\.": f"encoder.layer{position - 3}." for position in range(4, 8)},
    **{rf"^up{level}\.": f"blocks.{level - 1}." for level in range(1, 5)},
    r"^up5\.": "head.",
}


@dataclass(frozen=True)
class LoadReport:
    """Which parameters a file filled.

    Attributes:
        loaded: Names that were copied.
        unused: Names in the file that the model has no place for; a classifier's head is normal here.
    """

    loaded: tuple[str, ...]
    unused: tuple[str, ...]


def load_weights(net: nn.Module, path: str | Path, layout: str = "visdeploy") -> LoadReport:
    """Copy the weights in a file into `net`, by name.

    Args:
        net: A model of `models.create`.
        path: A file written by `torch.save` (a state dict, or a dict that holds one) or a visdeploy checkpoint.
        layout: Who named the parameters: "visdeploy" and "fastai" (the course's `Unet34`) fill the whole model,
            "torchvision" and "timm" its encoder.

    Raises:
        InputError: The file cannot be read, or it lacks a parameter or holds one of another shape; all are listed.
    """
    if layout not in LAYOUTS:
        raise InputError(f"[load_weights] layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    return assign(net, _renamed(read_state(path), net, layout), layout, str(path))


def read_torch_file(path: str | Path) -> Any:
    """Read what `torch.save` wrote, without running any code that the file may carry.

    Raises:
        InputError: The file is missing, or is not such a file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"[weights] path: no such file: {path}") from error
    except Exception as error:  # a file of any other kind fails in ways of its own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"[weights] path: {path} is not a file of weights ({reason})") from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, alone or inside a checkpoint."""
    state = read_torch_file(path)
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"[weights] path: {path} holds no state dict (names mapped to tensors)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def assign(net: nn.Module, state: Mapping[str, Tensor], layout: str, origin: str) -> LoadReport:
    """Copy renamed weights into `net`; see `load_weights`."""
    whole = layout in ("visdeploy", "fastai")
    wanted = {name: value for name, value in net.state_dict().items() if whole or name.startswith("encoder.")}
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    reshaped = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    unused = [name for name in state if name not in wanted]
    problems = [f"missing {name} {tuple(wanted[name].shape)}" for name in missing]
    problems += [f"{name}: expected {tuple(wanted[name].shape)}, got {tuple(state[name].shape)}" for name in reshaped]
    if whole:
        problems += [f"unexpected {name} {tuple(state[name].shape)}" for name in unused]
    if problems:
        more = f"; and {len(problems) - _EXAMPLES} more" if len(problems) > _EXAMPLES else ""
        raise InputError(
            f"[load_weights] {origin} does not fit this model in layout {layout!r}: {len(missing)} of {len(wanted)} "
            f"arrays missing, {len(reshaped)} of another shape, {len(unused) if whole else 0} unexpected: "
            + "; ".join(problems[:_EXAMPLES])
            + more
        )
    loaded = [name for name in wanted if name in state]
    net.load_state_dict({name: state[name] for name in loaded}, strict=False)
    return LoadReport(tuple(loaded), tuple(unused))


def _renamed(state: Mapping[str, Tensor], net: nn.Module, layout: str) -> dict[str, Tensor]:
    if layout == "torchvision":
        return {f"encoder.{name}": value for name, value in state.items()}
    if layout == "timm":
        return _as_timm_features(state, net)
    if layout == "fastai":
        return {_fastai_name(name): value for name, value in state.items()}
    return dict(state)


def _as_timm_features(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    # timm flattens some models when it cuts them: "stages.0.x" of the classifier is "stages_0.x" of the pyramid.
    wanted = net.state_dict()
    renamed = {}
    for name, value in state.items():
        flat = "encoder.body." + re.sub(r"^(stages|layers|blocks)\.(\d+)\.", r"\1_\2.", name)
        renamed[flat if flat in wanted else f"encoder.body.{name}"] = value
    return renamed


def _fastai_name(name: str) -> str:
    for pattern, replacement in _FASTAI.items():
        name = re.sub(pattern, replacement, name)
    return name
