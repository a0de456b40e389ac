"""Whether a benchmark is slower than a stored one, by ratios that a busy machine leaves alone."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visdeploy.bundle import Bundle
from visdeploy.errors import CheckFailedError, InputError
from visdeploy.throughput import Figures, digest

# The quantile over rounds of one that nothing disturbed.
_GOOD = 0.9


@dataclass(frozen=True)
class Change:
    """One way to use one engine, whose ratio to the reference fell."""

    name: str
    before: float
    now: float


@dataclass(frozen=True)
class Comparison:
    """Figures beside stored ones.

    Attributes:
        baseline: Path of the stored ones.
        regressed: What fell by more than the tolerance.
        missing: What only the stored figures have.
        new: What only these figures have.
        note: A sentence where the two come from different processors; else empty.
    """

    baseline: str
    regressed: tuple[Change, ...]
    missing: tuple[str, ...]
    new: tuple[str, ...]
    note: str

    def lines(self) -> list[str]:
        """Return what there is to say beside the regressions, one sentence each."""
        said = [self.note] if self.note else []
        return said + [f"not in {self.baseline}: {name}" for name in self.new]

    def require(self) -> None:
        """Raise CheckFailedError, naming everything that regressed, or was measured then and not now."""
        if self.regressed:
            slower = "; ".join(
                f"{change.name}: {change.now:.3g} times the reference, was {change.before:.3g}"
                for change in self.regressed
            )
            raise CheckFailedError(f"slower than {self.baseline}: {slower}")
        if self.missing:
            raise CheckFailedError(f"not measured, and in {self.baseline}: {'; '.join(self.missing)}")


@dataclass(frozen=True)
class Baseline:
    """The JSON document of an earlier run.

    Attributes:
        path: Where it was read from.
        reference: Engine and precision that its ratios are to.
        ratios: As of `Figures`.
        cpu: Name of the processor that it was measured on.
    """

    path: str
    reference: str
    ratios: dict[str, float]
    cpu: str

    @classmethod
    def read(cls, path: str | Path, bundle: Bundle) -> "Baseline":
        """Read what `visdeploy benchmark --json` printed for the same bundle.

        Raises:
            InputError: The file is no such document, or is of another bundle.
        """
        try:
            stored = json.loads(Path(path).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"[benchmark] baseline: cannot read {path} as JSON ({error})") from error
        if not isinstance(stored, dict) or not _complete(stored):
            raise InputError(f"[benchmark] baseline: {path} does not hold what `visdeploy benchmark --json` prints")
        if stored["model"] != digest(bundle):
            raise InputError(f"[benchmark] baseline: {path} is of another bundle, {stored['bundle']}")
        return cls(str(path), stored["reference"], stored["ratios"], stored["cpu"])

    def compare(self, figures: Figures, *, tolerance: float = 0.1) -> Comparison:
        """Hold figures against these.

        Both are ratios to a reference in the same run, see `Figures.ratios`, so that how fast the machine was that day
        plays no part. A ratio has fallen if even that of a good round did, as one slow round says little. A reference
        that itself became slower shows as everything else having become faster.

        Args:
            figures: What was measured now.
            tolerance: The share that a ratio may fall by.

        Raises:
            InputError: The figures' ratios are to another reference.
        """
        if self.reference != figures.reference.name:
            raise InputError(
                f"[benchmark] baseline: the ratios in {self.path} are to {self.reference}, these are to "
                f"{figures.reference.name}; measure the same engines"
            )
        before, now, best = self.ratios, figures.ratios(), figures.ratios(_GOOD)
        regressed = [
            Change(name, before[name], now[name])
            for name in now
            if name in before and best[name] < before[name] * (1 - tolerance)
        ]
        return Comparison(
            self.path,
            tuple(regressed),
            tuple(name for name in before if name not in now),
            tuple(name for name in now if name not in before),
            "" if self.cpu == figures.cpu else f"{self.path} was measured on another processor: {self.cpu}",
        )


def _complete(stored: dict[str, Any]) -> bool:
    if not all(isinstance(stored.get(key), str) for key in ("bundle", "model", "reference", "cpu")):
        return False
    ratios = stored.get("ratios")
    return isinstance(ratios, dict) and all(
        type(value) in (int, float) and math.isfinite(value) and value > 0 for value in ratios.values()
    )
