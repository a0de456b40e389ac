"""A line per epoch for the reader, a row per epoch for the record, and the curves drawn from it."""

import csv
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from visdeploy.metrics import headline
from visdeploy.train.task import Task
from visdeploy.whole_file import whole_file


class Journal(Callback):
    """Writes `history.csv` and `curves.png`, and prints progress."""

    def __init__(self, folder: Path, stage: int, size: tuple[int, int]) -> None:
        self.folder, self.stage, self.size = folder, stage, size
        self.rows = _read(folder / "history.csv")
        self._start = self._cpu_start = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Drop the rows that a resumed run is about to write again."""
        self._first_epoch = trainer.current_epoch
        past = (self.stage, trainer.current_epoch)
        self.rows = [row for row in self.rows if (int(row["stage"]), int(row["epoch"]) - 1) < past]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clocks of the epoch."""
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the epoch; Lightning has validated by now."""
        assert isinstance(pl_module, Task)
        epoch, seconds = trainer.current_epoch + 1, time.perf_counter() - self._start
        loss = sum(pl_module.losses) / max(1, len(pl_module.losses))
        row: dict[str, Any] = {"stage": self.stage, "epoch": epoch, "height": self.size[0], "width": self.size[1]}
        row |= {"seconds": round(seconds, 2), "cpu_seconds": round(time.process_time() - self._cpu_start, 2)}
        row |= {"lr": trainer.optimizers[0].param_groups[-1]["lr"], "loss": loss}
        self.rows.append(row | pl_module.figures)
        _write(self.folder / "history.csv", self.rows)
        shown = dict.fromkeys((headline(pl_module.figures), *pl_module.reported))
        figures = ", ".join(f"{name} {pl_module.figures[name]:.4f}" for name in shown if name in pl_module.figures)
        left = (trainer.max_epochs or epoch) - epoch
        print(
            f"  epoch {epoch}/{trainer.max_epochs} at {self.size[0]}x{self.size[1]}: loss {loss:.4f}, {figures}"
            f"{', encoder frozen' if epoch <= pl_module.frozen_epochs else ''} ({seconds:.1f} s, about "
            f"{left * seconds / 60:.1f} min left)",
            flush=True,
        )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the curves."""
        if self.rows:
            draw_curves(self.rows, self.folder / "curves.png")


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot loss, the headline metric and the learning rate over all epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    score = headline(rows[-1])
    panels = (("loss", "training loss"), (score, f"validation {score}"), ("lr", "learning rate"))
    for position, (column, title) in enumerate(panels, 1):
        axes = figure.add_subplot(1, 3, position)
        axes.plot(range(1, len(rows) + 1), [float(row[column]) for row in rows], color="#2a6f97")
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
