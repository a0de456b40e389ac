"""The table of layers that the courses print: output shape, parameters, trainable or frozen."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerRow:
    """One leaf module that ran.

    Attributes:
        name: Dotted path of the module in the model.
        kind: Its class.
        output_shape: Shape of its output, batch first; -1 stands for the batch.
        parameters: Number of its own parameters.
        trainable: Whether they learn; None for a layer that has none.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable: bool | None


@dataclass(frozen=True)
class Summary:
    """All rows of a model in running order, with the totals; printing it gives the table."""

    rows: tuple[LayerRow, ...]
    parameters: int
    trainable: int

    def __str__(self) -> str:
        lines = [f"{'layer':<34} {'kind':<18} {'output':<22} {'parameters':>12}  trainable"]
        for row in self.rows:
            state = "" if row.trainable is None else "yes" if row.trainable else "frozen"
            shape = str(list(row.output_shape))
            lines.append(f"{row.name:<34} {row.kind:<18} {shape:<22} {row.parameters:>12,}  {state}")
        frozen = self.parameters - self.trainable
        lines.append(f"{self.parameters:,} parameters: {self.trainable:,} trainable, {frozen:,} frozen")
        return "\n".join(lines)


def summary(net: nn.Module, size: int | tuple[int, int] = 128) -> Summary:
    """Run a blank image through `net` and print what each layer makes of it.

    Args:
        net: The model; it is left as it was.
        size: Height and width of the blank image.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows: list[LayerRow] = []

    def watch(name: str, module: nn.Module) -> Any:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            own = list(module.parameters(recurse=False))
            trainable = any(parameter.requires_grad for parameter in own) if own else None
            count = sum(parameter.numel() for parameter in own)
            rows.append(LayerRow(name, type(module).__name__, (-1, *output.shape[1:]), count, trainable))

        return module.register_forward_hook(record)

    handles = [watch(name, module) for name, module in net.named_modules() if not list(module.children())]
    was_training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, 3, height, width))
    finally:
        net.train(was_training)
        for handle in handles:
            handle.remove()
    total = sum(parameter.numel() for parameter in net.parameters())
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    table = Summary(tuple(rows), total, trainable)
    print(table)
    return table
