"""`visdeploy demo`: the whole road on generated scenes, in a few minutes, with everything left to look at."""

import csv
import html
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visdeploy import data, image, mask, tables
from visdeploy.baseline import EagerBaseline
from visdeploy.benchmark import STAGES, Measurement, measure
from visdeploy.bundle import Bundle
from visdeploy.data.scenes import LABELS, write_scenes
from visdeploy.engines import open_engine
from visdeploy.errors import CheckFailedError, InputError
from visdeploy.evaluate import evaluate
from visdeploy.export import export
from visdeploy.kinds import Seed, in_kind
from visdeploy.prediction_files import PredictionFiles
from visdeploy.predictor import Predictor, load
from visdeploy.report import Report
from visdeploy.train import TrainOptions, checkpoint, fit
from visdeploy.verify import runnable

SCENES = 400
SCENE_SIZE = (288, 384)
NETWORK_SIZE = (192, 256)
EPOCHS = 15
DETECTOR_EPOCHS = 14
PICTURES = 12


def run(out: Path, *, seed: int = 0) -> None:
    """Train, export, verify, predict, benchmark; see the README for what is left in `out`.

    Raises:
        InputError: `seed` is out of range; `out` holds files that the demo did not make, or cannot be written.
        CheckFailedError: An engine's answer drifted, or differs from the hand-written baseline's.
    """
    in_kind("demo", "seed", Seed, seed)
    start = time.perf_counter()
    _clear(out)
    _step("1/7", f"drawing {SCENES} scenes with exact masks")
    write_scenes(out / "scenes", SCENES, size=SCENE_SIZE, seed=seed)
    dataset = data.open(out / "scenes")
    _step("2/7", f"training a U-Net on {len(dataset.train)} of them")
    options = TrainOptions(
        out=out / "run",
        encoder="resnet10t",
        model={"decoder_channels": 64},
        sizes=(NETWORK_SIZE,),
        epochs=(EPOCHS,),
        lr=5e-3,
        encoder_lr=1.0,
        rotate=0.0,
        scale=(0.9, 1.2),
        seed=seed,
    )
    trained = fit(dataset, options)
    _step("3/7", "exporting, and verifying on every engine installed")
    net, spec = checkpoint.load(trained.checkpoint)
    report = export(net, out / "car.vdz", spec=spec, golden=_paths(dataset.val)[:2], progress=_say)
    tables.console().print(tables.of_report(report))
    _step("4/7", f"predicting the {len(dataset.val)} held-out scenes")
    with load(out / "car.vdz") as model:
        figures = evaluate(model, dataset.val)
        files = PredictionFiles(out / "predictions", model.spec)
        for result in model.stream(_paths(dataset.val)):
            files.add(result)
        files.close()
    _say(f"Dice {figures['dice']:.4f}, IoU {figures['iou']:.4f} at the size of the images")
    _step("5/7", "timing the engines against PyTorch as written by hand")
    sources = [path.read_bytes() for path in _paths(dataset.val)[:8]]
    bundle = Bundle.open(out / "car.vdz")
    predictors = [Predictor(bundle, open_engine(name, bundle)) for name in runnable(bundle)]
    baseline = EagerBaseline(net, spec)
    _require_same(predictors[0], baseline, sources)
    measured = measure([*predictors, baseline], sources, rounds=10)
    tables.console().print(tables.of_measurements(measured))
    _step("6/7", "training a detector on the U-Net's encoder, and taking it the same road")
    found, boxes = _detect(out, trained.checkpoint, seed)
    _step("7/7", "writing the summary")
    pictures = files.overlays[:PICTURES]
    for name, sheet in (("contact", pictures), ("contact_boxes", boxes)):
        image.write(out / f"{name}.png", contact_sheet([image.decode(path) for path in sheet], columns=4))
    _write_page(out, figures, report, measured, pictures, found, boxes)
    _say(f"done in {(time.perf_counter() - start) / 60:.1f} min; open {out / 'index.html'}")


def _detect(out: Path, weights: Path, seed: int) -> tuple[dict[str, float], list[Path]]:
    """Make `detector.vdz`, and return its figures on the held-out scenes and pictures of some."""
    dataset = _of_one_class(data.open(out / "scenes", task="detection"))
    options = TrainOptions(
        out=out / "run_detector",
        task="detection",
        encoder="resnet10t",
        weights=str(weights),
        model={"neck": "fpn", "channels": 64},
        sizes=(NETWORK_SIZE,),
        epochs=(DETECTOR_EPOCHS,),
        lr=3e-3,
        freeze_epochs=0,
        seed=seed,
    )
    net, spec = checkpoint.load(fit(dataset, options).checkpoint)
    export(net, out / "detector.vdz", spec=spec, golden=_paths(dataset.val)[:2], progress=_say)
    with load(out / "detector.vdz") as model:
        figures = evaluate(model, dataset.val)
        files = PredictionFiles(out / "predictions_boxes", model.spec)
        for result in model.stream(_paths(dataset.val)[:PICTURES]):
            files.add(result)
        files.close()
    _say(f"mAP@0.5 {figures['map50']:.4f}")
    return figures, files.overlays


def _of_one_class(dataset: data.Dataset) -> data.Dataset:
    """Call every vehicle one: to tell a van from a bus takes longer to learn than a demo should."""

    def of_one_class(item: data.Item) -> data.Item:
        load_kinds = item.load_objects
        assert load_kinds is not None

        def load_objects() -> data.Objects:
            objects = load_kinds()
            return replace(objects, labels=np.ones_like(objects.labels))

        return replace(item, load_objects=load_objects)

    train, val = ([of_one_class(item) for item in items] for items in (dataset.train, dataset.val))
    return replace(dataset, labels=LABELS, palette=dataset.palette[:2], train=train, val=val)


def contact_sheet(pictures: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Lay (H, W, 3) pictures of one size out in rows, with a thin white border."""
    framed = [np.pad(picture, ((3, 3), (3, 3), (0, 0)), constant_values=255) for picture in pictures]
    rows = [np.concatenate(framed[i : i + columns], axis=1) for i in range(0, len(framed), columns)]
    return np.concatenate([row for row in rows if row.shape == rows[0].shape], axis=0)


def _clear(out: Path) -> None:
    import shutil

    if out.is_dir() and any(out.iterdir()) and not (out / "scenes").is_dir():
        raise InputError(f"[demo] out: {out} holds files that the demo did not make; give it a folder of its own")
    for made in ("scenes", "run", "predictions", "run_detector", "predictions_boxes"):
        shutil.rmtree(out / made, ignore_errors=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"[demo] out: cannot write to {out} ({error.strerror})") from error


def _paths(items: object) -> list[Path]:
    return [item.image_path for item in items]  # type: ignore[attr-defined]


def _require_same(predictor: Predictor, baseline: EagerBaseline, sources: list[bytes]) -> None:
    """A table of speeds means nothing unless both give one answer; rounding may move pixels at the threshold."""
    for source in sources:
        ours = predictor(source).masks
        assert ours is not None
        theirs = mask.decode(baseline(source).rle)
        changed = float((ours.to_numpy() != theirs).mean())
        if changed > 1e-3:
            raise CheckFailedError(f"[demo] the baseline's mask differs from ours in {changed:.2%} of the pixels")


def _step(number: str, what: str) -> None:
    print(f"[{number}] {what}", flush=True)


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _write_page(
    out: Path,
    figures: dict[str, float],
    report: Report,
    measured: list[Measurement],
    pictures: list[Path],
    found: dict[str, float],
    boxes: list[Path],
) -> None:
    slowest = measured[-1].stages["total"].p50
    speed = "".join(
        f"<tr><td>{html.escape(entry.engine)} {entry.precision}</td>"
        + "".join(f"<td>{entry.stages[stage].p50:.2f}</td>" for stage in STAGES)
        + f"<td>{entry.images_per_second:.0f}</td><td>{slowest / entry.stages['total'].p50:.2f}×</td></tr>"
        for entry in measured
    )
    proof = "".join(
        f"<tr><td>{row.stage}</td><td>{row.engine or 'any'} {row.precision if row.engine else ''}</td>"
        f"<td>{row.error:.2g} {row.unit}</td><td>{row.limit:.2g}</td>"
        f"<td>{'' if row.dice is None else f'{row.dice:.5f}'}</td></tr>"
        for row in report.rows
    )
    with (out / "run" / "history.csv").open(newline="") as file:
        seconds = sum(float(row["seconds"]) for row in csv.DictReader(file))
    shown, framed = (
        "".join(f'<img src="{path.parent.name}/{path.name}" alt="{path.stem}">' for path in paths)
        for paths in (pictures, boxes)
    )
    heads = "".join(f"<th>{stage} ms</th>" for stage in STAGES)
    size = (out / "car.vdz").stat().st_size / 1e6
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>visdeploy demo</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2.5rem auto; padding: 0 1rem; color: #1b2430 }}
h1 {{ font-size: 1.7rem; margin-bottom: 0 }} h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem }}
p.lead {{ color: #5a6675; margin-top: .2rem }}
dl {{ display: flex; gap: 2.5rem; margin: 1.5rem 0 }} dt {{ color: #5a6675; font-size: .85rem }}
dd {{ margin: 0; font-size: 1.7rem; font-weight: 600 }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e3e8ee }}
td:first-child, th:first-child {{ text-align: left }} th {{ color: #5a6675; font-weight: 500 }}
.grid {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px }} img {{ width: 100%; display: block }}
</style>
<h1>A U-Net and a detector, trained, exported, verified, served</h1>
<p class="lead">Made by <code>visdeploy demo</code> on generated scenes that the network has not seen.</p>
<dl>
<div><dt>Dice, held out, image size</dt><dd>{figures["dice"]:.4f}</dd></div>
<div><dt>IoU</dt><dd>{figures["iou"]:.4f}</dd></div>
<div><dt>training</dt><dd>{seconds:.0f} s</dd></div>
<div><dt>car.vdz</dt><dd>{size:.0f} MB</dd></div>
<div><dt>image file to RLE</dt><dd>{measured[0].stages["total"].p50:.1f} ms</dd></div>
</dl>
<div class="grid">{shown}</div>
<h2>A detector on the same encoder: mAP@0.5 {found["map50"]:.3f} on scenes it has not seen</h2>
<div class="grid">{framed}</div>
<h2>From image file to COCO RLE: median milliseconds per image, engines taking turns</h2>
<table><tr><th>engine</th>{heads}<th>images/s</th><th>speed-up</th></tr>{speed}</table>
<h2>The same answers everywhere: golden images replayed on this machine</h2>
<table><tr><th>stage</th><th>engine</th><th>largest error</th><th>allowed</th><th>Dice</th></tr>{proof}</table>
<h2>Training</h2>
<img src="run/curves.png" alt="loss, validation Dice and learning rate by epoch" style="max-width: 860px">
</html>
"""
    (out / "index.html").write_text(page)
