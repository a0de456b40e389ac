"""Loading weights that were trained elsewhere, with every mismatch listed."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visdeploy.errors import InputError

# Who named the parameters: us, or those who published the encoder.
OWN = "visdeploy"
OF_ENCODERS = ("torchvision", "timm")

# Mismatches that a message names.
_EXAMPLES = 3
_NO_WEIGHTS = re.compile(r"WeightsUnpickler error:\s*(.+?)(?: was not| Please|\n|$)")


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
        layout: Who named the parameters: "visdeploy" fills the whole model, "torchvision" and "timm" its encoder. A
            model may know more, which fill it whole: its method `layouts()` returns, for each, the regular expressions
            and replacements that turn a name into ours. "fastai" is the course's `Unet34` of "unet", and fastai's
            DynamicUnet of "dynamic_unet", also as `Learner.save` wrote it.

    Raises:
        InputError: The file cannot be read, is damaged, or holds other things than arrays by name; it lacks a
            parameter or has one of another shape or type (all are listed); or the model knows no such layout.
    """
    if layout not in (known := _layouts(net)):
        raise InputError(f"[load_weights] layout: {type(net).__name__} takes {', '.join(known)}, got {layout!r}")
    state = read_state(path)
    try:
        return assign(net, _renamed(state, net, layout), layout, str(path))
    except InputError as error:
        fitting = [other for other in known if not _missing(net, _renamed(state, net, other), other)]
        if not fitting or layout in fitting:
            raise
        raise InputError(f"{error}; its names are those of layout {fitting[0]!r}") from error


class _Unread:
    """Stands for what a checkpoint of fastai holds beside tensors: the lists and numbers of its optimiser."""

    names = (
        "fastcore.foundation.L",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
    )

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_torch_file(path: str | Path) -> Any:
    """Read what `torch.save` wrote, without running any code that the file may carry.

    Raises:
        InputError: The file is missing, is damaged, or is not such a file.
    """
    try:
        require_whole(Path(path))
        with torch.serialization.safe_globals([(_Unread, name) for name in _Unread.names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"[weights] path: no such file: {path}") from error
    except InputError:
        raise
    except Exception as error:  # a file of any other kind fails in ways of its own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):  # which advises to run the file's code
            reason = next(iter(_NO_WEIGHTS.findall(str(error))), "no arrays by name")
        raise InputError(f"[weights] path: {path} is not a file of weights ({reason})") from error


def require_whole(path: Path) -> None:
    """Hold a file of `torch.save` against its own checksums, which `torch.load` passes over.

    Raises:
        InputError: A part of it is not what was written. (What torch wrote before 1.6 has no checksums.)
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InputError(f"[weights] path: {path} is damaged, or cut short ({error}); copy the file again") from error
    if damaged is not None:
        raise InputError(
            f"[weights] path: {path} is damaged: expected {damaged} as its checksum has it, got other bytes; copy the "
            "file again"
        )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, alone or inside a checkpoint.

    Raises:
        InputError: As `read_torch_file` and `as_state`.
    """
    return as_state(read_torch_file(path), path)


def as_state(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the state dict that the content of a file is or holds.

    Raises:
        InputError: It holds none, or an entry is no plain array.
    """
    state = content
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"[weights] path: {path} holds no state dict (names mapped to tensors)")
    for name, value in state.items():
        if not isinstance(name, str) or not _is_plain(value):
            kind = f"{value.dtype} as {value.layout} on {value.device}"
            raise InputError(
                f"[weights] path: {path}: expected dense arrays of real numbers by name, got {name!r}: {kind}"
            )
    return {name.removeprefix("module."): value for name, value in state.items()}


def _is_plain(value: Tensor) -> bool:
    dense = value.layout == torch.strided and value.device.type == "cpu"
    return dense and not (value.is_quantized or value.is_nested or value.is_complex())


def assign(net: nn.Module, state: Mapping[str, Tensor], layout: str, origin: str) -> LoadReport:
    """Copy renamed weights into `net`; see `load_weights`."""
    wanted, whole = _wanted(net, layout), layout not in OF_ENCODERS
    missing = _missing(net, state, layout)
    given = [name for name in wanted if name in state]
    reshaped = [name for name in given if state[name].shape != wanted[name].shape]
    # Whole numbers in place of weights are those of a quantised network, without their scale.
    integers = [name for name in given if wanted[name].is_floating_point() and not state[name].is_floating_point()]
    unused = [name for name in state if name not in wanted]
    problems = [f"missing {name} {tuple(wanted[name].shape)}" for name in missing]
    problems += [f"{name}: expected {tuple(wanted[name].shape)}, got {tuple(state[name].shape)}" for name in reshaped]
    problems += [f"{name}: expected {wanted[name].dtype}, got {state[name].dtype}" for name in integers]
    if whole:
        problems += [f"unexpected {name} {tuple(state[name].shape)}" for name in unused]
    if problems:
        more = f"; and {len(problems) - _EXAMPLES} more" if len(problems) > _EXAMPLES else ""
        raise InputError(
            f"[load_weights] {origin} does not fit this model in layout {layout!r}: {len(missing)} of {len(wanted)} "
            f"arrays missing, {len(reshaped)} of another shape, {len(integers)} of another type, "
            f"{len(unused) if whole else 0} unexpected: " + "; ".join(problems[:_EXAMPLES]) + more
        )
    net.load_state_dict({name: state[name] for name in given}, strict=False)
    return LoadReport(tuple(given), tuple(unused))


def _layouts(net: nn.Module) -> tuple[str, ...]:
    return OWN, *(OF_ENCODERS if hasattr(net, "encoder") else ()), *_renames(net)


def _renames(net: nn.Module) -> dict[str, dict[str, str]]:
    layouts: Any = getattr(net, "layouts", dict)
    renames: dict[str, dict[str, str]] = layouts()
    return renames


def _wanted(net: nn.Module, layout: str) -> dict[str, Tensor]:
    whole = layout not in OF_ENCODERS
    return {name: value for name, value in net.state_dict().items() if whole or name.startswith("encoder.")}


def _missing(net: nn.Module, state: Mapping[str, Tensor], layout: str) -> list[str]:
    wanted = _wanted(net, layout)
    return [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]


def _renamed(state: Mapping[str, Tensor], net: nn.Module, layout: str) -> dict[str, Tensor]:
    if layout == "torchvision":
        return {f"encoder.{name}": value for name, value in state.items()}
    if layout == "timm":
        return _as_timm_features(state, net)
    if layout == OWN:
        return dict(state)
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _renames(net)[layout].items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return _plain(renamed, net.state_dict())


def _plain(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that weight_norm and spectral_norm, which keep their factors, work with in evaluation.

    Factors that give no weight of the shape that is wanted stay what they are, so that they are listed as unexpected.
    """
    plain = dict(state)
    for stem, weight in wanted.items():
        if weight.ndim < 2:
            continue
        per_row = (len(weight), *[1] * (weight.ndim - 1))
        if _has_factors(state, stem, g=per_row, v=weight.shape):
            length, direction = (plain.pop(f"{stem}_{part}").float() for part in ("g", "v"))
            plain[stem] = length * direction / direction.flatten(1).norm(dim=1).view(per_row)
        elif _has_factors(state, stem, orig=weight.shape, u=per_row[:1], v=(weight.shape[1:].numel(),)):
            original, u, v = (plain.pop(f"{stem}_{part}").float() for part in ("orig", "u", "v"))
            plain[stem] = original / (u @ original.flatten(1) @ v)
    return plain


def _has_factors(state: Mapping[str, Tensor], stem: str, **shapes: tuple[int, ...]) -> bool:
    factors = [(state.get(f"{stem}_{part}"), shape) for part, shape in shapes.items()]
    return all(one is not None and one.is_floating_point() and one.shape == shape for one, shape in factors)


def _as_timm_features(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    # timm flattens some models when it cuts them: "stages.0.x" of the classifier is "stages_0.x" of the pyramid.
    wanted = net.state_dict()
    renamed = {}
    for name, value in state.items():
        flat = "encoder.body." + re.sub(r"^(stages|layers|blocks)\.(\d+)\.", r"\1_\2.", name)
        renamed[flat if flat in wanted else f"encoder.body.{name}"] = value
    return renamed
