"""Rewrite the tables in README.md, and the curve in docs/, from the JSON files in bench/results/."""

import json
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def table(document: dict[str, Any]) -> list[str]:
    """A line per case: the rival named first, which users have today, and the fastest where that is another."""
    lines = ["| case | ours, ms | rival | faster by | fastest rival | faster by |", "|---|---:|---|---:|---|---:|"]
    for case, group in groupby(document["rows"], key=itemgetter("case")):
        first, *others = group
        ours = [first, *(row for row in others if row["contender"].startswith("visdeploy"))]
        rivals = [row for row in others if row not in ours]
        shown = {row["contender"]: row for row in (*rivals[:1], *sorted(rivals, key=itemgetter("median_ms"))[:1])}
        for row in ours:
            what = f"{case}, {row['contender'].removeprefix('visdeploy ')}" if len(ours) > 1 else case
            cells = [f"{name} | {rival['median_ms'] / row['median_ms']:.2f}×" for name, rival in shown.items()]
            lines.append(" | ".join([f"| {what} | {row['median_ms']:.3g}", *cells, *[" | "] * (2 - len(cells))]) + " |")
    return lines


def report() -> str:
    lines: list[str] = []
    for path in sorted((ROOT / "bench" / "results").glob("*.json")):
        document = json.loads(path.read_text())
        versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
        dirty = ", with uncommitted changes" if document["dirty"] else ""
        lines += [f"**{path.stem}**: {document['threads']} threads of {document['cpu']}; {versions}; "]
        lines[-1] += f"commit {document['commit'][:9]}{dirty}."
        lines += ["", *table(document), ""]
    return "\n".join(lines)


def draw_growth(rows: list[dict[str, Any]], path: Path) -> None:
    """Time over the number of boxes, beside n log n through the first point."""
    n = np.array([int(row["case"].split()[-1]) for row in rows])
    times = np.array([row["median_ms"] for row in rows])
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.loglog(n, times, "o-", label="ops.nms, median")
    axes.loglog(n, times[0] * n * np.log(n) / (n[0] * np.log(n[0])), "--", label="n log n")
    axes.set(xlabel="boxes, uniform in 1000 x 1000", ylabel="ms, one thread")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    nms = json.loads((ROOT / "bench" / "results" / "bench_nms.json").read_text())
    growth = [row for row in nms["rows"] if row["case"].startswith("nms growth")]
    draw_growth(growth, ROOT / "docs" / "nms_growth.png")
    readme = ROOT / "README.md"
    head, _, rest = readme.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    readme.write_text(f"{head}{BEGIN}\n{report()}{END}{tail}")


if __name__ == "__main__":
    main()
