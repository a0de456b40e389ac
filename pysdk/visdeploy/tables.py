"""What the command line shows for reports, figures and manifests."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visdeploy.benchmark import STAGES, Measurement
from visdeploy.spec import Manifest, Variant
from visdeploy.throughput import Figures
from visdeploy.verify import Report

# Wide enough for every table when the output is a file and has no width of its own.
_PIPE_WIDTH = 170


def console() -> Console:
    """Return a console for stdout that neither wraps nor colours what is piped."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def of_report(report: Report) -> Table:
    """Return one line per verified stage, and below what could not be verified here."""
    own = f", {report.own_images} images against {report.reference}" if report.own_images else ""
    title = f"{escape(report.bundle)}: {report.images} golden images{own}"
    not_run = "\n".join(f"not run here: {entry.what}: {entry.why}" for entry in report.not_run)
    table = Table(title=title, title_justify="left", caption=escape(not_run) or None, caption_justify="left")
    for heading in ("stage", "engine", "error", "limit", "", "changed pixels", "Dice", "worst image", "verdict"):
        right = heading in ("error", "limit", "changed pixels", "Dice")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for row in report.rows:
        dice = "" if row.dice is None else f"{row.dice:.5f}"
        changed = "" if row.changed is None else f"{row.changed:,} of {row.pixels:,}"
        verdict = "[green]same[/]" if row.ok else "[bold red]DRIFTED[/]"
        figures = f"{row.error:.2g}", f"{row.limit:.2g}", row.unit, changed, dice
        table.add_row(row.stage, escape(row.ran_on) or "any", *figures, escape(Path(row.worst).name), verdict)
    return table


def of_measurements(measurements: Sequence[Measurement]) -> Table:
    """Return one line per engine: p50 (p95, p99) milliseconds of each stage."""
    count = measurements[0].samples
    table = Table(title=f"milliseconds per image: p50 (p95, p99), n = {count}", title_justify="left")
    table.add_column("engine", no_wrap=True)
    for stage in STAGES:
        table.add_column(stage, justify="right")
    table.add_column("images/s", justify="right")
    for measured in measurements:
        cells = []
        for stage in STAGES:
            marks = measured.stages[stage]
            cells.append(f"{marks.p50:.2f} ({marks.p95:.2f}, {marks.p99:.2f})")
        table.add_row(f"{measured.engine} {measured.precision}", *cells, f"{measured.images_per_second:.1f}")
    return table


def of_figures(figures: Figures) -> list[Table]:
    """Return two tables with a line per engine and precision: speed, then what it costs and what it answers."""
    ratios, uses = figures.ratios(), list(figures.reference.rates)
    title = f"{escape(figures.bundle)}: images/s, and ratio to the same of {escape(figures.reference.name)}"
    speed = Table(title=title, title_justify="left")
    speed.add_column("engine", no_wrap=True)
    for heading in (*uses, "call p50 (p95, p99) ms", f"{uses[-1]}' calls"):
        speed.add_column(heading, justify="right")
    below = [f"{entry.name}: {note}" for entry in figures.entries for note in entry.notes]
    below += [f"not run here: {entry.what}: {entry.why}" for entry in figures.not_run]
    caption = escape("\n".join(below)) or None
    cost = Table(title="what it costs", title_justify="left", caption=caption, caption_justify="left")
    cost.add_column("engine", no_wrap=True)
    for heading in ("load s", "first result s", "memory MB", "peak MB", *STAGES[:-1], "changed pixels", "Dice", "drop"):
        cost.add_column(heading, justify="right")
    for entry in figures.entries:
        rates = [f"{rate:.1f} ({ratios[f'{entry.name}, {use}']:.2f}x)" for use, rate in entry.images_per_second.items()]
        marks = [f"{m.p50:.1f} ({m.p95:.1f}, {m.p99:.1f})" for m in (entry.latency, entry.client_latency)]
        speed.add_row(f"{entry.engine} {entry.version} {entry.precision}", *rates, *marks)
        memory = ["" if size is None else f"{size:.0f}" for size in (entry.memory_mb, entry.peak_mb)]
        stages = [f"{entry.stages[stage]:.2f}" for stage in STAGES[:-1]]
        changed = "" if entry.changed is None else f"{entry.changed:,} of {entry.pixels:,}"
        dice = "" if entry.dice is None else f"{entry.dice:.5f}"
        drop = "" if entry.drop is None else f"{entry.drop:.4f} {entry.metric}"
        cost.add_row(
            entry.name, f"{entry.load_s:.2f}", f"{entry.first_result_s:.2f}", *memory, *stages, changed, dice, drop
        )
    return [speed, cost]


def of_manifest(path: str, manifest: Manifest) -> Table:
    """Return the manifest, one field a line."""
    table = Table(title=escape(path), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in manifest.model_dump(mode="json", exclude={"files", "palette", "labels", "variants"}).items():
        if value not in (None, {}, []):
            shown = ", ".join(f"{key}: {item}" for key, item in value.items()) if isinstance(value, dict) else value
            table.add_row(name, escape(str(shown)))
    for variant in manifest.variants:
        table.add_row(f"{variant.engine} {variant.precision}", escape(_verdict(variant)))
    for index, (label, color) in enumerate(zip(manifest.labels, manifest.palette, strict=True)):
        note = " (background)" if index == manifest.background else ""
        table.add_row(f"label {index}", f"[rgb({color[0]},{color[1]},{color[2]})]██[/] {escape(label)}{note}")
    for name, entry in manifest.files.items():
        table.add_row(name, f"{entry.size:,} bytes, sha256 {entry.sha256[:16]}…")
    return table


def _verdict(variant: Variant) -> str:
    if variant.value is None or variant.drop is None:
        return "not measured, loaded by name only"
    where = f" on {variant.measured_on}" if variant.measured_on else ""
    kept = f", {len(variant.excluded)} layers in fp32" if variant.excluded else ""
    figures = (
        f"{variant.metric} {variant.value:.4f}, {variant.drop:.4f} below fp32, over {variant.images} images{where}"
    )
    return f"{'accepted' if variant.accepted else 'refused'}: {figures}{kept}"
