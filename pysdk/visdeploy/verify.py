"""Replays a bundle's golden images on this machine and says which stage drifted, if one did.

Each stage starts from the recorded output of the one before, so a failure names its own cause; the last row of an
engine runs the whole way from the image file to the masks. Images of the user's own are compared with what the
reference answers: TorchScript in fp32 where it runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import golden as goldens
from visdeploy import tiling, tolerance
from visdeploy.bundle import GOLDEN, TORCHSCRIPT, Bundle
from visdeploy.engines import NAMES, Engine, installed, open_engine
from visdeploy.engines.exported import open_file
from visdeploy.errors import (
    BundleError,
    CheckFailedError,
    InputError,
    MissingDependencyError,
    UnsupportedError,
    VisdeployError,
)
from visdeploy.golden import Golden
from visdeploy.image import ImageSource, decode
from visdeploy.postprocess import find_masks
from visdeploy.predictor import Predictor
from visdeploy.preprocess import prepare
from visdeploy.spec import Manifest
from visdeploy.types import Masks, Result

# What a user's images are compared with: the first of these that runs here.
_REFERENCES = ("torchscript", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Row:
    """One stage, over all images.

    Attributes:
        stage: "decode", "resize", "postprocess", "network", "end to end" (golden images) or "own images".
        engine: What ran it; empty for the stages that every engine shares.
        precision: What the engine computed in.
        error: The largest error over all images, in the stage's own unit.
        limit: The largest error allowed.
        unit: What `error` counts.
        dice: The lowest Dice of the masks against the recorded ones; None where the stage makes none.
        ok: Whether the error is within the limit.
        changed: Pixels of all images together whose class changed; None where the stage makes no masks.
        pixels: Pixels of all images together; likewise.
        worst: The image with the largest error; empty where there is none.
        file: The exported file that the engine ran, if it was not the bundle.
    """

    stage: str
    engine: str
    precision: str
    error: float
    limit: float
    unit: str
    dice: float | None
    ok: bool
    changed: int | None = None
    pixels: int | None = None
    worst: str = ""
    file: str = ""

    @property
    def drift(self) -> str:
        """The error and its limit in words."""
        if not np.isfinite(self.error):
            return "it cannot be compared: another shape, or values that are not finite"
        return f"{self.error:.3g} {self.unit}, allowed {self.limit:.3g}"

    @property
    def ran_on(self) -> str:
        """The engine and precision in words; empty for the stages that every engine shares."""
        name = " ".join(part for part in (self.engine, self.precision) if part)
        return f"{name}, {self.file}" if self.file else name


@dataclass(frozen=True)
class NotRun:
    """What could not be verified here, and why.

    Attributes:
        what: An engine with its precision, an image, or a file.
        why: What is missing, or wrong.
        file: Whether it is an exported file, which `require` insists upon, as it was named.
    """

    what: str
    why: str
    file: bool = False


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        bundle: Its path.
        images: Number of golden images.
        rows: One per stage, engine and precision.
        not_run: What this machine cannot run; not a failure.
        own_images: Number of the user's images that were compared.
        reference: What they were compared with.
    """

    bundle: str
    images: int
    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...] = ()
    own_images: int = 0
    reference: str = ""

    @property
    def ok(self) -> bool:
        """Whether every stage is within its limit."""
        return all(row.ok for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain Python values; an infinite error, which JSON does not know, is None."""
        rows = [asdict(row) | {"error": row.error if np.isfinite(row.error) else None} for row in self.rows]
        return asdict(self) | {"ok": self.ok, "rows": rows}

    def require(self) -> None:
        """Raise CheckFailedError, naming every stage that drifted, or MissingDependencyError for a file not run."""
        if not self.ok:
            drifted = "; ".join(
                f"{row.stage}{f' on {row.ran_on}' if row.engine else ''}: {row.drift}"
                for row in self.rows
                if not row.ok
            )
            raise CheckFailedError(f"{self.bundle}: the answers drifted: {drifted}")
        if missed := [f"{entry.what}: {entry.why}" for entry in self.not_run if entry.file]:
            raise MissingDependencyError(f"[verify] file: cannot run here: {'; '.join(missed)}")


def verify(
    bundle: str | Path | Bundle,
    *,
    engines: Sequence[str | Predictor] | None = None,
    precisions: Sequence[str] | None = None,
    images: Sequence[ImageSource] = (),
    files: Sequence[str | Path] = (),
) -> Report:
    """Replay the golden images of a bundle.

    Args:
        bundle: Its path, or the bundle.
        engines: Names of engines, predictors that are open already, or "all" for every engine that can run here;
            default, all, or none where `files` are given without `images` or `precisions`.
        precisions: Names as in `load`; default, for each engine fp32 and what the bundle accepted for it.
        images: More images, to compare every engine and precision with the reference on.
        files: Exported files (.pt2, .xml, .engine, .onnx, .ts) to replay against the same golden images. As with any
            model in PyTorch's formats, opening a .pt2 or .ts may run code that is in it. Those that this machine has
            nothing to run with are listed in `not_run` where something else was verified.

    Raises:
        BundleError: The bundle is damaged, or holds no golden images.
        MissingDependencyError: No engine is installed, or one that was named is not, or nothing here runs any file.
        EngineError: An engine refuses the model, or a file is not what its name says.
        InputError: An unknown engine or precision.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    recorded = goldens.unpack(opened.read(GOLDEN), str(opened.path))
    if not recorded:
        raise BundleError(f"{opened.path}: holds no golden images, so there is nothing to verify against")
    spec = opened.manifest
    rows = [_decoding(recorded), _resizing(recorded, spec), _postprocessing(recorded, spec)]
    not_run: list[NotRun] = []
    own = _OwnImages(opened, images, not_run)
    for predictor, file in _predictors(opened, engines, precisions, files, len(images) > 0, not_run):
        ran = {"engine": predictor.engine.name, "precision": predictor.engine.precision, "file": file}
        rows += [*_golden_rows(predictor, recorded, ran), *own.rows(predictor, ran)]
    return Report(str(opened.path), len(recorded), tuple(rows), tuple(not_run), len(own.expected), own.reference)


def _predictors(
    bundle: Bundle,
    engines: Sequence[str | Predictor] | None,
    precisions: Sequence[str] | None,
    files: Sequence[str | Path],
    own_images: bool,
    not_run: list[NotRun],
) -> Iterator[tuple[Predictor, str]]:
    """Open one after the other, each with the file that it runs in place of the bundle."""
    for engine in engines or ():
        if isinstance(engine, Predictor):
            yield engine, ""
    named = [engine for engine in engines or () if isinstance(engine, str)]
    every = "all" in named or (engines is None and bool(own_images or precisions or not files))
    if every or named:
        for opened in open_engines(bundle, None if every else named, precisions, not_run):
            with Predictor(bundle, opened) as predictor:
                yield predictor, ""
    missing = []
    for file in files:
        try:
            opened = open_file(file, bundle)
        except MissingDependencyError as error:
            missing.append(error)
            not_run.append(NotRun(str(file), str(error), file=True))
            continue
        with Predictor(bundle, opened) as predictor:
            yield predictor, Path(file).name
    if missing and len(missing) == len(files) and not (every or engines):
        raise missing[0]


def open_engines(
    bundle: Bundle,
    engines: Sequence[str] | None,
    precisions: Sequence[str] | None,
    not_run: list[NotRun],
    num_threads: int | None = None,
) -> Iterator[Engine]:
    """Open every engine in every precision, one by one.

    Args:
        bundle: An opened bundle.
        engines: Names; None for all, of which those that cannot run here go to `not_run`.
        precisions: Names as in `load`; None for fp32 and what the bundle accepted for each engine.
        not_run: Gets what cannot run here.
        num_threads: As in `load`.

    Raises:
        MissingDependencyError, UnsupportedError: A named engine cannot run, or none of all can.
    """
    refused: list[VisdeployError] = []
    ran = False
    for name in NAMES if engines is None else engines:
        for precision in precisions or accepted(bundle.manifest, name):
            try:
                if engines is None and name == "torchscript" and TORCHSCRIPT not in bundle.files:
                    raise UnsupportedError(f"the bundle holds no {TORCHSCRIPT}, as it was made from an ONNX file")
                opened = open_engine(name, bundle, precision=precision, num_threads=num_threads)
            except (MissingDependencyError, UnsupportedError) as error:
                if engines is not None:
                    raise
                refused.append(error)
                missing = isinstance(error, MissingDependencyError)
                not_run.append(NotRun(name if missing else f"{name} {precision}", str(error)))
                if missing:
                    break
                continue
            ran = True
            yield opened
    if engines is None and not ran:
        missing = all(isinstance(error, MissingDependencyError) for error in refused)
        kind = MissingDependencyError if missing else UnsupportedError
        offered = {"auto", "fp32", *(form.precision for form in bundle.manifest.variants)}
        if precisions and not missing and offered.isdisjoint(precisions):
            raise UnsupportedError(
                f"[verify] precision: no engine here runs {bundle.path} in {' or '.join(precisions)}; "
                "to add variants: visdeploy export, with --precision"
            )
        raise kind(f"[verify] engine: none can run this here. {'; '.join(str(error) for error in refused)}")


def accepted(spec: Manifest, engine: str) -> list[str]:
    """Return the precisions that a bundle offers an engine: fp32, and what was accepted when it was made."""
    return ["fp32", *(form.precision for form in spec.variants if form.engine == engine and form.accepted)]


def runnable(bundle: Bundle) -> list[str]:
    """Return the engines installed here that this bundle has a model for."""
    return [name for name in installed() if name != "torchscript" or TORCHSCRIPT in bundle.files]


def _decoding(recorded: Sequence[Golden]) -> Row:
    errors = []
    for golden in recorded:
        try:
            errors.append(float(_differences(decode(golden.source), golden.decoded).mean()))
        except InputError:
            errors.append(float("inf"))
    return _row("decode", errors, tolerance.DECODE_MEAN, "mean gray levels")


def _resizing(recorded: Sequence[Golden], spec: Manifest) -> Row:
    errors = []
    for golden in recorded:
        prepared = prepare(golden.decoded, spec)
        largest = float(_differences(prepared.pixels, golden.pixels).max())
        errors.append(largest if prepared.valid == golden.valid else float("inf"))
    return _row("resize", errors, tolerance.RESIZE_LEVELS, "gray levels")


def _postprocessing(recorded: Sequence[Golden], spec: Manifest) -> Row:
    answered = [find_masks(golden.logits, golden.prepared, spec).to_numpy() for golden in recorded]
    return _mask_row("postprocess", _against_golden(answered, recorded, spec), tolerance.POSTPROCESS_PIXELS)


def _golden_rows(predictor: Predictor, recorded: Sequence[Golden], ran: Mapping[str, str]) -> list[Row]:
    spec, precision, infer = predictor.spec, ran["precision"], predictor.engine.infer
    errors = [relative_error(tiling.answer(infer, golden.pixels, spec), golden.logits) for golden in recorded]
    variant = spec.variant(predictor.engine.name, precision)
    own = variant.drift if variant is not None and variant.accepted and variant.drift is not None else 0.0
    limit = max(spec.tolerances.get(precision, tolerance.LOGITS[precision]), own * tolerance.VARIANT_SLACK)
    answered = [_classes(result) for result in predictor.stream([golden.source for golden in recorded])]
    compared = _against_golden(answered, recorded, spec)
    return [
        _row("network", errors, limit, "of the largest logit", **ran),
        _mask_row("end to end", compared, tolerance.MASK_PIXELS[precision], **ran),
    ]


class _OwnImages:
    """A user's images, with the masks that the reference finds in each."""

    def __init__(self, bundle: Bundle, images: Sequence[ImageSource], not_run: list[NotRun]) -> None:
        self.expected: dict[int, Masks] = {}
        self.reference = ""
        self._images = images
        if not images:
            return
        engine = _open_reference(bundle)
        self.reference = f"{engine.name} {engine.precision}"
        with Predictor(bundle, engine) as predictor:
            for result in predictor.stream(images):
                if result.masks is None:
                    not_run.append(NotRun(result.source, str(result.error)))
                else:  # there may be thousands: what is kept of each is its run lengths
                    self.expected[result.index] = replace(result.masks, logits=np.zeros((0, 0, 0), np.float32))
        if not self.expected:
            raise InputError(f"[verify] images: none of the {len(images)} could be predicted: {not_run[-1].why}")

    def rows(self, predictor: Predictor, ran: Mapping[str, str]) -> list[Row]:
        """Compare a predictor with the reference, unless it is the reference."""
        itself = not ran["file"] and f"{ran['engine']} {ran['precision']}" == self.reference
        if not self.expected or itself:
            return []
        results = predictor.stream([self._images[index] for index in self.expected])
        compared = [
            _compare(result.source, _classes(result), masks.to_numpy(), predictor.spec.background)
            for result, masks in zip(results, self.expected.values(), strict=True)
        ]
        return [_mask_row("own images", compared, tolerance.MASK_PIXELS[ran["precision"]], **ran)]


def _open_reference(bundle: Bundle) -> Engine:
    reasons = []
    for name in _REFERENCES:
        if name == "torchscript" and TORCHSCRIPT not in bundle.files:
            continue
        try:
            return open_engine(name, bundle, precision="fp32")
        except MissingDependencyError as error:
            reasons.append(str(error))
    raise MissingDependencyError(f"[verify] images: nothing here runs the reference. {'; '.join(reasons)}")


def relative_error(answered: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return max |a - b| / max(1, max |b|); infinite where shapes differ or a value is not finite."""
    if answered.shape != reference.shape or not np.isfinite(answered).all() or not np.isfinite(reference).all():
        return float("inf")
    differences = np.abs(answered.astype(np.float64) - reference)
    return float(differences.max() / max(1.0, float(np.abs(reference).max())))


def _differences(answered: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[Any]:
    if answered.shape != reference.shape:
        return np.array([np.inf])
    differences: NDArray[np.int16] = np.abs(answered.astype(np.int16) - reference)
    return differences


@dataclass(frozen=True)
class _Compared:
    """The class map of one image beside the expected one."""

    image: str
    changed: int
    pixels: int
    dice: float


def _compare(
    image: str, answered: NDArray[np.uint8], reference: NDArray[np.uint8], background: int | None
) -> _Compared:
    """Count the pixels whose class changed; the Dice is of everything that is not background."""
    if answered.shape != reference.shape:
        return _Compared(image, reference.size, reference.size, 0.0)
    same = answered == reference
    found = [
        classes != background if background is not None else np.ones_like(same) for classes in (answered, reference)
    ]
    covered = int(found[0].sum()) + int(found[1].sum())
    agreed = int((same & found[0]).sum())
    changed = same.size - int(same.sum())
    return _Compared(image, changed, same.size, 2 * agreed / covered if covered else 1.0)


def _against_golden(
    answered: Sequence[NDArray[np.uint8]], recorded: Sequence[Golden], spec: Manifest
) -> list[_Compared]:
    pairs = enumerate(zip(answered, recorded, strict=True))
    return [_compare(f"golden {i}", classes, golden.classes, spec.background) for i, (classes, golden) in pairs]


def _classes(result: Result) -> NDArray[np.uint8]:
    return np.zeros((0, 0), np.uint8) if result.masks is None else result.masks.to_numpy()


def _mask_row(stage: str, compared: Sequence[_Compared], limit: float, **ran: str) -> Row:
    worst = max(compared, key=lambda entry: entry.changed / entry.pixels)
    return replace(
        _row(stage, [worst.changed / worst.pixels], limit, "of the pixels", **ran),
        dice=min(entry.dice for entry in compared),
        changed=sum(entry.changed for entry in compared),
        pixels=sum(entry.pixels for entry in compared),
        worst=worst.image if worst.changed else "",
    )


def _row(
    stage: str, errors: Sequence[float], limit: float, unit: str, engine: str = "", precision: str = "", file: str = ""
) -> Row:
    error = max(errors)
    worst = f"golden {errors.index(error)}" if error else ""
    return Row(stage, engine, precision, error, limit, unit, None, error <= limit, worst=worst, file=file)
