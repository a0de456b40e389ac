"""Replays a bundle's golden images on this machine and says which stage drifted, if one did.

Each stage starts from the recorded output of the one before, so a failure names its own cause; the last row of an
engine runs the whole way from the image file to masks, boxes or classes. Images of the user's own are compared with
what the reference answers: TorchScript in fp32 where it runs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import answers, tiling, tolerance
from visdeploy import golden as goldens
from visdeploy.answers import Answer
from visdeploy.bundle import LABELS, TORCHSCRIPT, Bundle
from visdeploy.comparison import Compared, Expected, compare, relative_error
from visdeploy.engines import NAMES, Engine, installed, open_engine
from visdeploy.engines.answering_file import AnsweringFile
from visdeploy.engines.exported import open_file
from visdeploy.errors import (
    BundleError,
    InputError,
    MissingDependencyError,
    UnsupportedError,
    VisdeployError,
)
from visdeploy.golden import Golden
from visdeploy.image import ImageSource, decode
from visdeploy.predictor import Predictor
from visdeploy.preprocess import prepare
from visdeploy.report import NotRun, Report, Row
from visdeploy.spec import Manifest
from visdeploy.types import Result

# What a user's images are compared with: the first of these that runs here.
_REFERENCES = ("torchscript", "onnxruntime", "openvino")

_UNITS = {
    "segmentation": "of the pixels",
    "detection": "of the boxes",
    "localization": "of the boxes",
    "classification": "of a probability",
    "restoration": "of the samples",
}


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
        BundleError: The bundle is damaged, holds no golden images, or names its labels in two ways.
        MissingDependencyError: No engine is installed, or one that was named is not, or nothing here runs any file.
        EngineError: An engine refuses the model, or a file is not what its name says.
        InputError: An unknown engine or precision.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    recorded = goldens.read(opened)
    if not recorded:
        raise BundleError(f"{opened.path}: holds no golden images, so there is nothing to verify against")
    spec = opened.manifest
    _check_labels(opened)
    rows = [_decoding(recorded), _resizing(recorded, spec), _postprocessing(recorded, spec)]
    not_run: list[NotRun] = []
    with ExitStack() as stack:
        own = _OwnImages(opened, images, not_run, stack)
        for predictor, file in _predictors(opened, engines, precisions, files, len(images) > 0, not_run):
            ran = {"engine": predictor.engine.name, "precision": predictor.engine.precision, "file": file}
            rows += [*_golden_rows(predictor, recorded, ran), *own.rows(predictor, ran)]
    notes = _notes(rows, spec)
    return Report(str(opened.path), len(recorded), tuple(rows), tuple(not_run), len(own.expected), own.reference, notes)


def _predictors(
    bundle: Bundle,
    engines: Sequence[str | Predictor] | None,
    precisions: Sequence[str] | None,
    files: Sequence[str | Path],
    own_images: bool,
    not_run: list[NotRun],
) -> Iterator[tuple[Predictor | AnsweringFile, str]]:
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
            network = open_file(file, bundle)
        except MissingDependencyError as error:
            missing.append(error)
            not_run.append(NotRun(str(file), str(error), file=True))
            continue
        with network if isinstance(network, AnsweringFile) else Predictor(bundle, network) as predictor:
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


def _notes(rows: Sequence[Row], spec: Manifest) -> tuple[str, ...]:
    empty = {"own" if row.stage == "own images" else "golden" for row in rows if row.verdict == "empty"}
    return tuple(
        f"nothing compared: no {kind} image has a box above the threshold {spec.threshold:g}" for kind in sorted(empty)
    )


def _check_labels(bundle: Bundle) -> None:
    """Compare the two places that name the labels: golden answers hold indices, and say nothing of names."""
    if LABELS not in bundle.files:
        return
    listed = tuple(bundle.read(LABELS).decode(errors="replace").splitlines())
    for one, other in zip_longest(listed, bundle.manifest.labels):
        if one != other:
            raise BundleError(f"{bundle.path}: a label is {one!r} in {LABELS}, and {other!r} in its manifest")


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
    compared = []
    for expected, golden in zip(_expected(recorded, spec), recorded, strict=True):
        answer = answers.read(golden.logits, golden.prepared, spec)
        compared.append(compare(answer, expected, spec, "fp32", levels=tolerance.POSTPROCESS_LEVELS))
    return _answer_row("postprocess", compared, tolerance.POSTPROCESS[spec.task], spec)


def _golden_rows(predictor: Predictor | AnsweringFile, recorded: Sequence[Golden], ran: Mapping[str, str]) -> list[Row]:
    spec = predictor.spec
    results = predictor.stream([golden.source for golden in recorded])
    whole = _compared_row("end to end", results, _expected(recorded, spec), spec, ran)
    return [whole] if isinstance(predictor, AnsweringFile) else [_network_row(predictor, recorded, ran), whole]


def _network_row(predictor: Predictor, recorded: Sequence[Golden], ran: Mapping[str, str]) -> Row:
    spec, precision, infer = predictor.spec, ran["precision"], predictor.engine.infer
    errors = [relative_error(tiling.answer(infer, golden.pixels, spec), golden.logits) for golden in recorded]
    variant = spec.variant(predictor.engine.name, precision)
    own = variant.drift if variant is not None and variant.accepted and variant.drift is not None else 0.0
    limit = max(spec.tolerances.get(precision, tolerance.LOGITS[precision]), own * tolerance.VARIANT_SLACK)
    return _row("network", errors, limit, "of the largest output", **ran)


def _expected(recorded: Sequence[Golden], spec: Manifest) -> list[Expected]:
    return [
        Expected(
            f"golden {index}",
            golden.prepared.source_size,
            golden.answer,
            partial(answers.candidates, golden.logits, golden.prepared, spec),
        )
        for index, golden in enumerate(recorded)
    ]


class _OwnImages:
    """A user's images, with what the reference finds in each; it stays open, to be asked again."""

    def __init__(self, bundle: Bundle, images: Sequence[ImageSource], not_run: list[NotRun], stack: ExitStack) -> None:
        self.expected: dict[int, Result] = {}
        self.reference = ""
        self._images = images
        if not images:
            return
        engine = _open_reference(bundle)
        self.reference = f"{engine.name} {engine.precision}"
        self._predictor = stack.enter_context(Predictor(bundle, engine))
        for result in self._predictor.stream(images):
            if result.error is not None:
                not_run.append(NotRun(result.source, str(result.error)))
                continue
            masks = result.masks and replace(result.masks, logits=np.zeros((0, 0, 0), np.float32))
            # There may be thousands: what is kept of a mask is its run lengths, and pictures are restored again.
            self.expected[result.index] = replace(result, masks=masks, restored=None, image=None)
        if not self.expected:
            raise InputError(f"[verify] images: none of the {len(images)} could be predicted: {not_run[-1].why}")

    def rows(self, predictor: Predictor | AnsweringFile, ran: Mapping[str, str]) -> list[Row]:
        """Compare a predictor with the reference, unless it is the reference."""
        itself = not ran["file"] and f"{ran['engine']} {ran['precision']}" == self.reference
        if not self.expected or itself:
            return []
        results = predictor.stream([self._images[index] for index in self.expected])
        expected = (
            Expected(result.source, result.size, self._answer(index), partial(self._candidates, index))
            for index, result in self.expected.items()
        )
        return [_compared_row("own images", results, expected, predictor.spec, ran)]

    def _answer(self, index: int) -> Answer:
        restores = self._predictor.spec.task == "restoration"
        return answers.of_result(self._predictor(self._images[index]) if restores else self.expected[index])

    def _candidates(self, index: int) -> Answer:
        spec, infer = self._predictor.spec, self._predictor.engine.infer
        prepared = prepare(decode(self._images[index]), spec)
        return answers.candidates(tiling.answer(infer, prepared.pixels, spec), prepared, spec)


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


def _differences(answered: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[Any]:
    if answered.shape != reference.shape:
        return np.array([np.inf])
    differences: NDArray[np.int16] = np.abs(answered.astype(np.int16) - reference)
    return differences


def _compared_row(
    stage: str, results: Iterable[Result], expected: Iterable[Expected], spec: Manifest, ran: Mapping[str, str]
) -> Row:
    precision = ran["precision"]
    compared = [
        compare(None if result.error else answers.of_result(result), entry, spec, precision)
        for result, entry in zip(results, expected, strict=True)
    ]
    return _answer_row(stage, compared, tolerance.ANSWERS[spec.task][precision], spec, **ran)


def _answer_row(stage: str, compared: Sequence[Compared], limit: float, spec: Manifest, **ran: str) -> Row:
    worst = max(compared, key=lambda entry: entry.error)
    changed, total = (sum(getattr(entry, name) for entry in compared) for name in ("changed", "total"))
    # An image may hold few boxes, of which one is a large share.
    of_all = "boxes" in answers.FIELDS[spec.task] and np.isfinite(worst.error)
    error = changed / max(1, total) if of_all else worst.error
    dice = [entry.dice for entry in compared if entry.dice is not None]
    return replace(
        _row(stage, [error], limit, _UNITS[spec.task], **ran),
        dice=min(dice, default=None),
        changed=changed,
        total=total,
        worst=worst.image if worst.error else "",
    )


def _row(
    stage: str, errors: Sequence[float], limit: float, unit: str, engine: str = "", precision: str = "", file: str = ""
) -> Row:
    error = max(errors)
    worst = f"golden {errors.index(error)}" if error else ""
    return Row(stage, engine, precision, error, limit, unit, None, error <= limit, worst=worst, file=file)
