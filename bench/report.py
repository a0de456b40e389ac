"""Write docs/benchmarks.md, its pick in README.md and the curve of nms from the JSON files in bench/results/."""

import json
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
SERVING = "bench_segmentation"
# What the README shows: the start of a case's name.
PICK = (
    "serve 8 images",
    "16 JPEG of 640x480",
    "post-processing of 8",
    "nms uniform 1000",
    "nms clustered 1000",
    "batched_nms",
    "detect 1x8732x91 noisy",
    "multibox_detection 1x5444",
    "encode C order 1280x1918",
    "decode F order 1280x1918",
    "encode_logits 256x256 to 1080",
    "semantic_map 21",
    "iou 300x300 masks",
    "merge 100",
    "frPyObjects 1000",
    "instances 1024x1360",
)

# What a bench shows beside them to compare with.
NO_RIVALS = ("ceiling", "the engine, which comes before")

Rows = list[dict[str, Any]]


def lines_of(rows: Rows) -> list[str]:
    """A line per case: the rival named first, which users have today, and the fastest where that is another."""
    lines = []
    for case, group in groupby(rows, key=itemgetter("case")):
        first, *others = group
        ours = [first, *(row for row in others if row["contender"].startswith("visdeploy"))]
        rivals = [row for row in others if row not in ours and row["contender"] not in NO_RIVALS]
        shown = {row["contender"]: row for row in (*rivals[:1], *sorted(rivals, key=itemgetter("median_ms"))[:1])}
        for row in ours:
            what = f"{case}, {row['contender'].removeprefix('visdeploy ')}" if len(ours) > 1 else case
            cells = [f"{name} | {rival['ratio'] / row['ratio']:.2f}×" for name, rival in shown.items()]
            lines.append(" | ".join([f"| {what} | {row['median_ms']:.3g}", *cells, *[" | "] * (2 - len(cells))]) + " |")
    return lines


def table(rows: Rows) -> str:
    head = ["| case | ours, ms | rival | faster by | fastest rival | faster by |", "|---|---:|---|---:|---|---:|"]
    return "\n".join([*head, *lines_of(rows)])


def serving_table(rows: Rows) -> str:
    """A line per precision: images a second, how many times those of each rival, and the share of the ceiling."""
    rivals = [row["contender"] for row in rows if row["case"] == rows[0]["case"]][1:-1]
    lines = [
        f"| {' | '.join(['precision', 'images/s', *(f'faster than {name}' for name in rivals), 'of the ceiling'])} |",
        f"|---|{'---:|' * (len(rivals) + 2)}",
    ]
    for case, group in groupby(rows, key=itemgetter("case")):
        ours, *others, ceiling = group
        count, precision = int(case.split()[0]), case.split()[-1]
        cells = [f"{1e3 * count / ours['median_ms']:.1f}", *(f"{row['ratio']:.2f}×" for row in others)]
        lines.append(f"| {' | '.join([precision, *cells, format(ceiling['ratio'], '.2f')])} |")
    return "\n".join(lines)


def put(text: str, name: str, table: str) -> str:
    """Replace what stands between the marks of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def heading(document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    dirty = ", with uncommitted changes" if document["dirty"] else ""
    return f"{document['cpu']}, {document['threads']} cores; {versions}; commit {document['commit'][:9]}{dirty}."


def pick(rows: Rows) -> Rows:
    chosen = [[row for row in rows if row["case"].startswith(start)] for start in PICK]
    missing = [start for start, found in zip(PICK, chosen, strict=True) if not found]
    if missing:
        raise SystemExit(f"no case starts with {missing}")
    return [row for found in chosen for row in found]


def draw_growth(rows: Rows, path: Path) -> None:
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
    documents = {path.stem: json.loads(path.read_text()) for path in sorted(ROOT.glob("bench/results/*.json"))}
    rows = [row for document in documents.values() for row in document["rows"]]
    draw_growth([row for row in rows if row["case"].startswith("nms growth")], ROOT / "docs" / "nms_growth.png")
    pages = [
        "# Benchmarks",
        "Written by `make bench`; quantiles and counts are in `bench/results/`. Medians of contenders in turns in one"
        " process, their answers compared first, on one thread each except where a model is served. What takes less"
        " than 0.2 ms is called in a row until it does. The rival named first is what users have today, the fastest is"
        " the best of all that were tried.",
    ]
    for name, document in documents.items():
        written = serving_table if name == SERVING else table
        pages += [f"## {name}", heading(document), written(document["rows"])]
    (ROOT / "docs" / "benchmarks.md").write_text("\n\n".join(pages) + "\n")
    readme = ROOT / "README.md"
    text = put(readme.read_text(), "bench", table(pick(rows)))
    readme.write_text(put(text, "serving", serving_table(documents[SERVING]["rows"])))


if __name__ == "__main__":
    main()
