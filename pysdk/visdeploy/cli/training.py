"""demo, train, val."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visdeploy.cli.app import app
from visdeploy.cli.options import (
    AsJson,
    BundlePath,
    Clean,
    Data,
    Degradation,
    Engine,
    Format,
    Masks,
    Precision,
    choice,
    key_value,
    learning_rate,
    note,
    note_engine,
    note_some,
    number_range,
    open_data,
    sizes,
    whole_numbers,
)
from visdeploy.errors import CheckFailedError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from visdeploy.evaluate import Detections

TASKS = ("segmentation", "detection", "localization", "classification", "restoration")


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
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    task: Annotated[str, typer.Option(help=", ".join(TASKS))] = TASKS[0],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A model's name, or a preset of the options below, which win over it: fcn-sgd, fcn-sgd-sum, "
            "resnet_unet-sgd, resnet_unet-adam-1e-3, resnet_unet-adam-1e-4."
        ),
    ] = None,
    format: Format = "auto",
    masks: Masks = None,
    degrade: Degradation = None,
    clean: Clean = None,
    arch: Annotated[
        str, typer.Option(help="A model of visdeploy.models.list(); default, by the task: unet, ssd, localizer, ...")
    ] = "",
    encoder: Annotated[
        str | None, typer.Option(help="resnet18/34/50, mobilenet_v2, or a timm model with a pyramid.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Encoder weights: a file, or a published tag.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="decoder_channels=128, neck=fpn, ...")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="'256', '192x256', or a stage after the other: '128,256'; default, 256, of one object 224, of "
            "pictures 128."
        ),
    ] = None,
    epochs: Annotated[str, typer.Option(help="Per stage: '20', or '20,10'.")] = "20",
    batch: Annotated[int, typer.Option(help="Images per step.")] = 8,
    lr: Annotated[str, typer.Option(help="Peak learning rate, or 'find'.")] = "0.001",
    encoder_lr: Annotated[float, typer.Option(help="The encoder's share of it.")] = 0.3,
    optimizer: Annotated[str, typer.Option(help="adamw, adam or sgd.")] = "adamw",
    momentum: Annotated[float, typer.Option(help="SGD's.")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="The optimiser's.")] = 1e-2,
    schedule: Annotated[str, typer.Option(help="one_cycle, constant, or step: at last a tenth.")] = "one_cycle",
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")] = 0.2,
    step_at: Annotated[float, typer.Option(help="Share of the steps after which a step schedule drops.")] = 0.5,
    freeze_epochs: Annotated[
        int | None, typer.Option(help="Default: 1 with --weights, else 0; all of --epochs are possible.")
    ] = None,
    freeze_to: Annotated[
        int | None,
        typer.Option(help="Stride up to which the encoder never learns; default: 4 for a detector with --weights."),
    ] = None,
    freeze_bn: Annotated[
        bool | None,
        typer.Option(help="Keep the encoder's BatchNorm statistics throughout; default: a detector with --weights."),
    ] = None,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights; 0 for none.")] = 0.98,
    dice: Annotated[float, typer.Option(help="Weight of the Dice loss.")] = 0.5,
    class_weights: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    pos_weight: Annotated[float, typer.Option(help="Factor on foreground pixels of a binary task.")] = 1.0,
    box_loss: Annotated[str, typer.Option(help="A detector's: smooth_l1 or l1.")] = "smooth_l1",
    class_loss: Annotated[str, typer.Option(help="A detector's: mining or focal.")] = "mining",
    label_weight: Annotated[float, typer.Option(help="Localization: weight of the class beside the box.")] = 20.0,
    feature_loss: Annotated[
        float, typer.Option(help="Restoration: weight of the difference in features of the encoder's --weights.")
    ] = 0.0,
    gram_loss: Annotated[float, typer.Option(help="Restoration: weight of that of their Gram matrices.")] = 0.0,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.")] = True,
    upside_down: Annotated[
        bool, typer.Option("--upside-down", help="Mirror top to bottom too, where there is no up; not in segmentation.")
    ] = False,
    rotate: Annotated[
        float | None,
        typer.Option(help="Largest rotation in degrees; default, 5 in segmentation, else 0; not in restoration."),
    ] = None,
    scale: Annotated[str, typer.Option(help="Range of the zoom; not in restoration.")] = "0.8,1.4",
    lighting: Annotated[float, typer.Option(help="Range of brightness and contrast; not in restoration.")] = 0.2,
    resize: Annotated[
        str,
        typer.Option(
            help="stretch or letterbox; tile or native for random crops at the image's own scale, the default in "
            "restoration."
        ),
    ] = "stretch",
    precision: Annotated[str, typer.Option(help="auto (timed at the start), fp32, bf16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Makes two runs on one machine the same.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on a folder of images with masks, boxes or labels."""
    values: dict[str, Any] = {
        "task": choice("task", task, TASKS),
        "arch": arch,
        "encoder": encoder,
        "weights": weights,
        "model": dict(key_value(entry) for entry in model or ()),
        "size": sizes(size) if size else (),
        "epochs": tuple(whole_numbers("epochs", epochs)),
        "batch": batch,
        "lr": learning_rate(lr),
        "encoder_lr": encoder_lr,
        "optimizer": choice("optimizer", optimizer, ("adamw", "adam", "sgd")),
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": choice("schedule", schedule, ("one_cycle", "constant", "step")),
        "warmup": warmup,
        "step_at": step_at,
        "freeze_epochs": freeze_epochs,
        "freeze_to": freeze_to,
        "freeze_bn": freeze_bn,
        "ema": ema,
        "dice": dice,
        "class_weights": choice("class-weights", class_weights, ("none", "balanced")),
        "pos_weight": pos_weight,
        "box_loss": choice("box-loss", box_loss, ("smooth_l1", "l1")),
        "class_loss": choice("class-loss", class_loss, ("mining", "focal")),
        "label_weight": label_weight,
        "feature_loss": feature_loss,
        "gram_loss": gram_loss,
        "flip": flip,
        "upside_down": upside_down,
        "rotate": rotate,
        "scale": number_range("scale", scale),
        "lighting": lighting,
        "resize": choice("resize", resize, ("stretch", "letterbox", "tile", "native")),
        "precision": choice("precision", precision, ("auto", "fp32", "bf16")),
        "seed": seed,
    }
    # What was not said is left to the recipe, and then to the defaults of the options.
    said = {name: value for name, value in values.items() if _is_said(context, name)}
    if "size" in said:
        said["sizes"] = said.pop("size")
    from visdeploy.train import TrainOptions, fit, recipes

    chosen = TrainOptions(out=out, **said) if recipe is None else recipes.options(recipe, out=out, **said)
    if preset := recipes.RECIPES.get(recipe or ""):
        overruled = ", ".join(name for name in preset.fields if name in said)
        note(f"{recipe}: {preset.line}" + (f"; but with your own {overruled}" if overruled else ""))
    dataset = open_data(data, format, masks, task, degrade=degrade, clean=clean)
    classes = len(dataset.labels) - (task == "detection")  # whose background is none
    named = f", {classes} classes" if classes else ""
    note(f"{len(dataset.train)} images to train on, {len(dataset.val)} held out{named}")
    result = fit(dataset, chosen, resume=resume)
    if as_json:
        document = {"checkpoint": str(result.checkpoint), "metrics": result.metrics, "seconds": result.seconds}
        print(json.dumps(document))
        return
    of_one_class = ("iou_", "ap50_")  # --json and the bundle have those
    shown = {name: value for name, value in result.metrics.items() if not name.startswith(of_one_class)}
    figures = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    print(f"best: {figures}\n{result.checkpoint} after {result.seconds / 60:.1f} min; next:")
    print(f"  visdeploy export {out} --out {out.name}.vdz")


def _is_said(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


@app.command()
def val(
    bundle: BundlePath,
    data: Data,
    task: Annotated[str | None, typer.Option(help="Refuse a bundle of another task.")] = None,
    format: Format = "auto",
    masks: Masks = None,
    degrade: Degradation = None,
    clean: Clean = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    conf: Annotated[
        float | None, typer.Option(help="Score above which boxes count in precision, recall and confusion.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for val.json, and plots of boxes and classes.")] = None,
    minimum: Annotated[
        float | None,
        typer.Option("--min", help="Exit 1 if the figure that stands for the others is lower; of restoration, dB."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on the held-out images of a folder, at their own size."""
    from visdeploy import evaluation_report
    from visdeploy.evaluate import Detections, check_labels, measure
    from visdeploy.metrics import MAX_PSNR, headline
    from visdeploy.predictor import load
    from visdeploy.tables import console

    with load(bundle, engine=engine, precision=precision) as predictor:
        spec = predictor.spec
        if task is not None and task != spec.task:
            raise InputError(f"--task: {bundle} is for {spec.task}, not {task}")
        most, kind = (MAX_PSNR, "dB") if spec.task == "restoration" else (1, "a share")
        if minimum is not None and not 0 <= minimum <= most:
            raise InputError(f"--min: expected {kind} from 0 to {most:g}, got {minimum:g}")
        dataset = open_data(data, format, masks, spec.task, degrade=degrade, clean=clean)
        note_some(dataset.problems)  # of which the figures then know nothing
        check_labels(dataset.labels, spec, "val")
        note_engine(predictor.engine)
        tally = measure(predictor, dataset.val, confidence=conf)
        ran = {"engine": predictor.engine.name, "precision": predictor.engine.precision}
    figures = tally.figures()
    if isinstance(tally, Detections):
        figures |= _coco(tally)
    document = evaluation_report.document({**figures, **ran, "images": len(dataset.val)}, tally)
    if as_json:
        print(json.dumps(document))
    else:
        title = f"{bundle} on {len(dataset.val)} images, {ran['engine']} {ran['precision']}"
        console().print(evaluation_report.of_tally(title, figures, tally))
    if out is not None:
        for path in evaluation_report.write(out, document, tally):
            note(f"wrote {path}")
    score = headline(figures)
    if minimum is not None and not figures[score] >= minimum:
        raise CheckFailedError(f"{bundle}: {score} is {figures[score]:.4f}, below {minimum}")


def _coco(tally: "Detections") -> dict[str, float]:
    from visdeploy.coco_figures import coco_figures

    try:
        return coco_figures(tally.images, tally.spec.labels)
    except MissingDependencyError as error:
        note(f"left out: {error}")
        return {}
