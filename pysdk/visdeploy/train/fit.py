"""From a folder of images and what is known of them to the best checkpoint, in stages of growing size."""

import copy
import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from torch import nn

from visdeploy import image, models
from visdeploy.data import Dataset, Item, check_or_raise
from visdeploy.errors import InputError
from visdeploy.models.weights import read_torch_file, require_whole
from visdeploy.spec import Spec
from visdeploy.train import checkpoint
from visdeploy.train.crops import OWN_SCALE, large_enough
from visdeploy.train.detection import DetectionTask
from visdeploy.train.freezing import names_up_to
from visdeploy.train.journal import Journal
from visdeploy.train.loader import Examples, loaders
from visdeploy.train.localization import ClassificationTask, LocalizationTask
from visdeploy.train.options import TrainOptions
from visdeploy.train.restoration import RestorationTask
from visdeploy.train.segmentation import SegmentationTask
from visdeploy.train.task import Task
from visdeploy.whole_file import whole_file

GOLDEN_IMAGES = 2
_LENGTH = (
    "; the schedule is of the whole run, so its length cannot change: finish it as it was begun, then train on from "
    "its best weights in another folder, with --weights {}/model.pt"
)

TASKS: dict[str, type[Task]] = {
    "segmentation": SegmentationTask,
    "detection": DetectionTask,
    "localization": LocalizationTask,
    "classification": ClassificationTask,
    "restoration": RestorationTask,
}


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        checkpoint: The best weights by validation metric, with their spec; `visdeploy export` takes it.
        metrics: The validation figures of those weights, at training size.
        seconds: How long the run took.
    """

    checkpoint: Path
    metrics: dict[str, float]
    seconds: float


def fit(dataset: Dataset, options: TrainOptions, *, resume: bool = False) -> TrainResult:
    """Train a model for the task that the options name.

    Args:
        dataset: What `visdeploy.data.open` returns; it is checked as a whole before the first step.
        options: See `TrainOptions`. The folder `options.out` gets `model.pt`, `history.csv`, `curves.png`, `golden/`
            and a folder per stage.
        resume: Continue the run in `options.out` where it stopped.

    Raises:
        InputError: The data have problems (all are listed), or nothing that the task could learn; the loss stopped
            being finite (the files are named); or the folder holds another run, or none to resume.
    """
    start = time.perf_counter()
    check_or_raise(dataset)
    dataset = TASKS[options.task].select(dataset, options)
    if not dataset.train or not dataset.val:
        count = f"{len(dataset.train)} images to train on and {len(dataset.val)} held out"
        raise InputError(f"[train] data: expected some of each, got {count}")
    lightning.seed_everything(options.seed, verbose=False)
    architecture = _architecture(dataset, options)
    net = models.create(**architecture, weights=options.weights)
    _check_freezing(options, net)
    specs = [_spec(dataset, options, architecture, net, size) for size in options.sizes]
    if options.resize in OWN_SCALE:
        dataset = _large_enough(dataset, specs)
    if min(options.batch, len(dataset.train)) == 1:
        _check_alone(dataset, options, net)
    _claim(options, dataset, resume)
    net = net.to(memory_format=torch.channels_last)
    figures: dict[str, float] = {}
    for stage, spec in enumerate(specs):
        figures = _run_stage(dataset, options, spec, stage, net)
    final = specs[-1].model_copy(update={"metrics": figures})
    path = options.out / "model.pt"
    checkpoint.save(path, net, final)
    _save_golden(dataset, options.out / "golden")
    return TrainResult(path, figures, time.perf_counter() - start)


def _large_enough(dataset: Dataset, specs: Sequence[Spec]) -> Dataset:
    notes = len(dataset.notes)
    for spec in specs:
        dataset = large_enough(dataset, spec)
    for note in dataset.notes[notes:]:
        print(f"  {note}", flush=True)
    return dataset


def _claim(options: TrainOptions, dataset: Dataset, resume: bool) -> None:
    record = options.out / "options.json"
    now = {**_plain(dataclasses.asdict(options)), "data": _identity(dataset)}
    if record.is_file():
        before = json.loads(record.read_text())
        if not resume:
            raise InputError(f"[train] out: {options.out} already holds a run; pass --resume, or another folder")
        # An earlier version knew fewer options, and did what their defaults do.
        before = _plain({option.name: option.default for option in dataclasses.fields(options)}) | before
        before.setdefault("data", now["data"])
        changed = [name for name in now if name != "out" and before[name] != now[name]]
        if changed:
            said = "; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in changed)
            length = _LENGTH.format(options.out) if "epochs" in changed else ""
            raise InputError(
                f"[train] resume: the run in {options.out} was started with other options or data: {said}{length}"
            )
        return
    if resume:
        raise InputError(f"[train] resume: {options.out} holds no run to continue; leave --resume out to start one")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with whole_file(record) as partial:
            partial.write_text(json.dumps(now, indent=1))
    except OSError as error:
        raise InputError(f"[train] out: cannot write to {options.out} ({error.strerror})") from error


def _identity(dataset: Dataset) -> str:
    """Return what tells data from others without reading the images."""
    names = "\n".join([*dataset.labels, *(item.name for item in (*dataset.train, *dataset.val))])
    told = f"{len(dataset.train)} images and {len(dataset.val)} held out, names of checksum {crc32(names.encode()):08x}"
    return f"{told}, {dataset.degrade}" if dataset.degrade else told


def _check_freezing(options: TrainOptions, net: nn.Module) -> None:
    """Refuse what is said of an encoder where there is none, or none that has such a feature map."""
    asked = [name for name in ("freeze_epochs", "freeze_to", "freeze_bn") if getattr(options, name)]
    if asked and not hasattr(net, "encoder"):
        raise InputError(f"[train] {asked[0]}: expected none, because {options.arch} has no encoder")
    names_up_to(net, options.freeze_to or 0)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    return values


def _check_alone(dataset: Dataset, options: TrainOptions, net: nn.Module) -> None:
    """Refuse steps of one image where the network has BatchNorm layers with one value for each channel of it."""
    for height, width in options.sizes:
        try:
            copy.deepcopy(net).train()(torch.zeros(1, 3, height, width))
        except ValueError as error:
            raise InputError(
                f"[train] batch: expected at least 2 images in a step, as {options.arch} normalises over them, got "
                f"batch={options.batch} and {len(dataset.train)} images to train on"
            ) from error


def _architecture(dataset: Dataset, options: TrainOptions) -> dict[str, Any]:
    named: dict[str, Any] = {"name": options.arch}
    if options.encoder is not None:
        named["encoder"] = options.encoder
    decided = TASKS[options.task].architecture(dataset, options)
    for name, value in decided.items():
        if options.model.get(name, value) != value:
            raise InputError(f"[train] model: {name} follows from the other options and the data, and is {value}")
    return named | options.model | decided


def _spec(
    dataset: Dataset, options: TrainOptions, architecture: dict[str, Any], net: nn.Module, size: tuple[int, int]
) -> Spec:
    mean, std = models.normalisation(options.encoder)
    fields = {
        "task": options.task,
        "size": size,
        "mean": mean,
        "std": std,
        "resize": options.resize,
        "architecture": architecture,
    }
    return Spec.parse(fields | TASKS[options.task].spec_fields(dataset, net, size), "train")


def _run_stage(dataset: Dataset, options: TrainOptions, spec: Spec, stage: int, net: nn.Module) -> dict[str, float]:
    """Train one stage unless an earlier run finished it, and leave its best weights in `net`."""
    folder = options.out / f"stage-{stage}-{spec.size[0]}x{spec.size[1]}"
    summary = folder / "best.json"
    if not summary.is_file():
        task = TASKS[options.task](net, spec, options, stage)
        train, val = task.sets(dataset, options.seed + stage)
        task.prepare(train)
        _train(task, train, val, folder, stage)
    best = read_torch_file(folder / "best.ckpt")["state_dict"]
    net.load_state_dict({name.removeprefix("net."): value for name, value in best.items() if name.startswith("net.")})
    figures: dict[str, float] = json.loads(summary.read_text())
    return figures


def _train(task: Task, train: Examples, val: Examples, folder: Path, stage: int) -> None:
    options, spec = task.options, task.spec
    precision = _choose_precision(options, task.net, spec, min(options.batch, len(train)))
    train_loader, val_loader = loaders(train, val, options.batch)
    common: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "precision": "bf16-mixed" if precision == "bf16" else "32-true",
        "logger": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
        "log_every_n_steps": 1,
    }
    with _quiet():
        if options.lr is None and not (folder / "last.ckpt").is_file():
            task.lr = _find_lr(task, common, train_loader, folder)
        best = _Best(folder)
        callbacks: list[Any] = [best, Journal(options.out, stage, spec.size)]
        if options.ema:
            # In a short run a long memory would still hold the random start.
            steps = options.epochs_of(stage) * len(train_loader)
            callbacks.append(EMAWeightAveraging(decay=min(options.ema, max(0.0, 1 - 5 / steps))))
        trainer = lightning.Trainer(max_epochs=options.epochs_of(stage), callbacks=callbacks, **common)
        last = folder / "last.ckpt"
        if last.is_file():
            require_whole(last)
        try:
            trainer.fit(task, train_loader, val_loader, ckpt_path=last if last.is_file() else None)
        except SystemExit as error:
            # Lightning turns Ctrl-C into an exit of its own.
            raise KeyboardInterrupt from error
    with whole_file(folder / "best.json") as partial:
        partial.write_text(json.dumps(best.figures))


class _Best(ModelCheckpoint):
    """Keeps `best.ckpt` by validation metric and `last.ckpt` for resuming; remembers the best figures."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, filename="best", monitor="score", mode="max", save_last=True, enable_version_counter=False
        )
        self.figures: dict[str, float] = {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Task)
        if self.best_model_score is None or trainer.callback_metrics["score"] > self.best_model_score:
            self.figures = dict(pl_module.figures)
        super().on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = super().state_dict()
        return state | {"figures": self.figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.figures = state_dict["figures"]


def _choose_precision(options: TrainOptions, net: nn.Module, spec: Spec, batch: int) -> str:
    if options.precision != "auto":
        return options.precision
    seconds = {name: _time_step(net, spec, batch, name) for name in ("fp32", "bf16")}
    chosen = min(seconds, key=lambda precision: seconds[precision])
    timed = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in seconds.items())
    print(f"  precision: {chosen} (a batch forward and backward: {timed})", flush=True)
    return chosen


def _time_step(net: nn.Module, spec: Spec, batch: int, precision: str) -> float:
    trial = copy.deepcopy(net).train()
    images = torch.zeros(batch, 3, *spec.size).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            trial(images).float().mean().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _find_lr(task: Task, common: dict[str, Any], loader: Any, folder: Path) -> float:
    steps = 60
    trainer = lightning.Trainer(max_epochs=-(-steps // len(loader)) + 1, **common)
    finder = Tuner(trainer).lr_find(task, loader, num_training=steps, max_lr=0.3, update_attr=False)
    suggestion = finder.suggestion() if finder is not None else None
    if finder is None or suggestion is None:
        raise InputError("[train] lr: the learning-rate finder saw no falling loss; give --lr")
    figure = finder.plot(suggest=True)
    figure.savefig(folder / "lr_finder.png", dpi=120)
    print(f"  learning rate: {suggestion:.2e} (curve in {folder / 'lr_finder.png'})", flush=True)
    return float(suggestion)


def _save_golden(dataset: Dataset, folder: Path) -> None:
    """Choose the images with the most objects: where a detector finds none, there is nothing to compare."""
    folder.mkdir(exist_ok=True)
    for item in sorted(dataset.val or dataset.train, key=_count_objects, reverse=True)[:GOLDEN_IMAGES]:
        image.write(folder / f"{Path(item.name).stem}.png", item.load_image())


def _count_objects(item: Item) -> int:
    return int((~item.load_objects().ignored).sum()) if item.load_objects else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice; its warnings about this module's own choices say nothing to a user."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            warnings.filterwarnings("ignore", message=r".*(does not have many workers|isinstance\(treespec).*")
            yield
    finally:
        logger.setLevel(level)
