"""Rewrite the table in README.md from the JSON files in bench/results/."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def table(document: dict[str, Any]) -> list[str]:
    """One line per rival; quantiles and counts stay in the JSON."""
    lines = ["| case | ours | median ms | rival | median ms | ours is faster by |", "|---|---|---:|---|---:|---:|"]
    ours: dict[str, Any] = {}
    for row in document["rows"]:
        if row["case"] != ours.get("case"):
            ours = row
            continue
        figures = f"{row['case']} | {ours['contender']} | {ours['median_ms']:.3f} | {row['contender']}"
        lines.append(f"| {figures} | {row['median_ms']:.3f} | {row['ratio']:.2f}× |")
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
