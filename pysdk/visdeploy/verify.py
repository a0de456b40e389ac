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
from visdeploy import tiling, tolerance
from visdeploy.bundle import GOLDEN, TORCHSCRIPT, Bundle
from visdeploy.engines import installed, open_engine
from visdeploy.errors import BundleError, CheckFailedError, InputError
from visdeploy.golden import Golden
from visdeploy.image import decode
from visdeploy.postprocess import find_masks
from visdeploy.predictor import Predictor
from visdeploy.preprocess import prepare
from visdeploy.spec import Manifest


@dataclass(frozen=True)
class Row:
    """One stage, over all golden images.

    Attributes:
        stage: "decode", "resize", "postprocess", "network" or "end to end".
        engine: What ran it; empty for the stages that every engine shares.
        precision: What the engine computed in.
        error: The largest error over all images, in the stage's own unit.
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
        """Return the report as plain Python values; an infinite error, which JSON does not know, is None."""
        rows = [asdict(row) | {"error": row.error if np.isfinite(row.error) else None} for row in self.rows]
        return asdict(self) | {"ok": self.ok, "rows": rows}

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
        MissingDependencyError: No engine is installed.
    """
    bundle = Bundle.open(path)
    recorded = goldens.unpack(bundle.read(GOLDEN), str(path))
    if not recorded:
        raise BundleError(f"{path}: holds no golden images, so there is nothing to verify against")
    spec = bundle.manifest
    rows = [_decoding(recorded), _resizing(recorded, spec), _postprocessing(recorded, spec)]
    for engine in (runnable(bundle) or ["auto"]) if engines is None else engines:
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
            error = max(error, float(_differences(decode(golden.source), golden.decoded).mean()))
        except InputError:
            error = float("inf")
    return _row("decode", error, tolerance.DECODE_MEAN, "mean gray levels")


def _resizing(recorded: Sequence[Golden], spec: Manifest) -> Row:
    error = 0.0
    for golden in recorded:
        prepared = prepare(golden.decoded, spec)
        largest = float(_differences(prepared.pixels, golden.pixels).max())
        error = max(error, largest if prepared.valid == golden.valid else float("inf"))
    return _row("resize", error, tolerance.RESIZE_LEVELS, "gray levels")


def _postprocessing(recorded: Sequence[Golden], spec: Manifest) -> Row:
    answered = [find_masks(golden.logits, golden.prepared, spec).to_numpy() for golden in recorded]
    return _mask_row("postprocess", answered, recorded, spec, tolerance.POSTPROCESS_PIXELS)


def _engine_rows(predictor: Predictor, recorded: Sequence[Golden]) -> list[Row]:
    engine, spec = predictor.engine, predictor.spec
    name, precision = engine.name, engine.precision
    error = max(relative_error(tiling.answer(engine.infer, golden.pixels, spec), golden.logits) for golden in recorded)
    limit = spec.tolerances.get(precision, tolerance.LOGITS[precision])
    nothing = np.zeros((0, 0), np.uint8)
    results = predictor.stream([golden.source for golden in recorded])
    answered = [nothing if result.masks is None else result.masks.to_numpy() for result in results]
    return [
        _row("network", error, limit, "of the largest logit", name, precision),
        _mask_row("end to end", answered, recorded, spec, tolerance.MASK_PIXELS[precision], name, precision),
    ]


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


def _mask_row(
    stage: str,
    answered: Sequence[NDArray[np.uint8]],
    recorded: Sequence[Golden],
    spec: Manifest,
    limit: float,
    engine: str = "",
    precision: str = "",
) -> Row:
    pairs = zip(answered, recorded, strict=True)
    compared = [_compare(classes, golden.classes, spec.background) for classes, golden in pairs]
    changed, dice = max(error for error, _ in compared), min(dice for _, dice in compared)
    return _row(stage, changed, limit, "of the pixels", engine, precision, dice)


def _compare(answered: NDArray[np.uint8], reference: NDArray[np.uint8], background: int | None) -> tuple[float, float]:
    """Return the share of pixels whose class changed, and the Dice of everything that is not background."""
    if answered.shape != reference.shape:
        return float("inf"), 0.0
    same = answered == reference
    found = [
        classes != background if background is not None else np.ones_like(same) for classes in (answered, reference)
    ]
    covered = int(found[0].sum()) + int(found[1].sum())
    agreed = int((same & found[0]).sum())
    return float(1 - same.mean()), 2 * agreed / covered if covered else 1.0


def _row(
    stage: str, error: float, limit: float, unit: str, engine: str = "", precision: str = "", dice: float | None = None
) -> Row:
    return Row(stage, engine, precision, error, limit, unit, dice, error <= limit)
