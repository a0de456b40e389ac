"""The models by name. A file of this package registers the models it holds, and so may any other module."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, get_args

from torch import nn

from visdeploy.errors import InputError
from visdeploy.spec import Task

Model = TypeVar("Model", bound=type[nn.Module])


@dataclass(frozen=True)
class Entry:
    """What is known of a model before it is made.

    Attributes:
        model: Its class; `num_classes` and perhaps `encoder` are among the arguments.
        line: What it is, in a line.
        tasks: What it can learn.
        encoder: Its usual backbone; None where the body is its own.
    """

    model: type[nn.Module]
    line: str
    tasks: tuple[Task, ...]
    encoder: str | None


REGISTRY: dict[str, Entry] = {}


def register(name: str, line: str, *, tasks: tuple[Task, ...], encoder: str | None = None) -> Callable[[Model], Model]:
    """Return a decorator that makes a class known to `models.create`, to training and to the command line.

    Args:
        name: What `models.create` calls it.
        line: What it is, in a line.
        tasks: What it can learn; `bundle.Spec` says what its answer then is.
        encoder: Its usual backbone, where it takes one.

    Raises:
        InputError: Another class has this name, or there is no such task.

    Example:
        >>> @register("toy", "one convolution", tasks=("segmentation",))
        ... class Toy(nn.Conv2d):
        ...     def __init__(self, num_classes: int) -> None:
        ...         super().__init__(3, num_classes, 1)
    """
    if unknown := [task for task in tasks if task not in get_args(Task)]:
        raise InputError(f"[models] tasks: expected {', '.join(get_args(Task))}, got {unknown[0]!r}")

    def keep(model: Model) -> Model:
        known = REGISTRY.get(name)
        if known is not None and known.model.__qualname__ != model.__qualname__:
            raise InputError(f"[models] name: {name!r} already is {known.model.__qualname__}")
        REGISTRY[name] = Entry(model, line, tasks, encoder)
        return model

    return keep
