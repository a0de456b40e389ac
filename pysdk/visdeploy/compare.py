"""`visdeploy compare`: several ways to train on one data set, each trained, exported, verified and timed, in one table.

Time to train is CPU time of the process, which a busy machine stretches least; on one thread (OMP_NUM_THREADS=1) it is
training time.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from visdeploy import export
from visdeploy.bundle import Bundle
from visdeploy.data import Dataset
from visdeploy.engines import NAMES, installed, load_adapter, reason
from visdeploy.errors import CheckFailedError, InputError, did_you_mean, requires
from visdeploy.kinds import Folder, Positive, Seed, check_arguments
from visdeploy.machine import cpu_model
from visdeploy.metrics import headline
from visdeploy.precision import PrecisionOptions
from visdeploy.throughput import Figures, compete
from visdeploy.train import TrainOptions, checkpoint, fit
from visdeploy.verify import verify
from visdeploy.whole_file import whole_file

with requires("visdeploy.compare needs torch", "train"):
    import torch

# Held-out photographs that are predicted over and over.
_TIMED_IMAGES = 4
_STREAM = "stream, batch 1"
_SHOWN = ("accuracy", "dice", "miou", "iou", "map50", "psnr", "psnr_before", "ssim")
Say = Callable[[str], None]
Recipes = Annotated[
    Mapping[str, Mapping[str, Any]],
    Field(min_length=1, description="fields of TrainOptions by the title of each recipe, such as {'a': {'lr': 1e-3}}"),
]
Seeds = Annotated[Sequence[Seed], Field(min_length=1, description="whole numbers of 0 to 4294967295, such as (0, 1)")]
Engines = Annotated[Sequence[str] | None, Field(min_length=1, description=f"some of {', '.join(NAMES)}, or None")]


@dataclass(frozen=True)
class Run:
    """One recipe, trained from one seed.

    Attributes:
        seed: It.
        epochs: Passes over the training images.
        cpu_minutes: What they took, validation counted and start-up not.
        cpu_minutes_to_target: Until the end of the first epoch that reached the target; None where none did.
        metrics: Of the best epoch, on the held-out images at training size.
        parameters: Number of the network's.
        bundle: What was exported.
        verified: Whether every engine and precision here gives its golden answers.
    """

    seed: int
    epochs: int
    cpu_minutes: float
    cpu_minutes_to_target: float | None
    metrics: dict[str, float]
    parameters: int
    bundle: Path
    verified: bool

    @property
    def score(self) -> float:
        """The figure that picked the best epoch."""
        return self.metrics[headline(self.metrics)]


@dataclass
class Row:
    """One recipe.

    Attributes:
        title: Its name and what was changed of it.
        options: All that decided its training, but the seed.
        runs: One per seed that came to its end.
        speed: Of the first run's bundle.
        notes: What failed, and what was refused.
        failed: Whether anything failed.
    """

    title: str
    options: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    speed: Figures | None = None
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Note what failed, so that the others go on."""
        try:
            yield
        except Exception as error:  # someone else's network fails in its own ways
            self.failed = True
            self.notes.append(f"{what} failed: {reason(error)}")

    @property
    def images_per_second(self) -> dict[str, float]:
        """Images a second in a stream, by engine and precision."""
        return {entry.name: entry.images_per_second[_STREAM] for entry in self.speed.entries} if self.speed else {}

    def mean(self, name: str) -> float | None:
        """Return the mean of a figure over the seeds."""
        values = [run.metrics[name] for run in self.runs if name in run.metrics]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        rows: One per recipe.
        seeds: From which each was trained.
        target: The figure whose first reaching is timed.
        images: Numbers of images to train on and held out.
        cpu: Name of the processor.
        threads: That training used.
    """

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    target: float | None
    images: tuple[int, int]
    cpu: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values."""
        rows = [
            asdict(replace(row, speed=None))
            | {"images_per_second": row.images_per_second, "speed": row.speed.to_dict() if row.speed else None}
            for row in self.rows
        ]
        document: dict[str, Any] = json.loads(json.dumps({**vars(self), "rows": rows}, default=str))
        return document

    def to_markdown(self) -> str:
        """Return the table, with what it says nothing of below."""
        runs = [run for row in self.rows for run in row.runs]
        score = headline(runs[0].metrics) if runs else "score"
        others = [name for name in _SHOWN if name != score and any(name in run.metrics for run in runs)]
        speeds = list(dict.fromkeys(name for row in self.rows for name in row.images_per_second))
        heads = ["model", "parameters", "epochs", "CPU min"]
        heads += [f"CPU min to {score} {self.target:g}"] if self.target is not None else []
        heads += [score, *(f"seed {seed}" for seed in self.seeds)] if len(self.seeds) > 1 else [score]
        heads += [*others, *speeds, "verified"]
        lines = [heads, ["---", *("---:" for _ in heads[1:])]]
        for row in self.rows:
            by_seed = {run.seed: run for run in row.runs}
            first = row.runs[0] if row.runs else None
            cells = [row.title, f"{first.parameters:,}" if first else "-", _each(row, lambda run: str(run.epochs))]
            cells.append(_each(row, lambda run: f"{run.cpu_minutes:.1f}"))
            if self.target is not None:
                cells.append(_each(row, lambda run: _figure(run.cpu_minutes_to_target, 1)))
            cells.append(_figure(row.mean(score), 4))
            if len(self.seeds) > 1:
                cells += [_figure(by_seed[seed].score if seed in by_seed else None, 4) for seed in self.seeds]
            cells += [_figure(row.mean(name), 4) for name in others]
            cells += [_figure(row.images_per_second.get(name), 1) for name in speeds]
            cells.append(("yes" if all(run.verified for run in row.runs) else "NO") if row.runs else "-")
            lines.append(cells)
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        table = [
            f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
        ]
        return "\n".join([*table, "", *self._notes()]) + "\n"

    def _notes(self) -> list[str]:
        train, held_out = self.images
        split = f"{train} images to train on, {held_out} held out; figures are of the best epoch at training size"
        many = " and means over the seeds" if len(self.seeds) > 1 else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        notes = [f"{split}{many}. Trained on {threads}. By engine: images/s of a stream, batch 1. {self.cpu}."]
        return notes + [f"- {row.title}: {note}" for row in self.rows for note in row.notes]


def compare(
    dataset: Dataset,
    recipes: Recipes,
    out: Folder,
    *,
    seeds: Seeds = (0,),
    cpu_minutes: Positive | None = None,
    target: float | None = None,
    engines: Engines = None,
    precision: str = "fp32",
    duration: Positive = 1.0,
    progress: Say | None = None,
) -> Comparison:
    """Train every recipe from every seed, export, verify and time it; what was trained already is not trained again.

    A recipe that fails does not stop the others: its row says why.

    Args:
        dataset: What `visdeploy.data.open` returns.
        recipes: Fields of `TrainOptions` by title; `out` and `seed` are not among them, as those are of this call.
        out: Folder that gets a run per recipe and seed, with its bundle, and `compare.md` and `compare.json`.
        seeds: To train from.
        cpu_minutes: CPU time of each run, validation included: an epoch is timed, and there are as many as fit in.
            Default, the epochs of the recipe. It supposes a `precision` that is named: "auto" is timed for each run.
        target: Figure, as in `metrics.headline`, whose first reaching is timed.
        engines: To verify and time; default, all that run here.
        precision: "fp32", or what `PrecisionOptions` takes, measured on the held-out images.
        duration: Seconds for which each use of each engine and precision is timed.
        progress: Called with one line per step.

    Raises:
        InputError: An argument is not what it should be, a recipe has a field that there is not or fields that
            contradict each other, or two recipes would share a folder; nothing was trained.
        MissingDependencyError: An engine that was named is not installed; nothing was trained.
    """
    given: dict[str, Any] = {"recipes": recipes, "out": out, "seeds": seeds, "engines": engines}
    given |= {"cpu_minutes": cpu_minutes, "target": target, "precision": precision, "duration": duration}
    out = check_arguments("compare", compare, given)["out"]
    seeds = tuple(dict.fromkeys(seeds))
    for name in engines or ():
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            raise InputError(f"[compare] engines: expected {', '.join(NAMES)}, got {name!r}{hint}")
        load_adapter(name)
    wanted = None
    if precision != "fp32":
        wanted = PrecisionOptions(precision, dataset, engines=tuple(engines or installed()))
    plans = _plans(recipes, out)
    if cpu_minutes is not None and any(len(options.sizes) > 1 for options in plans.values()):
        raise InputError("[compare] cpu_minutes: goes with one size; with several, give the epochs of each")
    say = progress or (lambda line: None)
    rows = {title: Row(title) for title in plans}
    threads = torch.get_num_threads()
    if cpu_minutes is not None:  # one right after the other, so that a busy hour hurts all alike
        for title, options in list(plans.items()):
            with rows[title].going_on("timing an epoch"):
                plans[title] = _within(dataset, options, cpu_minutes, say)
        plans = {title: options for title, options in plans.items() if not rows[title].failed}
    for seed in seeds:
        for title, options in plans.items():
            say(f"{title}, seed {seed}: {options.epochs_of(0)} epochs")
            torch.set_num_threads(threads)  # which engines set for themselves
            seeded = replace(options, out=Path(f"{options.out}-{seed}"), seed=seed)
            with rows[title].going_on(f"seed {seed}"):
                rows[title].options = _record(seeded)
                rows[title].runs.append(run := _run(dataset, seeded, engines, target, say))
                if not run.verified:
                    raise CheckFailedError(f"visdeploy verify {run.bundle} names what differs from the golden answers")
    images = [item.load_image() for item in dataset.val[:_TIMED_IMAGES]]
    for row in rows.values():
        if row.runs:
            say(f"{row.title}: images per second")
            with row.going_on("timing"):
                bundle = _with_variants(row, wanted, say)
                row.speed = compete(bundle, images, engines=engines, batches=(1,), clients=2, duration=duration)
    found = Comparison(
        tuple(rows.values()),
        seeds,
        target,
        (len(dataset.train), len(dataset.val)),
        cpu_model(),
        threads,
    )
    out.mkdir(parents=True, exist_ok=True)  # where none came so far as to have a folder
    with whole_file(out / "compare.md") as partial:
        partial.write_text(found.to_markdown())
    with whole_file(out / "compare.json") as partial:
        partial.write_text(json.dumps(found.to_dict(), indent=1))
    return found


def _plans(recipes: Mapping[str, Mapping[str, Any]], out: Path) -> dict[str, TrainOptions]:
    """Return the options of each recipe, with the folder that its runs' are named after."""
    folders = {title: out / re.sub(r"[^\w.]+", "-", title).strip("-") for title in recipes}
    if len({str(folder).lower() for folder in (*folders.values(), out)}) <= len(folders):
        raise InputError(f"[compare] recipes: expected titles that differ in letters or digits, got {list(recipes)}")
    for title, fields in recipes.items():
        for name in ("out", "seed"):
            if name in fields:
                raise InputError(f"[compare] recipes: {title!r} has {name}, which is one for all: give it to compare")
    return {title: TrainOptions.parse({**fields, "out": folders[title]}) for title, fields in recipes.items()}


def _within(dataset: Dataset, options: TrainOptions, cpu_minutes: float, say: Say) -> TrainOptions:
    """Return the options with as many epochs as fit into a budget, by a trial of two that is kept beside the runs."""
    say(f"{options.out.name}: timing an epoch")
    frozen = options.frozen_epochs_of(0)
    trial = replace(options, out=Path(f"{options.out}-trial"), epochs=(2,), freeze_epochs=min(1, frozen))
    _fit(dataset, trial)
    slow, usual = (float(row["cpu_seconds"]) for row in _history(trial.out))
    # Of two alike the second is the better witness: the first warms up.
    start = slow * frozen
    epochs = int((60 * cpu_minutes - start) / usual) + frozen
    if epochs <= frozen:
        raise InputError(
            f"[compare] cpu_minutes: expected more than {(start + usual) / 60:.2g} minutes, of which "
            f"{usual / 60:.2g} are one epoch, got {cpu_minutes:g}"
        )
    return replace(options, epochs=(epochs,))


def _run(dataset: Dataset, options: TrainOptions, engines: Sequence[str] | None, target: float | None, say: Say) -> Run:
    """Train, export and verify, or find that done."""
    _fit(dataset, options)
    net, spec = checkpoint.load(options.out)
    bundle = options.out / "model.vdz"
    if not bundle.is_file():
        export.export(net, bundle, spec=spec, golden=sorted((options.out / "golden").iterdir()), progress=say)
    report = verify(bundle, engines=engines)
    rows = _history(options.out)
    minutes = [float(row["cpu_seconds"]) / 60 for row in rows]
    score = headline(spec.metrics)
    reached = [index for index, row in enumerate(rows, 1) if target is not None and float(row[score]) >= target]
    return Run(
        seed=options.seed,
        epochs=len(rows),
        cpu_minutes=sum(minutes),
        cpu_minutes_to_target=sum(minutes[: reached[0]]) if reached else None,
        metrics=spec.metrics,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        bundle=bundle,
        verified=report.ok,
    )


def _fit(dataset: Dataset, options: TrainOptions) -> None:
    fit(dataset, options, resume=(options.out / "options.json").is_file())


def _with_variants(row: Row, wanted: PrecisionOptions | None, say: Say) -> Bundle:
    """Open the bundle of the first run, with the variants that were asked for and accepted in it."""
    path = row.runs[0].bundle
    bundle = Bundle.open(path)
    held = {variant.precision for variant in bundle.manifest.variants}
    if wanted is None or wanted.precision in held or (wanted.precision == "auto" and held):
        return bundle
    try:
        export.add_variants(path, path, precision=wanted, progress=say)
    except CheckFailedError as error:
        row.notes.append(f"{wanted.precision} was refused: {error}")
    return Bundle.open(path)


def _history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _record(options: TrainOptions) -> dict[str, Any]:
    """Return what decided a training in plain Python values."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(options), default=str))
    return {name: value for name, value in fields.items() if name not in ("out", "seed")}


def _each(row: Row, shown: Callable[[Run], str]) -> str:
    """Return what is to be shown of each run, once where it is the same."""
    return ", ".join(dict.fromkeys(map(shown, row.runs))) or "-"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
