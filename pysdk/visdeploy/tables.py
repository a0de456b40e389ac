"""What the command line shows for reports, figures and manifests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from visdeploy.benchmark import STAGES, Measurement, Quantiles
from visdeploy.report import Report
from visdeploy.spec import Manifest, Variant
from visdeploy.throughput import Figures

# A file has no width of its own: nothing written to one is wrapped.
_PIPE_WIDTH = 100_000
# So many ways of use stand next to each other in 80 columns; more of them go into a table of their own.
_USES = 4
# What says nothing of other tasks.
_RESIZING = {"interpolation", "antialias", "pad_value", "activation"}
_FIELDS_OF = {
    "segmentation": _RESIZING | {"ignore_index", "tile_overlap", "min_area", "fill_holes", "threshold"},
    "detection": _RESIZING | {"box_weights", "iou_threshold", "top_k", "max_det", "nms", "threshold"},
    "localization": _RESIZING,
    "classification": _RESIZING,
    "restoration": {"tile_overlap", "enlarge"},
}
_COLORS = {"same": "green", "empty": "yellow", "DRIFTED": "bold red"}
_MARKS = ("p50", "p95", "p99")


def console() -> Console:
    """Return a console for stdout that neither wraps nor colours what is piped."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def of_report(report: Report) -> Group:
    """Return one line per verified stage, and below what drifted where and what could not be verified here."""
    own = f", {report.own_images} images against {report.reference}" if report.own_images else ""
    dice = ("Dice",) if any(row.dice is not None for row in report.rows) else ()
    table = _table("stage", "engine", "error", "limit", "changed", *dice, "verdict", left=("stage", "verdict"))
    units: dict[str, dict[str, None]] = {}
    drifted = []
    for row in report.rows:
        share = "a share " if row.unit.startswith("of ") else ""
        # Pixels are as many for every engine; boxes are not, and stand beside.
        pixels = row.total is not None and row.unit == "of the pixels"
        counted = f"; changed px are of {row.total:,}" if pixels else ""
        units.setdefault(f"{share}{row.unit}{counted}", {})[row.stage] = None
        if not row.ok:
            where = f": worst in {Path(row.worst).name}" if row.worst else ""
            drifted.append(f"drifted: {row.stage}{f' on {row.ran_on}' if row.engine else ''}{where}")
        table.add_row(
            row.stage,
            escape(row.ran_on) or "any",
            f"{row.error:.2g}",
            f"{row.limit:.2g}",
            "" if row.changed is None else f"{row.changed:,}" if pixels else f"{row.changed:,} of {row.total:,}",
            *("" if row.dice is None else f"{row.dice:.5f}" for _ in dice),
            f"[{_COLORS[row.verdict]}]{row.verdict}[/]",
        )
    notes = [f"error of {', '.join(stages)}: {unit}" for unit, stages in units.items()]
    notes += [*drifted, *report.notes]
    notes += [f"not run here: {entry.what}: {entry.why}" for entry in report.not_run]
    return _titled(f"{report.bundle}: {report.images} golden images{own}", table, notes)


def of_measurements(measurements: Sequence[Measurement]) -> Group:
    """Return three lines per engine: p50, p95 and p99 milliseconds of each stage."""
    table = _table("engine", "", *(f"{stage}\nms" for stage in STAGES), "images/s", left=("",))
    for measured in measurements:
        cells = ["\n".join(_quantiles(measured.stages[stage], 2)) for stage in STAGES]
        name = f"{measured.engine} {measured.precision}"
        table.add_row(escape(name), "\n".join(_MARKS), *cells, f"{measured.images_per_second:.1f}")
    return _titled(f"time of one image, n = {measurements[0].samples}", table)


def of_figures(figures: Figures) -> list[Group]:
    """Return tables with a line per engine and precision: speed, time of a call, stages, cost and answers."""
    ratios, reference = figures.ratios(), figures.reference
    uses = list(reference.rates)
    made = []
    for start in range(0, len(uses), _USES):
        shown = uses[start : start + _USES]
        speed = _table("engine", *(use.replace(" ", "\n", 1) for use in shown))
        for entry in figures.entries:
            rates = entry.images_per_second
            speed.add_row(entry.name, *(f"{rates[use]:.1f} {ratios[f'{entry.name}, {use}']:.2f}x" for use in shown))
        title = f"{figures.bundle}: images/s, and times the same use of {reference.name}"
        made.append(_titled(f"{title} (its own uses: times its single calls)", speed))
    calls = _table("engine", *(f"{mark} ms\n{of}" for of in ("single", "clients") for mark in _MARKS))
    stages = _table("engine", *(f"{stage} ms" for stage in STAGES[:-1]))
    cost = _table("engine", "version", "load s", "first\nresult s", "memory\nMB", "peak\nMB", left=("version",))
    answers = _table("engine", f"changed {reference.counted}", "Dice", "accuracy", "drop")
    for entry in figures.entries:
        calls.add_row(entry.name, *_quantiles(entry.latency, 1), *_quantiles(entry.client_latency, 1))
        stages.add_row(entry.name, *(f"{entry.stages[stage]:.2f}" for stage in STAGES[:-1]))
        memory = ("" if size is None else f"{size:.0f}" for size in (entry.memory_mb, entry.peak_mb))
        cost.add_row(entry.name, entry.version, f"{entry.load_s:.2f}", f"{entry.first_result_s:.2f}", *memory)
        changed = "" if entry.changed is None else f"{entry.changed:,} of {entry.total:,}"
        dice = "" if entry.dice is None else f"{entry.dice:.5f}"
        accuracy, drop = (
            "" if value is None else f"{value:.4f} {entry.metric}" for value in (entry.accuracy, entry.drop)
        )
        answers.add_row(entry.name, changed, dice, accuracy, drop)
    below = [f"{entry.name}: {note}" for entry in figures.entries for note in entry.notes]
    below += [f"not run here: {entry.what}: {entry.why}" for entry in figures.not_run]
    return [
        *made,
        _titled(f"time of a call: of single calls, and of calls of {uses[-1]} at once", calls),
        _titled("stages of a single call, median", stages),
        _titled("load and memory", cost),
        _titled(
            "answers on the golden images; accuracy, and drop below fp32: measured at export, else in training",
            answers,
            below,
        ),
    ]


def of_manifest(path: str, manifest: Manifest) -> Group:
    """Return the manifest, one field a line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    shown_below = {"files", "palette", "labels", "variants"}
    foreign = set().union(*_FIELDS_OF.values()) - _FIELDS_OF[manifest.task]
    for name, value in manifest.model_dump(mode="json", exclude=shown_below | foreign).items():
        if value not in (None, {}, []):
            if name == "metrics":
                value = {key: f"{figure:.4f}" for key, figure in value.items()}
            shown = _listed(value) if isinstance(value, dict) else value
            if name == "anchors" and manifest.anchors is not None:
                arguments = {key: entry for key, entry in value.items() if key not in ("rule", "corners")}
                shown = ", ".join(filter(None, (f"{manifest.anchors.count:,} of {value['rule']}", _listed(arguments))))
            table.add_row(name, escape(str(shown)))
    for variant in manifest.variants:
        table.add_row(f"{variant.engine} {variant.precision}", escape(_verdict(variant)))
    for index, (label, color) in enumerate(zip(manifest.labels, manifest.palette, strict=True)):
        note = " (background)" if index == manifest.background else ""
        table.add_row(f"label {index}", f"[rgb({color[0]},{color[1]},{color[2]})]██[/] {escape(label)}{note}")
    for name, entry in manifest.files.items():
        table.add_row(name, f"{entry.size:,} bytes, sha256 {entry.sha256[:16]}…")
    return _titled(path, table)


def _table(*headings: str, left: Sequence[str] = ()) -> Table:
    """Return a table without a frame; what it cannot spare is never cut, and only the engine's name may fold."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        if heading == "engine":
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    return table


def _titled(title: str, table: Table, notes: Sequence[str] = ()) -> Group:
    """Return lines of their own instead of a title and a caption, which would be wrapped to the table's width."""
    return Group(
        Text(title, style="bold", overflow="fold"), table, *(Text(note, overflow="fold") for note in notes), ""
    )


def _quantiles(marks: Quantiles, digits: int) -> list[str]:
    return [f"{mark:.{digits}f}" for mark in (marks.p50, marks.p95, marks.p99)]


def _listed(entries: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in entries.items() if value is not None)


def _verdict(variant: Variant) -> str:
    if variant.value is None or variant.drop is None:
        return "not measured, loaded by name only"
    side = "below" if variant.drop >= 0 else "above"
    figures = f"{variant.metric} {variant.value:.4f}, {abs(variant.drop):.4f} {side} fp32"
    where = f" on {variant.measured_on}" if variant.measured_on else ""
    kept = f", {len(variant.excluded)} layers in fp32" if variant.excluded else ""
    verdict = "accepted" if variant.accepted else "refused"
    return f"{verdict}: {figures}, over {variant.images} images{where}{kept}"
