"""A bundle's network as `.pt2`, the format of `torch.export` that succeeds TorchScript."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visdeploy import bundle as bundles
from visdeploy.bundle import Bundle
from visdeploy.engines import reason
from visdeploy.errors import InputError, requires
from visdeploy.replayed import write_replayed
from visdeploy.report import Report
from visdeploy.spec import Manifest

with requires("visdeploy.pt2 needs torch and onnx", "train"):
    import torch
    from torch import Tensor, nn
    from torch.export import Dim

    from visdeploy import models
    from visdeploy.adapt import as_network, single_output
    from visdeploy.engines import torchscript
    from visdeploy.export import Deployable


def export_pt2(
    bundle: Bundle, path: str | Path, *, net: nn.Module | None = None, progress: Callable[[str], None] | None = None
) -> Report:
    """Write the network with `torch.export`; the file appears only when it answers as the bundle recorded.

    It takes uint8 (B, h, w, 3) RGB of any B and, where `resize` is "native", of any height and width that are two or
    more multiples of the divisor. `torch.export.load(path).module()` runs it without visdeploy, and the bundle's
    manifest is its extra file `visdeploy.json`.

    Args:
        bundle: An opened bundle.
        path: Target, `*.pt2`.
        net: The module that the bundle was made from. torch.export reads no TorchScript, so without it the network is
            built anew from the manifest's `architecture`, with the weights of `model.ts`.
        progress: Called with one line per step.

    Raises:
        InputError: The bundle names no visdeploy architecture and `net` is missing, or torch cannot export it.
        CheckFailedError: The file answers differently; nothing is written.
    """
    say = progress or (lambda line: None)
    path = Path(path)
    if path.suffix != ".pt2":
        raise InputError(f"[export] out: expected a file named *.pt2, got {path}")
    spec = bundle.manifest
    module = _rebuild(bundle) if net is None else copy.deepcopy(as_network(net)).cpu()
    example, dimensions = _shapes(spec)
    say("exporting with torch.export")
    data = io.BytesIO()
    try:
        served = single_output(module.eval().requires_grad_(False), spec, example[0].numpy())
        program = torch.export.export(Deployable(served, spec).eval(), (example,), dynamic_shapes=(dimensions,))
        described = json.dumps(spec.model_dump(mode="json", exclude={"files"}))
        torch.export.save(program, data, extra_files={"visdeploy.json": described})
    except Exception as error:  # someone else's network fails in its own ways
        raise InputError(f"[export] net: torch.export cannot take this network ({reason(error, 0)})") from error

    def write(unproven: Path) -> None:
        unproven.write_bytes(data.getvalue())

    return write_replayed(bundle, path, write, say)


def _rebuild(bundle: Bundle) -> nn.Module:
    architecture = bundle.manifest.architecture
    if architecture is None:
        raise InputError(
            f"[export] {bundle.path}: torch.export needs the module, and this bundle names no visdeploy architecture "
            "to build it from; call visdeploy.pt2.export_pt2(bundle, path, net=...) with the module it was made from"
        )
    with torchscript.accepting_deprecation():
        script = torch.jit.load(io.BytesIO(bundle.read(bundles.TORCHSCRIPT)), map_location="cpu")
    try:
        module = models.create(**architecture)
        weights = {name.removeprefix("net."): value for name, value in script.state_dict().items()}
        module.load_state_dict({name: value for name, value in weights.items() if name not in ("mean", "std")})
    except Exception as error:  # what a foreign architecture, or its missing arguments, provoke
        raise InputError(
            f"[export] {bundle.path}: its weights do not fit the architecture it names ({reason(error)})"
        ) from error
    return module


def _shapes(spec: Manifest) -> tuple[Tensor, dict[int, Any]]:
    """Return an example, and which of its dimensions may vary.

    torch.export takes a dimension of one for a constant, and so do shapes inside a network where an image is one
    multiple of the divisor high.
    """
    dimensions = {0: Dim("batch", min=1)}
    if spec.resize != "native":
        return torch.zeros(2, *spec.size, 3, dtype=torch.uint8), dimensions
    step = spec.divisor
    sides = [max(2, -(-side // step)) * step for side in spec.size]
    multiples = {axis: Dim(name, min=2) for axis, name in ((1, "height"), (2, "width"))}
    dimensions |= {axis: step * multiple if step > 1 else multiple for axis, multiple in multiples.items()}
    return torch.zeros(2, *sides, 3, dtype=torch.uint8), dimensions
