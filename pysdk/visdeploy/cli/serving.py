"""predict, benchmark, verify, inspect."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from visdeploy.cli.app import app
from visdeploy.cli.options import (
    AsJson,
    BundlePath,
    Engine,
    Engines,
    Precision,
    Precisions,
    Threads,
    image_files,
    note,
    note_engine,
    track,
    unless_all,
    whole_numbers,
)
from visdeploy.errors import CheckFailedError, InputError


@app.command()
def predict(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[
        Path, typer.Option(help="Folder for overlays, coco.json and a CSV; or for restored pictures.")
    ] = Path("predictions"),
    engine: Engine = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    batch: Annotated[int | None, typer.Option(help="Images per inference; default, what suits the engine.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability of foreground, for a binary model.")] = None,
    conf: Annotated[float | None, typer.Option(help="Score above which a box counts; a detector's.")] = None,
    iou: Annotated[float | None, typer.Option(help="Largest IoU of two boxes of one class; a detector's.")] = None,
    max_det: Annotated[int | None, typer.Option(help="The most boxes of one image; a detector's.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names or indices of the classes to look for, with commas; a detector's.")
    ] = None,
    min_area: Annotated[
        int | None, typer.Option(help="Parts of masks with fewer pixels become background; default, the bundle's.")
    ] = None,
    fill_holes: Annotated[
        bool | None,
        typer.Option("--fill-holes/--keep-holes", help="Fill holes in masks, or not; default, as the bundle says."),
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="One annotation per connected part of a mask, not per class.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write a binary model's probability as NAME-probability.png.")
    ] = False,
    overlays: Annotated[
        bool | None,
        typer.Option(
            "--overlays/--no-overlays",
            help="Draw what was found over the images, the default; restored pictures beside them if asked for.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict images and write overlays, COCO JSON and a CSV: of Kaggle's masks, of boxes, or of classes.

    A model that restores leaves each picture as NAME.png.
    """
    from visdeploy.prediction_files import PredictionFiles
    from visdeploy.predictor import load

    paths = image_files(images)
    failed, documents, counts = 0, [], Counter[str]()
    with load(bundle, engine=engine, precision=precision, num_threads=threads) as predictor:
        note_engine(predictor.engine)
        spec = predictor.spec
        results = predictor.stream(
            paths,
            batch_size=batch,
            threshold=threshold,
            conf=conf,
            iou=iou,
            max_det=max_det,
            classes=_names_or_indices(classes, spec.labels),
            min_area=min_area,
            fill_holes=fill_holes,
        )
        # Not before: of wrong arguments no folder is left.
        files = PredictionFiles(out, spec, overlays=overlays, instances=instances, probabilities=probabilities)
        for result in track(results, len(paths), "predicting"):
            if result.error is not None:
                failed += 1
                print(f"error: {result.error}", file=sys.stderr)
            else:
                files.add(result)
                counts.update(result.boxes.names if result.boxes is not None else ())
            if as_json:
                documents.append(result.to_dict())
        if failed < len(paths):  # else the tables of an earlier run would give way to empty ones
            files.close()
    if as_json:
        print(json.dumps(documents))
    elif failed < len(paths):
        found = ""
        if spec.task == "detection":
            above = f" above {spec.threshold if conf is None else conf:g}; --conf lowers it" if not counts else ""
            found = f", {counts.total()} boxes{above}"
        if instances:
            found = f", {files.found} parts"
        each = f" ({', '.join(f'{count} {name}' for name, count in counts.most_common(10))})" if counts else ""
        left = ", ".join([*files.tables, *files.pictures])
        print(f"{len(paths) - failed} of {len(paths)} images{found}{each} -> {out}/ ({left})")
    if failed:
        raise InputError(f"[predict] {failed} of {len(paths)} images could not be predicted")


def _names_or_indices(text: str | None, labels: Sequence[str]) -> list[str | int] | None:
    """Read "car,3"; a number is an index unless a class is called so."""
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",")]
    return [int(entry) if entry.isdecimal() and entry not in labels else entry for entry in entries if entry]


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
        image_files([images])
        if images is not None
        else [entry.source for entry in unpack(opened.read(GOLDEN), str(bundle))]
    )
    figures = compete(
        opened,
        sources,
        engines=unless_all(engine),
        precisions=unless_all(precision),
        batches=whole_numbers("batch", batch),
        clients=clients,
        duration=duration,
        num_threads=threads,
        progress=note,
    )
    if as_json:
        print(json.dumps(figures.to_dict()))
    else:
        for table in tables.of_figures(figures):
            tables.console().print(table)
    best = max(rate for entry in figures.entries for rate in entry.images_per_second.values())
    if minimum is not None and not best >= minimum:
        raise CheckFailedError(f"{bundle}: {best:.1f} images/s, below {minimum}")
    if stored is not None:
        comparison = stored.compare(figures, tolerance=tolerance)
        for line in comparison.lines():
            note(line)
        comparison.require()
        note(f"no slower than {baseline}")


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
        engines=engine,
        precisions=unless_all(precision),
        images=image_files([images]) if images is not None else (),
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
