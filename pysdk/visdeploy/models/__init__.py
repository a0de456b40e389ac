"""The models that visdeploy trains, by name; a file per family, which registers what it holds."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from visdeploy.errors import InputError, did_you_mean, requires
from visdeploy.kinds import Count, check_arguments

with requires("visdeploy.models needs torch and torchvision", "train"):
    from torch import nn

    from visdeploy.models import weights as _weights
    from visdeploy.models.encoders import TORCHVISION, normalisation, pretrained_state
    from visdeploy.models.registry import REGISTRY, register
    from visdeploy.models.summary import LayerRow, Summary, summary
    from visdeploy.models.torchvision_ssd import from_torchvision
    from visdeploy.models.weights import LoadReport, load_weights

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")

__all__ = [
    "LayerRow",
    "LoadReport",
    "Summary",
    "create",
    "freeze_encoder",
    "from_torchvision",
    "list",
    "load_weights",
    "normalisation",
    "register",
    "summary",
]


def create(
    name: str, *, encoder: str | None = None, num_classes: Count, weights: str | Path | None = None, **options: Any
) -> nn.Module:
    """Build a model by name; nothing is downloaded unless `weights` asks for it.

    Args:
        name: One of `models.list()`.
        encoder: resnet18, resnet34, resnet50, mobilenet_v2, or any timm model that offers `features_only`; None for a
            model with a body of its own.
        num_classes: Of a segmenter the channels of the logits, 1 for a binary task; else the number of classes that
            objects have, without the background.
        weights: None for random weights; a file of encoder weights in torchvision's or timm's names; a visdeploy
            checkpoint, of this model or of another one with this encoder; or, online, a tag that torchvision or timm
            publish for this encoder ("DEFAULT").
        **options: What the model itself takes, such as `decoder_channels=256` of "unet"; see its class.

    Returns:
        A module that maps normalised float32 (B, 3, H, W) to what `bundle.Spec` says of its task. A detector also has
        `anchors(size)`, the field of that name in its spec.

    Raises:
        InputError: An unknown name, encoder or option, one missing, too many or of another kind than its annotation
            says, or weights that do not fit.

    Example:
        >>> net = create("unet", encoder="resnet34", num_classes=1)
        >>> sum(p.numel() for p in net.parameters())
        22009665
    """
    given = {"name": name, "encoder": encoder, "num_classes": num_classes, "weights": weights}
    check_arguments("models", create, given)
    if name not in REGISTRY:
        hint = did_you_mean(name, REGISTRY)
        raise InputError(f"[models] name: expected one of {', '.join(sorted(REGISTRY))}, got {name!r}{hint}")
    model = REGISTRY[name].model
    taken = inspect.signature(model).parameters
    if ("encoder" in taken) != (encoder is not None):
        wish = "the name of a backbone" if encoder is None else f"none, because {name} has a body of its own"
        raise InputError(f"[models] encoder: expected {wish}, got {encoder!r}")
    known = [option for option in taken if option not in ("encoder", "num_classes")]
    for option in options:
        if option not in known:
            raise InputError(f"[models] {name}: expected {' or '.join(known) or 'none'} as options, got {option!r}")
    check_arguments(name, model, options)
    if encoder is not None:
        options["encoder"] = encoder
    try:
        net = model(num_classes=num_classes, **options)
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # layers refuse sizes in ways of their own
        raise InputError(
            f"[models] {name}: cannot be built of these arguments ({str(error).splitlines()[0]})"
        ) from error
    if weights is not None:
        _load_weights(net, encoder, weights)
    return net


def list() -> dict[str, str]:
    """Return the model names, each with one line on what it is."""
    return {name: REGISTRY[name].line for name in sorted(REGISTRY)}


def freeze_encoder(net: nn.Module, frozen: bool = True) -> None:
    """Stop the backbone's parameters from learning, or let them learn again.

    Raises:
        InputError: The model has no backbone apart from the rest.
    """
    if not hasattr(net, "encoder"):
        raise InputError(f"[models] net: expected a model with an encoder, got {type(net).__name__}")
    for parameter in net.get_submodule("encoder").parameters():
        parameter.requires_grad_(not frozen)


def _load_weights(net: nn.Module, encoder: str | None, weights: str | Path) -> None:
    if encoder is None:
        load_weights(net, weights)
        return
    layout = "torchvision" if encoder in TORCHVISION else "timm"
    if not Path(weights).is_file():
        state = _weights._renamed(pretrained_state(encoder, str(weights)), net, layout)
        _weights.assign(net, state, layout, str(weights))
        return
    state = _weights.read_state(weights)
    if not any(name.startswith("encoder.") for name in state):
        load_weights(net, weights, layout)
    elif state.keys() == net.state_dict().keys():
        load_weights(net, weights)
    else:
        _weights.assign(net, state, layout, str(weights))
