"""What `verify` found, stage by stage."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visdeploy.errors import CheckFailedError, MissingDependencyError


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
        dice: The lowest Dice of the masks against the expected ones; None where the stage makes none.
        ok: Whether the error is within the limit.
        changed: Of all images together, the pixels whose class changed, the boxes of either side without a counterpart,
            the images of another class, or the samples of pictures that differ; None where the stage does not answer
            the task.
        total: Pixels, boxes of both sides, images, or samples, all together; likewise.
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
    total: int | None = None
    worst: str = ""
    file: str = ""

    @property
    def verdict(self) -> str:
        """Either "DRIFTED", or "empty" where there was nothing to compare, or "same"."""
        return "DRIFTED" if not self.ok else "empty" if self.total == 0 else "same"

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
        notes: What the rows do not prove.
    """

    bundle: str
    images: int
    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...] = ()
    own_images: int = 0
    reference: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every stage is within its limit."""
        return all(row.ok for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain Python values; an infinite error, which JSON does not know, is None."""
        rows = [
            asdict(row) | {"error": row.error if np.isfinite(row.error) else None, "verdict": row.verdict}
            for row in self.rows
        ]
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
