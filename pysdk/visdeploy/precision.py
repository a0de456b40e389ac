"""Lower precision, and the gate before it: a variant is accepted for what it keeps of a metric on the user's data.

Note [measured on another engine]
TensorRT needs a GPU, which the machine that exports may not have. Precision lives in the graph, so ONNX Runtime runs
the very graph that TensorRT will be given; the manifest says that it was measured there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from visdeploy import golden as goldens
from visdeploy import tiling
from visdeploy.bundle import Bundle
from visdeploy.calibration import Calibration, golden_images, prepare_images
from visdeploy.comparison import relative_error
from visdeploy.data import Dataset, Item
from visdeploy.engines import open_engine
from visdeploy.errors import CheckFailedError, EngineError, InputError, MissingDependencyError
from visdeploy.evaluate import check_labels, evaluate
from visdeploy.image import ImageSource
from visdeploy.metrics import headline
from visdeploy.predictor import Predictor
from visdeploy.quantize import Files, Quantizer, Target, as_model
from visdeploy.spec import Manifest, Variant

Precision = Literal["fp16", "bf16", "int8"]

# Each engine's candidates.
KINDS: Final[tuple[tuple[str, Precision], ...]] = (
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnxruntime", "int8"),
    ("tensorrt", "fp16"),
    ("tensorrt", "int8"),
)
# Where int8 loses too much it is tried again: without the first and last layers, which cost most as a rule, then
# without these shares of all layers, the costliest by measurement.
RETRIED_SHARES = (0.1, 0.25)


@dataclass(frozen=True)
class PrecisionOptions:
    """Which variants to make, and what decides about them.

    Attributes:
        precision: "fp16", "bf16" or "int8", which must pass the gate; or "auto" for every one that does.
        data: A data set, whose training images calibrate int8 and whose held-out images are measured on; or images
            without labels, which only calibrate; or None. Without labels nothing can be accepted: the variants are made
            for those who ask for them by name.
        max_drop: How much the metric (`metrics.headline` of the task's) may fall below that of fp32; of PSNR, which is
            in dB and no share itself, the share of its figure: by default 0.15 dB of 30.
        calibration: Number of images that int8 takes its ranges from.
        engines: Those to make variants for; default, every one.
    """

    precision: str = "auto"
    data: Dataset | Sequence[ImageSource] | None = None
    max_drop: float = 0.005
    calibration: int = 64
    engines: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *get_args(Precision)):
            raise InputError(
                f"[export] precision: expected auto, {', '.join(get_args(Precision))}, got {self.precision!r}; "
                "every bundle has fp32"
            )
        if not 0 <= self.max_drop < 1:
            raise InputError(f"[export] max_drop: expected a share from 0 to 1, got {self.max_drop}")
        if self.precision == "auto" and not isinstance(self.data, Dataset):
            raise InputError(
                "[export] precision: auto measures on labelled images; give a folder of images and masks or boxes, or "
                "of photographs with --degrade or --clean, as --data"
            )
        if not self.kinds:
            offered = "; ".join(f"{engine}: {precision}" for engine, precision in KINDS)
            wanted = " or ".join(self.engines or ())
            raise InputError(f"[export] precision: there is no {self.precision} for {wanted}; there are {offered}")

    @property
    def kinds(self) -> list[tuple[str, Precision]]:
        """The engines and precisions to make."""
        return [
            (engine, precision)
            for engine, precision in KINDS
            if self.precision in ("auto", precision) and (self.engines is None or engine in self.engines)
        ]


def add_variants(bundle: Bundle, options: PrecisionOptions, *, progress: Callable[[str], None] | None = None) -> Bundle:
    """Make variants, measure them, and return the bundle with those that passed; nothing is written.

    Args:
        bundle: An opened bundle, whose variants of the same engines and precisions are replaced.
        options: What to make.
        progress: Called with one line per step.

    Raises:
        InputError: The data do not fit the bundle, or an image cannot be decoded.
        CheckFailedError: The precision was asked for by name, and loses more than the budget.
        MissingDependencyError: It was asked for by name, and a package is missing.
        EngineError: It was asked for by name, and an engine refuses it.
    """
    say = progress or (lambda line: None)
    calibration = _calibrate(bundle, options, say)
    gate = _Gate(bundle, options)
    files = dict(bundle.files)
    variants = {(variant.engine, variant.precision): variant for variant in bundle.manifest.variants}
    with Quantizer(bundle, calibration.pixels) as quantizer:
        for engine, precision in options.kinds:
            try:
                variant, made = _decide(_Candidate(quantizer, engine, precision, calibration), gate, options, say)
            except (EngineError, MissingDependencyError) as error:
                if options.precision != "auto":
                    raise
                say(f"{precision} for {engine} left out: {error}")
                variant, made = None, {}
            replaced = variants.pop((engine, precision), None)
            files = {name: data for name, data in files.items() if replaced is None or name not in replaced.files}
            files |= made
            if variant is not None:
                variants[engine, precision] = variant
    manifest = bundle.manifest.model_copy(update={"variants": tuple(variants.values())})
    return Bundle(bundle.path, manifest, files)


def _calibrate(bundle: Bundle, options: PrecisionOptions, say: Callable[[str], None]) -> Calibration:
    """Return the images for int8; none where no int8 is to be made."""
    spec, data = bundle.manifest, options.data
    if isinstance(data, Dataset):
        check_labels(data.labels, spec, "export")
    else:
        say("without labels nothing is measured, and the variants are only loaded by name")
    if all(precision != "int8" for _, precision in options.kinds):
        return Calibration((), "")
    calibration = golden_images(bundle) if data is None else prepare_images(data, spec, options.calibration)
    say(f"calibrating on {len(calibration.pixels)} {'golden images' if data is None else 'images'}")
    return calibration


@dataclass(frozen=True)
class _Candidate:
    """What may become a variant."""

    quantizer: Quantizer
    engine: str
    precision: Precision
    calibration: Calibration

    def make(self, excluded: Sequence[str]) -> Files:
        name = f"variants/{self.precision}-{self.engine}"
        if self.precision == "bf16":
            return {}
        if self.precision == "fp16":
            return {f"{name}.onnx": self.quantizer.fp16()}
        if self.engine == "openvino":
            xml, weights = self.quantizer.int8_openvino(excluded)
            return {f"{name}.xml": xml, f"{name}.bin": weights}
        return {f"{name}.onnx": self.quantizer.int8_onnx(self._placement, excluded)}

    @property
    def _placement(self) -> Target:
        # OpenVINO's quantiser converts what layers read, as TensorRT wants it.
        return "onnxruntime" if self.engine == "onnxruntime" else "tensorrt"

    def exclusions(self, say: Callable[[str], None]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield what to leave in fp32, one try after the other, each with its description."""
        yield "", ()
        layers = self.quantizer.layers
        if self.precision != "int8" or not layers:
            return
        ends = self.quantizer.ends
        yield f", its first and last {'layer' if len(ends) <= 2 else 'layers'} in fp32", ends
        say("measuring what each layer costs")
        costliest = self.quantizer.ranking(self._placement)
        for share in RETRIED_SHARES:
            excluded = tuple(dict.fromkeys((*ends, *costliest[: max(1, round(share * len(layers)))])))
            yield f", {len(excluded)} of its {len(layers)} layers in fp32", excluded

    def variant(self, files: Files, excluded: Sequence[str]) -> Variant:
        return Variant(
            engine=self.engine,
            precision=self.precision,
            files=tuple(files),
            accepted=False,
            calibration=self.calibration.sha256 if self.precision == "int8" else None,
            excluded=tuple(excluded),
        )


def _decide(
    candidate: _Candidate, gate: "_Gate", options: PrecisionOptions, say: Callable[[str], None]
) -> tuple[Variant, Files]:
    name = f"{candidate.precision} for {candidate.engine}"
    best: Variant | None = None
    for what, excluded in candidate.exclusions(say):
        say(f"making {name}{what}")
        files = candidate.make(excluded)
        variant = candidate.variant(files, excluded)
        if gate.data is None:
            return variant, files
        variant = gate.measure(variant, files)
        say(f"{name}: {gate.figures(variant)}: {'accepted' if variant.accepted else 'too much'}")
        if variant.accepted:
            return variant, files
        if best is None or (variant.drop or 0) <= (best.drop or 0):
            best = variant
    assert best is not None
    if options.precision != "auto":
        left = f", even with {len(best.excluded)} layers left in fp32" if best.excluded else ""
        raise CheckFailedError(f"{gate.bundle.path}: {name} has {gate.figures(best)}{left}")
    return best.model_copy(update={"files": ()}), {}


def _refuse_nothing_to_find(data: Dataset, spec: Manifest) -> None:
    foreground = 0 if spec.background == 1 else 1
    if spec.binary and not any(np.any(item.load().mask == foreground) for item in data.val):
        lacking = f"mask has a pixel of {spec.labels[foreground]!r}"
    elif spec.task == "detection" and not any(_marked(item) for item in data.val):
        lacking = "image has an object marked"
    else:
        return
    raise InputError(f"[export] data: no held-out {lacking}, so a model that finds nothing would pass")


def _marked(item: Item) -> bool:
    objects = item.load_objects and item.load_objects()
    return objects is not None and not objects.ignored.all()


class _Gate:
    """Compares a metric with that of fp32 on the same engine.

    Attributes:
        bundle: With fp32 alone.
        data: What is measured on, if there are labels.
    """

    def __init__(self, bundle: Bundle, options: PrecisionOptions) -> None:
        self.bundle, self._max_drop = bundle, options.max_drop
        self.data = options.data if isinstance(options.data, Dataset) else None
        if self.data is not None:
            _refuse_nothing_to_find(self.data, bundle.manifest)
        self._golden = goldens.read(bundle)
        self._fp32: dict[str, float] = {}

    def _budget(self, metric: str, fp32: float) -> float:
        return self._max_drop * (fp32 if metric == "psnr" else 1.0)

    def measure(self, variant: Variant, files: Files) -> Variant:
        engine, precision = variant.engine, str(variant.precision)
        if engine == "openvino":
            manifest = self.bundle.manifest.model_copy(update={"variants": (variant,)})
            candidate = Bundle(self.bundle.path, manifest, {**self.bundle.files, **files})
        else:  # see Note [measured on another engine]
            engine, precision = "onnxruntime", "fp32"
            (graph,) = files.values()
            candidate = as_model(self.bundle, graph)
        if engine not in self._fp32:
            _, self._fp32[engine], _ = self._metric(self.bundle, engine, "fp32")
        name, value, drift = self._metric(candidate, engine, precision)
        if not np.isfinite(drift):
            raise EngineError(
                f"[export] precision: {variant.precision} for {variant.engine} has answers beyond its range"
            )
        drop = self._fp32[engine] - value
        accepted = drop <= self._budget(name, self._fp32[engine])
        return variant.model_copy(
            update={
                "metric": name,
                "value": value,
                "drop": drop,
                "drift": drift,
                "accepted": accepted,
                "measured_on": None if engine == variant.engine else engine,
                "images": len(self._items),
            }
        )

    def figures(self, variant: Variant) -> str:
        assert variant.metric is not None
        assert variant.value is not None
        assert variant.drop is not None
        fp32 = variant.value + variant.drop
        where = f" (on {variant.measured_on})" if variant.measured_on else ""
        return (
            f"{variant.metric} {variant.value:.4f}{where} on {variant.images} images, fp32 {fp32:.4f}: "
            f"a {'gain' if variant.drop < 0 else 'drop'} of {abs(variant.drop):.4f}, allowed "
            f"{'a drop of ' if variant.drop < 0 else ''}{self._budget(variant.metric, fp32):.4g}"
        )

    @property
    def _items(self) -> Sequence[Item]:
        assert self.data is not None
        return self.data.val

    def _metric(self, bundle: Bundle, engine: str, precision: str) -> tuple[str, float, float]:
        """Return the metric's name and value, and how far the golden logits moved."""
        with Predictor(bundle, open_engine(engine, bundle, precision=precision)) as predictor:
            figures = evaluate(predictor, self._items)
            infer = predictor.engine.infer
            drifts = [
                relative_error(tiling.answer(infer, golden.pixels, bundle.manifest), golden.logits)
                for golden in self._golden
            ]
        name = headline(figures)
        return name, figures[name], max(drifts, default=0)
