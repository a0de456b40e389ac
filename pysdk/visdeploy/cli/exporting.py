"""export."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visdeploy.cli.app import app
from visdeploy.cli.options import (
    AsJson,
    Clean,
    Degradation,
    Format,
    Masks,
    choice,
    image_files,
    note,
    note_some,
    open_data,
    share_of_work,
)
from visdeploy.errors import InputError

if TYPE_CHECKING:
    from visdeploy.bundle import Bundle
    from visdeploy.data import Dataset
    from visdeploy.precision import PrecisionOptions
    from visdeploy.report import Report

# The engine that a format is for, whose variants are all that it needs.
_ENGINES = {"engine": ("tensorrt",), "openvino": ("openvino",), "pt2": None, "torchscript": None, "onnx": None}
_FP32 = ("pt2", "torchscript", "onnx")
_SUFFIXES = {".xml": "openvino", ".engine": "engine", ".pt2": "pt2", ".ts": "torchscript", ".onnx": "onnx"}


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A run's folder, its model.pt, a bundle, or ONNX with --spec.")],
    out: Annotated[
        Path, typer.Option(help="The file to write, such as car.vdz, car.engine, car.xml, car.pt2, car.ts or car.onnx.")
    ],
    format: Annotated[str, typer.Option(help=", ".join(("bundle", *_ENGINES)))] = "bundle",
    spec: Annotated[Path | None, typer.Option(help="JSON file: task, labels, size, mean, std, ...")] = None,
    golden: Annotated[Path | None, typer.Option(help="Image, or folder of images, to record answers for.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32; with it fp16, bf16, int8; or auto: all that keep the metric of --data.")
    ] = "fp32",
    data: Annotated[Path | None, typer.Option(help="Labelled images to calibrate and measure on.")] = None,
    data_format: Format = "auto",
    masks: Masks = None,
    degrade: Degradation = None,
    clean: Clean = None,
    max_drop: Annotated[
        float, typer.Option(help="Largest drop of the metric of --data; of PSNR, as a share of it.")
    ] = 0.005,
    calibration: Annotated[int, typer.Option(help="Images that int8 takes its ranges from.")] = 64,
    engine: Annotated[
        list[str] | None, typer.Option(help="To make variants for; may be repeated; default, all.")
    ] = None,
    compute_capability: Annotated[
        list[str] | None, typer.Option(metavar="X.Y", help="GPU to build an engine for; may be repeated.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Let later versions of tensorrt load the engine.")
    ] = False,
    hardware_compatible: Annotated[
        str, typer.Option(help="Let other GPUs run it: ampere+, same (of this compute capability), or none.")
    ] = "none",
    as_json: AsJson = False,
) -> None:
    """Make a bundle and prove it, add variants of lower precision to one, or write its network in another format."""
    from visdeploy.engines import PRECISIONS

    choice("format", format, ("bundle", *_ENGINES))
    choice("precision", precision, ("auto", *PRECISIONS))
    if not source.exists():
        raise InputError(f"[export] SOURCE: there is no file or folder {source}")
    by_suffix = _SUFFIXES.get(out.suffix)
    if format == "bundle" and by_suffix is not None:
        raise InputError(
            f"[export] out: expected a bundle's name, such as car.vdz, got {out}; or give --format {by_suffix}"
        )
    building = {
        "compute_capabilities": [_compute_capability(entry) for entry in compute_capability or ()],
        "version_compatible": version_compatible,
        "hardware_compatible": choice("hardware-compatible", hardware_compatible, ("none", "ampere+", "same")),
    }
    if format != "engine" and (compute_capability or version_compatible or hardware_compatible != "none"):
        raise InputError(
            "[export] --compute-capability, --version-compatible and --hardware-compatible go with --format engine"
        )
    if format != "bundle" and engine:
        raise InputError(f"[export] --engine goes with --format bundle; {format} says itself what it is for")
    if format in _FP32 and precision != "fp32":
        raise InputError(f"[export] --format {format} is fp32; {precision} goes with bundle, engine and openvino")
    wanted = None
    if precision != "fp32":
        from visdeploy.precision import PrecisionOptions

        how = {"degrade": degrade, "clean": clean}
        labelled = None if data is None else _labelled_or_plain(data, data_format, masks, _task(source, spec), **how)
        engines = tuple(engine) if engine else _ENGINES.get(format)
        wanted = PrecisionOptions(precision, labelled, max_drop, calibration, engines)
    elif data is not None or engine:
        raise InputError("[export] --data and --engine go with --precision auto, fp16, bf16 or int8")
    if format == "bundle":
        _say(_make_bundle(source, out, spec, golden, wanted), out, as_json)
        return
    with _as_bundle(source, spec, golden, wanted) as bundle:
        if format == "engine":
            _make_engine(bundle, out, {"precision": precision, **building}, as_json)
        elif format == "openvino":
            from visdeploy.openvino_ir import export_openvino

            _say(export_openvino(bundle, out, precision=precision, progress=note), out, as_json)
        elif format == "torchscript":
            from visdeploy.torchscript_file import export_torchscript

            _say(export_torchscript(bundle, out, progress=note), out, as_json)
        elif format == "onnx":
            from visdeploy.onnx_detector import export_onnx

            _say(export_onnx(bundle, out, progress=note), out, as_json)
        else:
            from visdeploy.pt2 import export_pt2

            _say(export_pt2(bundle, out, progress=note), out, as_json)


def _make_bundle(
    source: Path, out: Path, spec: Path | None, golden: Path | None, wanted: "PrecisionOptions | None"
) -> "Report":
    from visdeploy.export import add_variants
    from visdeploy.export import export as make

    images = golden or (source if source.is_dir() else source.parent) / "golden"
    if _is_bundle(source):
        if wanted is None or spec is not None or golden is not None:
            raise InputError(
                f"[export] {source} is a bundle: it takes --precision or another --format, and no --spec or --golden"
            )
        return add_variants(source, out, precision=wanted, progress=note)
    if source.suffix == ".onnx":
        if spec is None or golden is None:
            raise InputError("[export] an ONNX file needs --spec SPEC.json and --golden FOLDER")
        return make(source, out, spec=_read_spec(spec), golden=image_files([images]), precision=wanted, progress=note)
    from visdeploy.train import checkpoint

    net, known = checkpoint.load(source)
    described = known if spec is None else {**known.model_dump(), **_read_spec(spec)}
    return make(net, out, spec=described, golden=image_files([images]), precision=wanted, progress=note)


@contextmanager
def _as_bundle(
    source: Path, spec: Path | None, golden: Path | None, wanted: "PrecisionOptions | None"
) -> "Iterator[Bundle]":
    """Open a bundle that has what is wanted, or make one for as long as it is needed."""
    from visdeploy.bundle import Bundle

    if _is_bundle(source):
        held = Bundle.open(source)
        if wanted is None or (wanted.data is None and all(_holds(held, *kind) for kind in wanted.kinds)):
            yield held
            return
    with TemporaryDirectory() as folder:
        made = Path(folder) / "model.vdz"
        _make_bundle(source, made, spec, golden, wanted)
        yield Bundle.open(made)


def _holds(bundle: "Bundle", engine: str, precision: str) -> bool:
    variant = bundle.manifest.variant(engine, precision)
    if variant is None or not variant.files:
        return False
    if not variant.accepted:
        note(f"{precision} for {engine} was not accepted by any measurement")
    return True


def _make_engine(bundle: "Bundle", out: Path, options: dict[str, Any], as_json: bool) -> None:
    from visdeploy.engines.tensorrt_build import export_engine

    with share_of_work("building the engine") as progress:
        made = export_engine(bundle, out, **options, progress=progress)
    if as_json:
        print(made.model_dump_json())
        return
    capabilities = f"compute capability {', '.join(made.compute_capabilities)}" if made.compute_capabilities else ""
    target = capabilities or made.gpu or "every GPU of the library"
    print(f"{out}: {made.engine_size / 1e6:.1f} MB, {made.precision}, for {target}")
    print(f"built and not run; only {made.library} {made.library_version} reads it; {out}.json describes it")


def _say(report: "Report", out: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    from visdeploy import tables

    tables.console().print(tables.of_report(report))
    weights = out.with_suffix(".bin")
    for path in (out, weights) if out.suffix == ".xml" else (out,):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _compute_capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and len(text) <= 5):
        raise InputError(f"--compute-capability: expected a number such as 8.9, got {text!r}")
    return int(major), int(minor)


def _is_bundle(source: Path) -> bool:
    return source.suffix == ".vdz" or (source / "manifest.json").is_file()


def _task(source: Path, spec: Path | None) -> str | None:
    if spec is not None and (task := _read_spec(spec).get("task")) is not None:
        return str(task)
    if _is_bundle(source):
        from visdeploy.bundle import Bundle

        return Bundle.open(source).manifest.task
    if source.suffix == ".onnx":
        return None
    from visdeploy.train import checkpoint

    return checkpoint.load(source)[1].task


def _labelled_or_plain(
    path: Path, format: str, masks: str | None, task: str | None, **restoration: Any
) -> "Dataset | list[Path]":
    """Read a data set; a folder that holds nothing but images, of which nothing is said, is one without labels."""
    plain = path.is_dir() and not any(entry.is_dir() for entry in path.iterdir()) and any(path.iterdir())
    if plain and format == "auto" and masks is None and not any(restoration.values()):
        return image_files([path])
    dataset = open_data(path, format, masks, task, **restoration)
    note_some(dataset.problems)
    return dataset


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"[export] spec: cannot read {path} as JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"[export] spec: {path} is not a JSON object")
    return document
