"""How long each stage takes, per engine, with the engines taking turns so that a busy machine hurts all alike."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError
from visdeploy.image import ImageSource
from visdeploy.types import Timings

STAGES = ("decode", "resize", "infer", "postprocess", "total")


class TimedResult(Protocol):
    """An answer that says how long it took."""

    @property
    def timings(self) -> Timings:
        """Milliseconds of each stage."""


class Timed(Protocol):
    """What `measure` can time: a predictor, or a rival that says what runs it."""

    @property
    def engine(self) -> Any:
        """Has a name, a version and a precision."""

    def __call__(self, image: Any) -> TimedResult:
        """Answer one image."""


@dataclass(frozen=True)
class Quantiles:
    """Milliseconds per image."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Measurement:
    """One engine's figures, one image at a time.

    Attributes:
        engine: Its name and version.
        precision: What it computed in.
        samples: Number of timed images.
        stages: Milliseconds by stage, and their total.
        images_per_second: From the median total.
    """

    engine: str
    precision: str
    samples: int
    stages: dict[str, Quantiles]
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain Python values."""
        return asdict(self)


def measure(predictors: Sequence[Timed], images: Sequence[ImageSource], *, rounds: int = 20) -> list[Measurement]:
    """Time every predictor on every image, interleaved.

    Args:
        predictors: Opened models; the first call of each is a warm-up and does not count.
        images: What to predict.
        rounds: How often to go over all images.

    Raises:
        InputError: There is nothing to measure, or an image cannot be decoded.
    """
    if not images or rounds < 1:
        raise InputError(f"[benchmark] expected images and at least one round, got {len(images)} and {rounds}")
    taken: list[list[list[float]]] = [[] for _ in predictors]
    for predictor in predictors:
        for image in images[:2]:
            predictor(image)
    for _ in range(rounds):
        for image in images:
            for samples, predictor in zip(taken, predictors, strict=True):
                timings = predictor(image).timings
                samples.append([getattr(timings, f"{stage}_ms") for stage in STAGES])
    return [_summarise(predictor, np.array(samples)) for predictor, samples in zip(predictors, taken, strict=True)]


def _summarise(predictor: Timed, samples: NDArray[np.float64]) -> Measurement:
    marks = np.percentile(samples, [50, 95, 99], axis=0)
    stages = {stage: Quantiles(*(float(value) for value in marks[:, i])) for i, stage in enumerate(STAGES)}
    engine = f"{predictor.engine.name} {predictor.engine.version}"
    return Measurement(engine, predictor.engine.precision, len(samples), stages, 1e3 / stages["total"].p50)
