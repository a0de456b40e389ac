"""Rewrite the table in README.md from the JSON files in bench/results/."""

import json
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

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


def main() -> None:
    readme = ROOT / "README.md"
    head, _, rest = readme.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    readme.write_text(f"{head}{BEGIN}\n{report()}{END}{tail}")


if __name__ == "__main__":
    main()
