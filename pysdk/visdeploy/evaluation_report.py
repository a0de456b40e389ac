"""What `visdeploy val` shows of a tally: tables, curves, and one document with all of it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from visdeploy.average_precision import MIN_IOU
from visdeploy.coco_figures import NAMES
from visdeploy.evaluate import Classified, Detections, Localized, Tally
from visdeploy.whole_file import whole_file

_WIDTH = 80
# Mistakes that are named where the matrix is too wide.
_MISTAKES = 10
_NOTHING = "nothing"

Counts = NDArray[np.int64]
Rows = list[dict[str, Any]]


def rows(tally: Tally) -> Rows:
    """Return a row per class that occurs, with its name and what was counted of it; None stands for no figure."""
    if isinstance(tally, Detections):
        return _rows_of_detections(tally)
    if not isinstance(tally, Classified):
        return []
    made = []
    for index, name in enumerate(tally.spec.labels):
        images, answers = (int(tally.confusion.counts.sum(axis)[index]) for axis in (1, 0))
        if images or answers:
            right = int(tally.confusion.counts[index, index])
            row = {
                "class": name,
                "images": images,
                "precision": _share(right, answers),
                "recall": _share(right, images),
            }
            made.append(row | (_of_boxes(tally, index) if isinstance(tally, Localized) else {}))
    return made


def confusion(tally: Tally) -> tuple[tuple[str, ...], Counts] | None:
    """Return names and counts of truth (rows) against answers (columns), or None where pixels were counted."""
    if isinstance(tally, Detections):
        return (_NOTHING, *tally.spec.labels[1:]), tally.precision.confusion
    return (tally.spec.labels, tally.confusion.counts) if isinstance(tally, Classified) else None


def of_tally(title: str, figures: Mapping[str, float], tally: Tally) -> Group:
    """Return what stands on the screen: the figures, COCO's in a table, a table of classes, and the confusion."""
    made: list[Any] = [Text(title, style="bold", overflow="fold")]
    table_of_classes = rows(tally)
    apart = {f"ap50_{row['class']}" for row in table_of_classes} | set(NAMES)
    made += [Text(f"{name:<24} {value:.4f}") for name, value in figures.items() if name not in apart]
    if "map" in figures:
        made += ["", _of_coco(figures)]
    if table_of_classes:
        first, *others = table_of_classes[0]
        table = _table(first, *(name.replace("_", " ") for name in others))
        for row in table_of_classes:
            table.add_row(escape(row[first]), *(_cell(row[name]) for name in others))
        made += ["", table]
    if isinstance(tally, Detections):
        above = tally.precision.confidence
        made.append(Text(f"precision, recall and confusion: scores above {above:g}, IoU {MIN_IOU:g}"))
        if (best := tally.precision.best_f1()) is not None:
            made.append(Text(f"best F1 of all classes together: {best[0]:.4f}, scores from {best[1]:.3g} on"))
    if (counted := confusion(tally)) is not None:
        made += ["", _of_confusion(*counted)]
    return Group(*made)


def document(figures: Mapping[str, Any], tally: Tally) -> dict[str, Any]:
    """Return the figures with a list of classes and the confusion, where there are any, for JSON."""
    counted = confusion(tally)
    if counted is None:
        return dict(figures)
    matrix = {"labels": list(counted[0]), "counts": counted[1].tolist()}
    return {**figures, "classes": rows(tally), "confusion": matrix}


def write(folder: Path, document: Mapping[str, Any], tally: Tally) -> list[Path]:
    """Write `val.json`, and of boxes and classes what can be drawn; return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "val.json"]
    with whole_file(written[0]) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n")
    if (counted := confusion(tally)) is not None:
        from visdeploy import evaluation_plots

        written.append(folder / "confusion.png")
        evaluation_plots.draw_confusion(*counted, written[-1])
        if isinstance(tally, Detections):
            written.append(folder / "precision_recall.png")
            counts = tally.precision
            evaluation_plots.draw_curves(tally.spec.labels, counts.curves(), counts.confidence, written[-1])
    return written


def _rows_of_detections(tally: Detections) -> Rows:
    made = []
    for index, (name, curve) in enumerate(zip(tally.spec.labels, tally.precision.curves(), strict=True)):
        if not curve.objects and not len(curve.scores):
            continue
        with_it = sum(bool(np.any(one.objects.labels[~one.objects.ignored] == index)) for one in tally.images)
        precision, recall = (None if math.isnan(value) else value for value in curve.at(tally.precision.confidence))
        row = {"class": name, "images": with_it, "boxes": curve.objects}
        row["ap50"] = curve.area if curve.objects else None
        made.append(row | {"precision": precision, "recall": recall})
    return made


def _of_boxes(tally: Localized, index: int) -> dict[str, float | None]:
    mine = np.array(tally.labels) == index
    if not mine.any():
        return {"found": None, "iou": None, "l1": None}
    overlaps = np.array(tally.overlaps)[mine]
    return {
        "found": float(np.mean(np.array(tally.right)[mine] & (overlaps >= MIN_IOU))),
        "iou": float(overlaps.mean()),
        "l1": float(np.array(tally.distances)[mine].mean()),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _of_coco(figures: Mapping[str, float]) -> Table:
    table = _table("COCO", "all", "small", "medium", "large")
    sizes = ("small", "medium", "large")
    for name, first, others in (
        ("AP, IoU 0.50 to 0.95", "map", [f"map_{size}" for size in sizes]),
        ("AP, IoU 0.50", "map50_coco", []),
        ("AP, IoU 0.75", "map75", []),
        ("AR, 1 box an image", "ar_1", []),
        ("AR, 10 boxes", "ar_10", []),
        ("AR, 100 boxes", "ar_100", [f"ar_{size}" for size in sizes]),
    ):
        table.add_row(name, *(_cell(figures[key] if figures[key] >= 0 else None) for key in (first, *others)))
    return table


def _of_confusion(names: Sequence[str], counts: Counts) -> Table | Group:
    table = _table("is \\ was taken for", *names)
    for name, line in zip(names, counts.tolist(), strict=True):
        table.add_row(escape(name), *(f"{count:,}" if count else "." for count in line))
    console = Console(width=10_000)
    if Measurement.get(console, console.options, table).maximum <= _WIDTH:
        return table
    mistakes = counts - np.diag(counts.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_MISTAKES]
    lines = [(int(mistakes.flat[k]), *np.unravel_index(k, counts.shape)) for k in order]
    return Group(
        "most frequent mistakes",
        *(Text(f"{count:>8,}  {names[of]} taken for {names[as_]}") for count, of, as_ in lines if count),
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(escape(first), overflow="fold")
    for name in others:
        table.add_column(escape(name), justify="right", no_wrap=True)
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
