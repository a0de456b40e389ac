"""Curves and matrices of an evaluation, as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.average_precision import Curve
from visdeploy.errors import requires

# Classes beyond which only the best and the worst have a colour, and beyond which a matrix has no numbers.
_COLORED = 20
_NUMBERED = 25
_ENDS = 5
_RECALLS = np.linspace(0, 1, 501)


def draw_curves(labels: Sequence[str], curves: Sequence[Curve], threshold: float, path: Path) -> None:
    """Draw precision over recall of each class that has objects, and their mean.

    Precision is the best at a recall or a higher one, so that AP is the area below a line. Dots show where the
    threshold puts a class. Of many classes, the best five and the worst five are named.
    """
    figure, colors = _figure((8.5, 5.2))
    axes = figure.add_subplot()
    present = [(name, curve) for name, curve in zip(labels, curves, strict=True) if curve.objects]
    present.sort(key=lambda entry: -entry[1].area)
    lines = [curve.precision_from(_RECALLS) for _, curve in present]
    few = len(present) <= _COLORED
    named = range(len(present)) if few else [*range(_ENDS), *range(len(present) - _ENDS, len(present))]
    for index, ((name, curve), line) in enumerate(zip(present, lines, strict=True)):
        if index not in named:
            axes.plot(_RECALLS, line, color="#d0d0d0", linewidth=0.7, zorder=1)
            continue
        place = list(named).index(index)
        color, style = colors(place % 10), "-" if place < 10 else "--"
        axes.plot(_RECALLS, line, style, color=color, linewidth=1.7, label=f"{name}  {curve.area:.3f}")
        precision, recall = curve.at(threshold)
        axes.plot(recall, precision, "o", color=color, markersize=6.5, markeredgecolor="white", zorder=4)
    if len(present) > 1:
        mean = np.mean([curve.area for _, curve in present])
        axes.plot(_RECALLS, np.mean(lines, 0), color="black", linewidth=2.6, label=f"mean  {mean:.3f}", zorder=3)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.set_title(f"IoU 0.5 and above; dots: scores above {threshold:g}", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if present:
        title = "class  AP" if few else f"class  AP\nbest and worst {_ENDS} of {len(present)}"
        figure.legend(loc="outside right upper", frameon=False, title=title, fontsize=9, title_fontsize=9)
    figure.savefig(path, dpi=130)


def draw_confusion(names: Sequence[str], counts: NDArray[np.int64], path: Path) -> None:
    """Draw a matrix, coloured by the share of each row, with the counts in it."""
    side = max(3.6, min(12.0, 2.2 + 0.4 * len(names)))
    figure, _ = _figure((side + 1.2, side))
    axes = figure.add_subplot()
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 10 if len(names) <= 12 else 8 if len(names) <= _NUMBERED else 6
    ticks = range(len(names))
    few = len(names) <= 12
    axes.set_xticks(ticks, names, rotation=45 if few else 90, ha="right" if few else "center", fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set(xlabel="was taken for", ylabel="is")
    if len(names) <= _NUMBERED:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "#222222"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=size)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the row")
    figure.savefig(path, dpi=130)


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    with requires("the plots need matplotlib", "train"):
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    return Figure(figsize=size, layout="constrained"), colormaps["tab10"]
