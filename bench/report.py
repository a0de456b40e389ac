"""Rewrite the table in README.md from the JSON files in bench/results/."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def table(document: dict[str, Any]) -> list[str]:
    lines = [
        "| case | contender | median ms | p10 | p90 | n | ours is faster by |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        figures = f"{row['median_ms']:.3f} | {row['p10_ms']:.3f} | {row['p90_ms']:.3f} | {row['n']}"
        ratio = "" if row["ratio"] == 1 else f"{row['ratio']:.2f}×"
        lines.append(f"| {row['case']} | {row['contender']} | {figures} | {ratio} |")
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
