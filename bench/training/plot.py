"""Draw mAP over CPU time: runs of `visdeploy train` beside the reference.

python bench/training/plot.py --reference runs/reference runs/fpn-0 runs/none-0 --out docs/bccd_curves.png
"""

import argparse
import csv
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of `visdeploy train`")
    parser.add_argument("--reference", type=Path, required=True, help="folder of torchvision_ssd.py")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2, sharex=True),
        ("map50", "ap50_Platelets"),
        ("mAP@0.5 of held-out images", "AP@0.5 of Platelets"),
        strict=True,
    ):
        rows = _rows(args.reference / "log.csv")
        minutes = [float(row["cpu_minutes"]) for row in rows]
        axes.plot(minutes, [float(row[column]) for row in rows], color="gray", label="torchvision SSD")
        for run in args.runs:
            rows = _rows(run / "history.csv")
            minutes = [seconds / 60 for seconds in accumulate(float(row["cpu_seconds"]) for row in rows)]
            axes.plot(minutes, [float(row[column]) for row in rows], label=run.name)
        axes.set(title=title, xlabel="CPU minutes", ylim=(0.5, 1), xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(args.out, dpi=100)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
