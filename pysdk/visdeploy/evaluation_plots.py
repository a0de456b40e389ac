"""Curves and matrices of an evaluation, as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.average_precision import Curve
from visdeploy.errors import MissingDependencyError

_STYLES = ("-", "--", "-.", ":")
# Classes beyond which the numbers in a matrix are too small to read.
_NUMBERS = 25


def draw_curves(labels: Sequence[str], curves: Sequence[Curve], threshold: float, path: Path) -> None:
    """Draw precision over recall, a line per class that has objects, with a dot where the threshold cuts it."""
    figure, colors = _figure((8.5, 5.2))
    axes = figure.add_subplot()
    present = [(name, curve) for name, curve in zip(labels, curves, strict=True) if curve.objects]
    present.sort(key=lambda entry: -entry[1].area)
    for index, (name, curve) in enumerate(present):
        color, style = colors(index % 10), _STYLES[index // 10 % len(_STYLES)]
        # From recall 0, so that a class with a single hit is a line as well.
        recall, precision = np.append(0, curve.recall), np.append(curve.precision[:1], curve.precision)
        if len(curve.scores) == 0:
            recall = precision = np.zeros(1)
        axes.plot(recall, precision, style, color=color, linewidth=1.8, label=f"{name}  {curve.area:.3f}")
        axes.plot(*reversed(curve.at(threshold)), "o", color=color, markersize=6, markeredgecolor="white", zorder=3)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    mean = np.mean([curve.area for _, curve in present]) if present else float("nan")
    axes.set_title(f"mAP@0.5 {mean:.3f}; dots: score above {threshold:g}", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if present:
        columns, size = 1 + (len(present) - 1) // 24, 9 if len(present) <= 24 else 7
        figure.legend(
            loc="outside right upper",
            frameon=False,
            title="class  AP@0.5",
            fontsize=size,
            ncols=columns,
            handlelength=2,
        )
    figure.savefig(path, dpi=130)


def draw_confusion(names: Sequence[str], counts: NDArray[np.int64], path: Path) -> None:
    """Draw a matrix, coloured by the share of each row, with the counts in it."""
    side = max(3.6, min(14.0, 1.8 + 0.55 * len(names)))
    figure, _ = _figure((side + 1.2, side))
    axes = figure.add_subplot()
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 10 if len(names) <= 12 else 7 if len(names) <= _NUMBERS else 5
    ticks = range(len(names))
    few = len(names) <= 12
    axes.set_xticks(ticks, names, rotation=45 if few else 90, ha="right" if few else "center", fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set(xlabel="was taken for", ylabel="is")
    if len(names) <= _NUMBERS:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "#222222"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=size)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")
    figure.savefig(path, dpi=130)


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("the plots need matplotlib: pip install 'visdeploy[train]'") from error
    return Figure(figsize=size, layout="constrained"), colormaps["tab10"]
