"""Replays a bundle's golden images on this machine and says which stage drifted, if one did.

Each stage starts from the recorded output of the one before, so a failure names its own cause; the last row of an
engine runs the whole way from the image file to the masks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import golden as goldens
from visdeploy import mask, tolerance
from visdeploy.bundle import GOLDEN, TORCHSCRIPT, Bundle
from visdeploy.engines import installed, open_engine
from visdeploy.errors import BundleError, CheckFailedError, InputError
from visdeploy.golden import Golden
from visdeploy.image import decode
from visdeploy.postprocess import find_masks
from visdeploy.predictor import Predictor
from visdeploy.preprocess import prepare
from visdeploy.spec import Spec
from visdeploy.types import Masks


@dataclass(frozen=True)
class Row:
    """One stage, over all golden images.

    Attributes:
        stage: "decode", "resize", "postprocess", "network" or "end to end".
        engine: What ran it; empty for the stages that every engine shares.
        precision: What the engine computed in.
        error: The largest error, in the stage's own unit.
        limit: The largest error allowed.
        unit: What `error` counts.
        dice: The lowest Dice of the masks against the golden ones; None where the stage makes none.
        ok: Whether the error is within the limit.
    """

    stage: str
    engine: str
    precision: str
    error: float
    limit: float
    unit: str
    dice: float | None
    ok: bool


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        bundle: Its path.
        images: Number of golden images.
        rows: One per stage and engine.
    """

    bundle: str
    images: int
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every stage is within its limit."""
        return all(row.ok for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain Python values."""
        return asdict(self) | {"ok": self.ok, "rows": [asdict(row) for row in self.rows]}

    def require(self) -> None:
        """Raise CheckFailedError, naming every stage that drifted."""
        if not self.ok:
            drifted = "; ".join(
                f"{row.stage}{f' on {row.engine} {row.precision}' if row.engine else ''}: {row.error:.3g} {row.unit}, "
                f"allowed {row.limit:.3g}"
                for row in self.rows
                if not row.ok
            )
            raise CheckFailedError(f"{self.bundle}: the answers drifted: {drifted}")


def verify(path: str | Path, *, engines: Sequence[str | Predictor] | None = None, precision: str = "auto") -> Report:
    """Replay the golden images of a bundle.

    Args:
        path: The bundle.
        engines: Names of engines, or predictors that are open already; default, every engine installed here that can
            run the bundle.
        precision: As in `load`.

    Raises:
        BundleError: The bundle is damaged, or holds no golden images.
    """
    bundle = Bundle.open(path)
    recorded = goldens.unpack(bundle.read(GOLDEN), str(path))
    if not recorded:
        raise BundleError(f"{path}: holds no golden images, so there is nothing to verify against")
    spec = bundle.manifest
    rows = [_decoding(recorded), _resizing(recorded, spec), _postprocessing(recorded, spec)]
    for engine in runnable(bundle) if engines is None else engines:
        if isinstance(engine, Predictor):
            rows += _engine_rows(engine, recorded)
            continue
        with Predictor(bundle, open_engine(engine, bundle, precision=precision)) as predictor:
            rows += _engine_rows(predictor, recorded)
    return Report(str(path), len(recorded), tuple(rows))


def runnable(bundle: Bundle) -> list[str]:
    """Return the engines installed here that this bundle has a model for."""
    return [name for name in installed() if name != "torchscript" or TORCHSCRIPT in bundle.files]


def _decoding(recorded: Sequence[Golden]) -> Row:
    error = 0.0
    for golden in recorded:
        try:
            error = max(error, _mean_difference(decode(golden.source), golden.decoded))
        except InputError:
            error = float("inf")
    return _row("decode", error, tolerance.DECODE_MEAN, "mean gray levels")


def _resizing(recorded: Sequence[Golden], spec: Spec) -> Row:
    error = max(_mean_difference(prepare(golden.decoded, spec).pixels, golden.pixels) for golden in recorded)
    return _row("resize", error, tolerance.RESIZE_MEAN, "mean gray levels")


def _postprocessing(recorded: Sequence[Golden], spec: Spec) -> Row:
    pairs = [(find_masks(golden.logits, golden.prepared, spec), _golden_masks(golden, spec)) for golden in recorded]
    return _mask_row("postprocess", pairs, "", "fp32")


def _engine_rows(predictor: Predictor, recorded: Sequence[Golden]) -> list[Row]:
    engine, spec = predictor.engine, predictor.spec
    error = 0.0
    pairs = []
    for golden in recorded:
        logits = engine.infer(golden.pixels[None])[0]
        error = max(error, relative_error(logits, golden.logits))
        answered = predictor(golden.source).masks
        assert answered is not None
        pairs.append((answered, _golden_masks(golden, spec)))
    limit = spec.tolerances.get(engine.precision, tolerance.LOGITS[engine.precision])
    return [
        _row("network", error, limit, "of the largest logit", engine.name, engine.precision),
        _mask_row("end to end", pairs, engine.name, engine.precision),
    ]


def relative_error(answered: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return max |a - b| / max(1, max |b|); infinite where shapes differ or a value is not finite."""
    if answered.shape != reference.shape or not np.isfinite(answered).all():
        return float("inf")
    return float(np.abs(answered - reference).max() / max(1.0, float(np.abs(reference).max())))


def _mean_difference(answered: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    if answered.shape != reference.shape:
        return float("inf")
    return float(np.abs(answered.astype(np.int16) - reference).mean())


def _golden_masks(golden: Golden, spec: Spec) -> Masks:
    rles = [{"size": entry["size"], "counts": entry["counts"].encode()} for entry in golden.masks]
    labels = np.array([entry["label"] for entry in golden.masks], np.int64)
    background = 0 if spec.background is None else spec.background
    return Masks(rles, labels, golden.decoded.shape[:2], background, golden.logits, spec.activation or "none")


def _mask_row(stage: str, pairs: Sequence[tuple[Masks, Masks]], engine: str, precision: str) -> Row:
    compared = [_compare(answered, reference) for answered, reference in pairs]
    error = max(changed for changed, _ in compared)
    dice = min(dice for _, dice in compared)
    return _row(stage, error, tolerance.MASK_PIXELS[precision], "of the pixels", engine, precision, dice)


def _compare(answered: Masks, reference: Masks) -> tuple[float, float]:
    """Return the share of pixels whose class changed, and the Dice of everything that is not background."""
    if answered.size != reference.size:
        return float("inf"), 0.0
    ours, theirs = answered.to_numpy(), reference.to_numpy()
    found = sum(int(mask.area(rle)) for rle in answered.rle) + sum(int(mask.area(rle)) for rle in reference.rle)
    covered = np.isin(ours, answered.labels) & np.isin(theirs, reference.labels)
    agreed = int(((ours == theirs) & covered).sum())
    return float((ours != theirs).mean()), 2 * agreed / found if found else 1.0


def _row(
    stage: str, error: float, limit: float, unit: str, engine: str = "", precision: str = "", dice: float | None = None
) -> Row:
    return Row(stage, engine, precision, error, limit, unit, dice, error <= limit)
