"""`model.pt`: a trained network that says by itself what it is."""

import json
from pathlib import Path

import torch
from torch import nn

from visdeploy import models
from visdeploy.errors import InputError
from visdeploy.models.weights import OWN, as_state, assign, read_torch_file
from visdeploy.spec import Spec
from visdeploy.whole_file import whole_file

_FORMAT = "visdeploy-checkpoint-1"


def save(path: Path, net: nn.Module, spec: Spec) -> None:
    """Write weights and spec, whole or not at all."""
    if spec.architecture is None:
        raise InputError("[checkpoint] spec: architecture is missing, so the file could not be loaded again")
    content = {"format": _FORMAT, "spec": spec.model_dump_json(), "state_dict": net.state_dict()}
    with whole_file(path) as partial:
        torch.save(content, partial)


def load(path: str | Path) -> tuple[nn.Module, Spec]:
    """Rebuild the network of a file that `save` wrote, or of a run's folder; no code in the file is run.

    Raises:
        InputError: The file is missing, damaged or not a visdeploy checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.pt"
        if not path.is_file():
            raise InputError(f"[checkpoint] {path.parent}: holds no finished run, as there is no {path.name} in it")
    content = read_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"[checkpoint] {path}: not written by `visdeploy train`")
    try:
        spec = Spec.parse(json.loads(content["spec"]), "spec")
        net = models.create(**(spec.architecture or {}))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"[checkpoint] {path}: its spec names no network that can be built ({error})") from error
    assign(net, as_state(content, path), OWN, str(path))
    return net.eval(), spec
