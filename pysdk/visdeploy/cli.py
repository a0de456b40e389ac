"""`visdeploy VERB`: thin commands over the SDK.

Exit codes: 0 ok; 1 a check failed; 2 bad usage, input or bundle; 3 a missing engine or package; 130 Ctrl-C.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from visdeploy import __version__
from visdeploy.errors import CheckFailedError, InputError, MissingDependencyError, VisdeployError

if TYPE_CHECKING:
    from visdeploy.bundle import Bundle
    from visdeploy.data import Dataset
    from visdeploy.verify import Report

app = typer.Typer(
    name="visdeploy",
    help="From PyTorch training to production throughput in one file that proves its answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache_app = typer.Typer(help="Compiled engines, kept under $VISDEPLOY_CACHE.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Item = TypeVar("Item")
BundlePath = Annotated[Path, typer.Argument(help="A .vdz file, or a directory with the same files.")]
Engine = Annotated[str, typer.Option(help="openvino, onnxruntime, torchscript, or auto.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, or what the engine offers beside it.")]
Engines = Annotated[list[str] | None, typer.Option(help="A name, or all (the default); may be repeated.")]
Precisions = Annotated[
    list[str] | None, typer.Option(help="fp32, ..., auto, or all that were accepted (the default); may be repeated.")
]
Threads = Annotated[int | None, typer.Option(help="Threads per inference; default, the container's CPU quota.")]
Data = Annotated[Path, typer.Option(help="Folder of images and masks.")]
Format = Annotated[str, typer.Option(help="Its format: auto, folder, camvid, carvana.")]
Masks = Annotated[str | None, typer.Option(help="Name of the mask folder, where it is not 'masks'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def main() -> None:
    """Run the command line; every expected failure is one sentence and its exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except (VisdeployError, OSError) as error:
        if debug:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(1 if isinstance(error, CheckFailedError) else 3 if isinstance(error, MissingDependencyError) else 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print(f"visdeploy {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo_out"),
    seed: Annotated[int, typer.Option(help="Another seed draws other scenes.")] = 0,
) -> None:
    """Train, export, verify, predict and benchmark a U-Net on generated scenes; takes a few minutes."""
    from visdeploy.demo import run

    run(out, seed=seed)


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    task: Annotated[str, typer.Option(help="segmentation.")] = "segmentation",
    format: Format = "auto",
    masks: Masks = None,
    arch: Annotated[str, typer.Option(help="Model: unet.")] = "unet",
    encoder: Annotated[str, typer.Option(help="resnet18/34/50, or a timm model with a pyramid.")] = "resnet34",
    weights: Annotated[str | None, typer.Option(help="Encoder weights: a file, or a published tag.")] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="decoder_channels=128, ...")] = None,
    size: Annotated[str, typer.Option(help="'256', '192x256', or a stage after the other: '128,256'.")] = "256",
    epochs: Annotated[str, typer.Option(help="Per stage: '20', or '20,10'.")] = "20",
    batch: Annotated[int, typer.Option(help="Images per step.")] = 8,
    lr: Annotated[str, typer.Option(help="Peak learning rate, or 'find'.")] = "0.001",
    encoder_lr: Annotated[float, typer.Option(help="The encoder's share of it.")] = 0.3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 1e-2,
    freeze_epochs: Annotated[int | None, typer.Option(help="Default: 1 with --weights, else 0.")] = None,
    freeze_bn: Annotated[bool, typer.Option(help="Keep the encoder's BatchNorm statistics throughout.")] = False,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights; 0 for none.")] = 0.98,
    dice: Annotated[float, typer.Option(help="Weight of the Dice loss.")] = 0.5,
    class_weights: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    pos_weight: Annotated[float, typer.Option(help="Factor on foreground pixels of a binary task.")] = 1.0,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    rotate: Annotated[float, typer.Option(help="Largest rotation in degrees.")] = 5.0,
    scale: Annotated[str, typer.Option(help="Range of the zoom.")] = "0.8,1.4",
    lighting: Annotated[float, typer.Option(help="Range of brightness and contrast.")] = 0.2,
    resize: Annotated[str, typer.Option(help="stretch or letterbox.")] = "stretch",
    precision: Annotated[str, typer.Option(help="auto (timed at the start), fp32, bf16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Makes two runs on one machine the same.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on a folder of images and masks."""
    _choice("task", task, ("segmentation",))
    options: dict[str, Any] = {
        "class_weights": _choice("class-weights", class_weights, ("none", "balanced")),
        "resize": _choice("resize", resize, ("stretch", "letterbox")),
        "precision": _choice("precision", precision, ("auto", "fp32", "bf16")),
        "model": dict(_key_value(entry) for entry in model or ()),
        "sizes": tuple(_size(entry) for entry in size.split(",")),
        "epochs": tuple(int(value) for value in _numbers("epochs", epochs)),
        "lr": None if lr == "find" else _numbers("lr", lr)[0],
        "scale": _pair("scale", scale),
    }
    from visdeploy.train import TrainOptions, fit

    chosen = TrainOptions(
        out=out,
        arch=arch,
        encoder=encoder,
        weights=weights,
        batch=batch,
        encoder_lr=encoder_lr,
        weight_decay=weight_decay,
        freeze_epochs=freeze_epochs,
        freeze_bn=freeze_bn,
        ema=ema,
        dice=dice,
        pos_weight=pos_weight,
        flip=flip,
        rotate=rotate,
        lighting=lighting,
        seed=seed,
        **options,
    )
    dataset = _open_data(data, format, masks)
    _note(f"{len(dataset.train)} images to train on, {len(dataset.val)} held out, {len(dataset.labels)} classes")
    result = fit(dataset, chosen, resume=resume)
    if as_json:
        document = {"checkpoint": str(result.checkpoint), "metrics": result.metrics, "seconds": result.seconds}
        print(json.dumps(document))
        return
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    print(f"best: {figures}\n{result.checkpoint} after {result.seconds / 60:.1f} min; next:")
    print(f"  visdeploy export {out} --out {out.name}.vdz")


@app.command()
def val(
    bundle: BundlePath,
    data: Data,
    format: Format = "auto",
    masks: Masks = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    minimum: Annotated[float | None, typer.Option("--min", help="Exit 1 if Dice or mean IoU is lower.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on the held-out images of a folder, at their own size."""
    from visdeploy.evaluate import evaluate
    from visdeploy.metrics import headline
    from visdeploy.predictor import load

    dataset = _open_data(data, format, masks)
    with load(bundle, engine=engine, precision=precision) as predictor:
        if dataset.labels != predictor.spec.labels:
            raise InputError(f"[val] data: its labels are {dataset.labels}, the bundle's {predictor.spec.labels}")
        figures = evaluate(predictor, dataset.val)
    if as_json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<24} {value:.4f}")
    score = headline(figures)
    if minimum is not None and figures[score] < minimum:
        raise CheckFailedError(f"{bundle}: {score} is {figures[score]:.4f}, below {minimum}")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run's folder, its model.pt, a bundle, or ONNX with --spec.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as car.vdz, car.xml or car.pt2.")],
    format: Annotated[str, typer.Option(help="bundle, openvino or pt2.")] = "bundle",
    spec: Annotated[Path | None, typer.Option(help="JSON file: task, labels, size, mean, std, ...")] = None,
    golden: Annotated[Path | None, typer.Option(help="Image, or folder of images, to record answers for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a bundle and prove it on every engine installed here; or write a bundle's network in another format."""
    _choice("format", format, ("bundle", "openvino", "pt2"))
    if format == "bundle":
        report = _make_bundle(source, out, spec, golden)
    else:
        with _as_bundle(source, spec, golden) as bundle:
            if format == "openvino":
                from visdeploy.openvino_ir import export_openvino

                report = export_openvino(bundle, out, progress=_note)
            else:
                from visdeploy.pt2 import export_pt2

                report = export_pt2(bundle, out, progress=_note)
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    from visdeploy import tables

    tables.console().print(tables.of_report(report))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB" if out.is_file() else str(out))


@app.command()
def predict(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for overlays, coco.json and kaggle.csv.")] = Path("predictions"),
    engine: Engine = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    batch: Annotated[int | None, typer.Option(help="Images per inference; default, what suits the engine.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability of foreground, for a binary model.")] = None,
    overlays: Annotated[bool, typer.Option(help="Draw the masks over the images.")] = True,
    as_json: AsJson = False,
) -> None:
    """Predict images and write overlays, COCO JSON and a Kaggle CSV."""
    from visdeploy.prediction_files import PredictionFiles
    from visdeploy.predictor import load

    paths = _images(images)
    failed, documents = 0, []
    with load(bundle, engine=engine, precision=precision, num_threads=threads) as predictor:
        files = PredictionFiles(out, predictor.spec, overlays=overlays)
        results = predictor.stream(paths, batch_size=batch, threshold=threshold)
        for result in _track(results, len(paths), "predicting"):
            if result.error is not None:
                failed += 1
                print(f"error: {result.error}", file=sys.stderr)
            else:
                files.add(result)
            if as_json:
                documents.append(result.to_dict())
        files.close()
    if as_json:
        print(json.dumps(documents))
    else:
        print(f"{len(paths) - failed} of {len(paths)} images -> {out}/ (coco.json, kaggle.csv, overlays)")
    if failed:
        raise InputError(f"[predict] {failed} of {len(paths)} images could not be predicted")


@app.command()
def benchmark(
    bundle: BundlePath,
    images: Annotated[Path | None, typer.Option(help="Image or folder; default, the bundle's golden images.")] = None,
    engine: Engines = None,
    precision: Precisions = None,
    batch: Annotated[str, typer.Option(help="Batch sizes of the stream.")] = "1,8",
    clients: Annotated[int, typer.Option(help="Threads that call at once.")] = 4,
    duration: Annotated[float, typer.Option(help="Seconds for each use of each engine and precision.")] = 2.0,
    threads: Threads = None,
    minimum: Annotated[float | None, typer.Option("--min", help="Exit 1 if the best images/s is lower.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Output of an earlier --json; exit 1 if a ratio to the reference fell.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Share that a ratio may fall by.")] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Measure speed, memory and accuracy of every engine and precision here, taking turns."""
    from visdeploy import tables
    from visdeploy.bundle import GOLDEN, Bundle
    from visdeploy.golden import unpack
    from visdeploy.regression import Baseline
    from visdeploy.throughput import compete

    opened = Bundle.open(bundle)
    stored = Baseline.read(baseline, opened) if baseline is not None else None
    if not 0 <= tolerance < 1:
        raise InputError(f"--tolerance: expected a share from 0 to below 1, got {tolerance:g}")
    sources: Sequence[Any] = (
        _images([images])
        if images is not None
        else [entry.source for entry in unpack(opened.read(GOLDEN), str(bundle))]
    )
    figures = compete(
        opened,
        sources,
        engines=_unless_all(engine),
        precisions=_unless_all(precision),
        batches=_whole_numbers("batch", batch),
        clients=clients,
        duration=duration,
        num_threads=threads,
        progress=_note,
    )
    if as_json:
        print(json.dumps(figures.to_dict()))
    else:
        for table in tables.of_figures(figures):
            tables.console().print(table)
    best = max(rate for entry in figures.entries for rate in entry.images_per_second.values())
    if minimum is not None and best < minimum:
        raise CheckFailedError(f"{bundle}: {best:.1f} images/s, below {minimum}")
    if stored is not None:
        comparison = stored.compare(figures, tolerance=tolerance)
        for line in comparison.lines():
            _note(line)
        comparison.require()
        _note(f"no slower than {baseline}")


@app.command()
def verify(
    bundle: BundlePath,
    engine: Engines = None,
    precision: Precisions = None,
    images: Annotated[Path | None, typer.Option(help="Image or folder to compare every engine on, besides.")] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="Exported file (car.pt2, car.xml, ...) to replay; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay the bundle's golden images on every engine and precision here; exit 1 if a stage drifted."""
    from visdeploy import tables
    from visdeploy.verify import verify as replay

    report = replay(
        bundle,
        engines=_unless_all(engine),
        precisions=_unless_all(precision),
        images=_images([images]) if images is not None else (),
        files=file or (),
    )
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        tables.console().print(tables.of_report(report))
    report.require()


@app.command()
def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle says about itself, after checking every checksum."""
    from visdeploy import tables
    from visdeploy.bundle import Bundle

    manifest = Bundle.open(bundle).manifest
    if as_json:
        print(manifest.model_dump_json())
    else:
        tables.console().print(tables.of_manifest(str(bundle), manifest))


@app.command()
def check(
    gpu: Annotated[bool, typer.Option("--gpu", help="Run every op on the GPU and compare it with the CPU.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can run, why not the rest, and what to install."""
    if gpu:
        return _check_gpu(as_json)
    from visdeploy.check import check as ask

    found = ask()
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        print("\n".join(found.lines()))
    if not found.ok:
        raise MissingDependencyError("no engine can run here; the usual one is: pip install 'visdeploy[openvino]'")


@cache_app.command("ls")
def cache_ls(as_json: AsJson = False) -> None:
    """List the compiled engines that are kept for the next load, last used first."""
    from datetime import datetime

    from visdeploy import cache

    kept, folder = cache.entries(), cache.directory()
    total = sum(entry.size for entry in kept)
    if as_json:
        listed = [entry.to_dict() for entry in kept]
        print(json.dumps({"directory": str(folder), "bytes": total, "limit": cache.limit(), "entries": listed}))
        return
    for entry in kept:
        used = datetime.fromtimestamp(entry.used).isoformat(" ", "minutes")
        parts = " ".join(f"{part}={value:.24}" for part, value in entry.key.items())
        print(f"{entry.size / 1e6:8.1f} MB  used {used}  {parts}")
    print(f"{folder}: {f'{total / 1e6:.1f} MB' if kept else 'empty'}, of at most {cache.limit() / 1e6:.0f} MB")


@cache_app.command("clear")
def cache_clear(as_json: AsJson = False) -> None:
    """Remove them all; they are made again when next needed."""
    from visdeploy import cache

    freed = cache.clear()
    print(json.dumps({"freed": freed}) if as_json else f"{cache.directory()}: {freed / 1e6:.1f} MB freed")


def _check_gpu(as_json: bool) -> None:
    from dataclasses import asdict

    from visdeploy import gpu_check

    rows = gpu_check.run()
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        for row in rows:
            answer = f"differs at {', '.join(row.different)}" if row.different else "as on the CPU"
            print(f"  {row.op:<18} {row.cases:>4} cases {row.seconds:7.1f} s  {answer}")
    different = [row.op for row in rows if row.different]
    if different:
        raise CheckFailedError(f"answers on the GPU differ from the CPU's: {', '.join(different)}")


def _make_bundle(source: Path, out: Path, spec: Path | None, golden: Path | None) -> "Report":
    from visdeploy.export import export as make

    images = golden or (source if source.is_dir() else source.parent) / "golden"
    if source.suffix == ".onnx":
        if spec is None or golden is None:
            raise InputError("[export] an ONNX file needs --spec SPEC.json and --golden FOLDER")
        return make(source, out, spec=_read_spec(spec), golden=_images([images]), progress=_note)
    if _is_bundle(source):
        raise InputError(f"[export] {source} is a bundle already; --format says what else to make of it")
    from visdeploy.train import checkpoint

    net, known = checkpoint.load(source)
    described = known if spec is None else {**known.model_dump(), **_read_spec(spec)}
    return make(net, out, spec=described, golden=_images([images]), progress=_note)


@contextmanager
def _as_bundle(source: Path, spec: Path | None, golden: Path | None) -> "Iterator[Bundle]":
    """Open a bundle, or make one of the source for as long as it is needed."""
    from visdeploy.bundle import Bundle

    if _is_bundle(source):
        yield Bundle.open(source)
        return
    with TemporaryDirectory() as folder:
        made = Path(folder) / "model.vdz"
        _make_bundle(source, made, spec, golden)
        yield Bundle.open(made)


def _is_bundle(source: Path) -> bool:
    return source.suffix == ".vdz" or (source / "manifest.json").is_file()


def _open_data(path: Path, format: str, masks: str | None) -> "Dataset":
    from visdeploy import data

    return data.open(path, format=format, **({} if masks is None else {"masks": masks}))


def _images(paths: Iterable[Path]) -> list[Path]:
    from visdeploy.image import in_folder

    found: list[Path] = []
    for path in paths:
        found += in_folder(path) if path.is_dir() else [path]
    return found


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"[export] spec: cannot read {path} as JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"[export] spec: {path} is not a JSON object")
    return document


def _unless_all(names: list[str] | None) -> list[str] | None:
    return None if names is None or "all" in names else names


def _choice(option: str, value: str, allowed: Sequence[str]) -> str:
    import difflib

    if value not in allowed:
        close = difflib.get_close_matches(value, allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"--{option}: expected {' or '.join(allowed)}, got {value!r}{hint}")
    return value


def _size(text: str) -> tuple[int, int]:
    sides = [part for part in text.lower().split("x") if part.isdigit()]
    if len(sides) != len(text.split("x")) or len(sides) not in (1, 2):
        raise InputError(f"--size: expected a number or HEIGHTxWIDTH, got {text!r}")
    return int(sides[0]), int(sides[-1])


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--{option}: expected numbers separated by commas, got {text!r}") from error


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--{option}: expected whole numbers separated by commas, got {text!r}") from error


def _pair(option: str, text: str) -> tuple[float, float]:
    values = _numbers(option, text)
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise InputError(f"--{option}: expected a range such as 0.8,1.4, got {text!r}")
    return values[0], values[1]


def _key_value(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--model: expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, VisdeployError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _track(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    from rich.console import Console
    from rich.progress import track

    screen = Console(stderr=True)
    if screen.is_terminal:
        return track(items, what, total=total, console=screen)
    return items
