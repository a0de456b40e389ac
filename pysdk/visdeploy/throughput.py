"""How fast, large and exact every engine and precision is here, taking turns so that a busy machine hurts all alike."""

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.benchmark import STAGES, Quantiles
from visdeploy.bundle import Bundle
from visdeploy.engines import NAMES, load_adapter
from visdeploy.errors import InputError, MissingDependencyError
from visdeploy.image import ImageSource
from visdeploy.machine import cpu_model, resident_memory
from visdeploy.metrics import headline
from visdeploy.predictor import Predictor
from visdeploy.report import NotRun, Row
from visdeploy.spec import Manifest
from visdeploy.types import Timings
from visdeploy.verify import open_engines, verify

SINGLE = "single calls"
_ROUNDS = 5
_COUNTED = {
    "segmentation": "px",
    "detection": "boxes",
    "localization": "boxes",
    "classification": "images",
    "restoration": "samples",
}
_MAX_CLIENTS = 1024
_MAX_BATCH = 1024
Clock = Callable[[], float]


@dataclass(frozen=True)
class Loaded:
    """A predictor that has given its first result.

    Attributes:
        predictor: The model.
        load_s: Seconds that the engine took to take the network; importing its package is not counted.
        first_result_s: Seconds from there to the answer for the first image.
        memory_mb: By how much the process grew; None where the system does not say.
        peak_mb: By how much it had grown at its largest on the way.
    """

    predictor: Predictor
    load_s: float = 0.0
    first_result_s: float = 0.0
    memory_mb: float | None = None
    peak_mb: float | None = None


@dataclass(frozen=True)
class Entry:
    """The figures of one engine in one precision.

    Attributes:
        engine: Its name.
        version: Of its package.
        precision: What it computed in.
        load_s, first_result_s, memory_mb, peak_mb: As in `Loaded`.
        calls: Number of single calls that were timed.
        latency: Milliseconds of a single call.
        client_latency: Milliseconds of a call while several threads call at once.
        stages: Median milliseconds of each stage of a single call.
        rates: Images a second of each way to use it, one per round: single calls, streams of each batch size,
            concurrent clients.
        changed: Pixels, boxes, images or samples among the golden answers that changed, see `report.Row`.
        total: Of so many.
        counted: What these count: "px", "boxes", "images" or "samples".
        dice: The lowest Dice of a golden image; None where there are no masks.
        metric: Name of the figure that the precision was accepted for at export; where nothing was compared there, that
            of training.
        accuracy: That figure; None where nothing was measured.
        drop: How much lower it is than that of fp32; None for fp32 itself.
        notes: What the engine says about its choices.
    """

    engine: str
    version: str
    precision: str
    load_s: float
    first_result_s: float
    memory_mb: float | None
    peak_mb: float | None
    calls: int
    latency: Quantiles
    client_latency: Quantiles
    stages: dict[str, float]
    rates: dict[str, tuple[float, ...]]
    changed: int | None = None
    total: int | None = None
    counted: str = "px"
    dice: float | None = None
    metric: str | None = None
    accuracy: float | None = None
    drop: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Engine and precision."""
        return f"{self.engine} {self.precision}"

    @property
    def images_per_second(self) -> dict[str, float]:
        """Median of the rounds, by way of use."""
        return {use: float(np.median(rates)) for use, rates in self.rates.items()}


@dataclass(frozen=True)
class Figures:
    """What `compete` measured.

    Attributes:
        bundle: Its path.
        model: Digest of its files, by which a stored baseline is known to be of the same bundle.
        cpu: Name of the processor.
        entries: One per engine and precision; the first one in fp32 is the reference of `ratios`.
        not_run: What cannot run here.
    """

    bundle: str
    model: str
    cpu: str
    entries: tuple[Entry, ...]
    not_run: tuple[NotRun, ...] = ()

    @property
    def reference(self) -> Entry:
        """What the ratios are to: the first engine in fp32, or the first there is."""
        return next((entry for entry in self.entries if entry.precision == "fp32"), self.entries[0])

    def ratios(self, quantile: float = 0.5) -> dict[str, float]:
        """Return how many times faster everything was than the reference in the same round, as a quantile of rounds.

        Each way of use is held against the same of the reference, and the reference's own against its single calls.
        """
        reference = self.reference
        single = reference.rates[SINGLE]

        def times(entry: Entry, rates: Sequence[float], same: Sequence[float]) -> float:
            return float(np.quantile(np.divide(rates, single if entry is reference else same), quantile))

        return {
            f"{entry.name}, {use}": times(entry, rates, same)
            for entry in self.entries
            for (use, rates), same in zip(entry.rates.items(), reference.rates.values(), strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain Python values."""
        entries = [asdict(entry) | {"images_per_second": entry.images_per_second} for entry in self.entries]
        return asdict(self) | {"entries": entries, "reference": self.reference.name, "ratios": self.ratios()}


@dataclass
class _Samples:
    """What was timed of one predictor so far."""

    calls: list[float] = field(default_factory=list)
    client_calls: list[float] = field(default_factory=list)
    timings: list[Timings] = field(default_factory=list)
    rates: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def compete(
    bundle: Bundle,
    images: Sequence[ImageSource],
    *,
    engines: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 8),
    clients: int = 4,
    duration: float = 2.0,
    num_threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Figures:
    """Load every engine in every precision, then time them in turns.

    Args:
        bundle: An opened bundle.
        images: What to predict, over and over.
        engines: Names; default, all that can run here.
        precisions: Names as in `load`; default, for each engine fp32 and what the bundle accepted for it.
        batches: Sizes for the stream.
        clients: Threads that call at once.
        duration: About how many seconds each kind of use of each engine and precision is timed for.
        num_threads: As in `load`.
        progress: Called with one line per step.

    Raises:
        InputError: An argument is out of range, or an image cannot be decoded.
        MissingDependencyError: No engine is installed, or one that was named is not.
    """
    _check_arguments(batches, clients, duration)
    # More than the network takes at once would be measured as what it takes.
    batches = sorted({min(batch, bundle.manifest.max_batch) for batch in batches})
    engines = None if engines is None else list(dict.fromkeys(engines))
    precisions = None if precisions is None else list(dict.fromkeys(precisions))
    if not images:
        raise InputError("[benchmark] images: expected at least one, got none")
    say = progress or (lambda line: None)
    not_run: list[NotRun] = []
    loaded: list[Loaded] = []
    try:
        for entry in load_all(bundle, images, engines, precisions, not_run, num_threads):
            loaded.append(entry)
            say(f"loaded {entry.predictor.engine.name} {entry.predictor.engine.precision} in {entry.load_s:.2f} s")
        say(f"timing, about {duration * len(loaded) * (2 + len(batches)):.0f} s")
        report = verify(bundle, engines=[entry.predictor for entry in loaded])
        exact = [row for row in report.rows if row.stage == "end to end"]
        entries = take_turns(loaded, images, batches=batches, clients=clients, duration=duration, exact=exact)
    finally:
        for entry in loaded:
            entry.predictor.close()
    return Figures(str(bundle.path), digest(bundle), cpu_model(), tuple(entries), tuple(not_run))


def _check_arguments(batches: Sequence[int], clients: int, duration: float) -> None:
    if not batches or not all(1 <= batch <= _MAX_BATCH for batch in batches):
        raise InputError(f"[benchmark] batch: expected sizes from 1 to {_MAX_BATCH}, got {list(batches)}")
    if not 1 <= clients <= _MAX_CLIENTS:
        raise InputError(f"[benchmark] clients: expected 1 to {_MAX_CLIENTS}, got {clients}")
    if not (math.isfinite(duration) and duration > 0):
        raise InputError(f"[benchmark] duration: expected seconds above 0, got {duration:g}")


def load_all(
    bundle: Bundle,
    images: Sequence[ImageSource],
    engines: Sequence[str] | None,
    precisions: Sequence[str] | None,
    not_run: list[NotRun],
    num_threads: int | None = None,
    clock: Clock = time.perf_counter,
) -> Iterable[Loaded]:
    """Yield what `open_engines` opens, with the time and memory that took."""
    for name in NAMES if engines is None else set(NAMES).intersection(engines):
        with suppress(MissingDependencyError):
            load_adapter(name)
    opening = open_engines(bundle, engines, precisions, not_run, num_threads)
    while True:
        before, _ = resident_memory(reset_peak=True)
        start = clock()
        engine = next(opening, None)
        if engine is None:
            return
        opened = clock()
        predictor = Predictor(bundle, engine, num_threads)
        predictor(images[0])
        answered = clock()
        after, peak = resident_memory()
        grown = [None if before is None or now is None else now - before for now in (after, peak)]
        yield Loaded(predictor, opened - start, answered - opened, *grown)


def take_turns(
    loaded: Sequence[Loaded],
    images: Sequence[ImageSource],
    *,
    batches: Sequence[int],
    clients: int,
    duration: float,
    exact: Sequence[Row] = (),
    clock: Clock = time.perf_counter,
) -> list[Entry]:
    """Time single calls, streams and concurrent clients of each, in rounds over all of them.

    Args:
        loaded: What to time.
        images: As in `compete`.
        batches: Likewise.
        clients: Likewise.
        duration: Likewise.
        exact: The end-to-end row of each from `verify`.
        clock: Gives seconds.
    """
    samples = [_Samples() for _ in loaded]
    shares = [_warm_up(entry.predictor, images, batches, duration / _ROUNDS, clock) for entry in loaded]
    together = list(zip(loaded, samples, shares, strict=True))
    for _ in range(_ROUNDS):
        for entry, taken, share in together:
            _single_calls(entry.predictor, images, share, taken, clock)
        for batch in batches:
            for entry, taken, share in together:
                rate = _stream(entry.predictor, images, max(share, 2 * batch), batch, clock)
                taken.rates[f"stream, batch {batch}"].append(rate)
        for entry, taken, share in together:
            _clients(entry.predictor, images, max(share, clients), clients, taken, clock)
    rows: Sequence[Row | None] = exact or [None] * len(loaded)
    return [_summarise(*each) for each in zip(loaded, samples, rows, strict=True)]


def _warm_up(
    predictor: Predictor, images: Sequence[ImageSource], batches: Sequence[int], seconds: float, clock: Clock
) -> int:
    """Return how many single calls take about so many seconds, after everything was used once."""
    for batch in batches:
        _stream(predictor, images, 2 * batch, batch, clock)
    start = clock()
    for image in images[:2]:
        predictor(image)
    each = (clock() - start) / len(images[:2])
    return max(2, min(10_000, math.ceil(seconds / max(each, 1e-6))))


def _single_calls(
    predictor: Predictor, images: Sequence[ImageSource], count: int, taken: _Samples, clock: Clock
) -> None:
    begun = clock()
    for image in islice(cycle(images), count):
        start = clock()
        result = predictor(image)
        taken.calls.append(1e3 * (clock() - start))
        taken.timings.append(result.timings)
    taken.rates[SINGLE].append(count / (clock() - begun))


def _stream(predictor: Predictor, images: Sequence[ImageSource], count: int, batch: int, clock: Clock) -> float:
    """Return images a second."""
    start = clock()
    for result in predictor.stream(islice(cycle(images), count), batch_size=batch):
        if result.error is not None:
            raise result.error
    return count / (clock() - start)


def _clients(
    predictor: Predictor, images: Sequence[ImageSource], count: int, clients: int, taken: _Samples, clock: Clock
) -> None:
    def client(index: int) -> list[float]:
        times = []
        for image in islice(cycle(images), index, index + count // clients):
            start = clock()
            predictor(image)
            times.append(1e3 * (clock() - start))
        return times

    with ThreadPoolExecutor(clients, thread_name_prefix="visdeploy-client") as pool:
        start = clock()
        found = [milliseconds for times in pool.map(client, range(clients)) for milliseconds in times]
        taken.rates[f"{clients} clients"].append(len(found) / (clock() - start))
    taken.client_calls += found


def _summarise(loaded: Loaded, taken: _Samples, exact: Row | None) -> Entry:
    engine, spec = loaded.predictor.engine, loaded.predictor.spec
    metric, accuracy, drop = _accuracy(spec, engine.name, engine.precision)
    stages = np.array([[getattr(timings, f"{stage}_ms") for stage in STAGES] for timings in taken.timings])
    return Entry(
        engine=engine.name,
        version=engine.version,
        precision=engine.precision,
        load_s=loaded.load_s,
        first_result_s=loaded.first_result_s,
        memory_mb=loaded.memory_mb,
        peak_mb=loaded.peak_mb,
        calls=len(taken.calls),
        latency=_quantiles(taken.calls),
        client_latency=_quantiles(taken.client_calls),
        stages=dict(zip(STAGES, (float(value) for value in np.median(stages, axis=0)), strict=True)),
        rates={use: tuple(rates) for use, rates in taken.rates.items()},
        changed=exact.changed if exact else None,
        total=exact.total if exact else None,
        counted=_COUNTED[spec.task],
        dice=exact.dice if exact else None,
        metric=metric,
        accuracy=accuracy,
        drop=drop,
        notes=tuple(engine.notes),
    )


def _accuracy(spec: Manifest, engine: str, precision: str) -> tuple[str | None, float | None, float | None]:
    """Return the metric, its value, and how far that is below fp32's."""
    if form := spec.variant(engine, precision):
        return form.metric, form.value, form.drop
    if precision != "fp32":
        return None, None, None
    # Beside variants fp32 has the figure that they were compared with, not that of training, on images of another size.
    for form in sorted(spec.variants, key=lambda form: form.engine != engine):
        if form.value is not None and form.drop is not None:
            return form.metric, form.value + form.drop, None
    try:
        metric = headline(spec.metrics)
    except StopIteration:  # a bundle may have figures of its maker's, or none
        return None, None, None
    return metric, spec.metrics[metric], None


def _quantiles(milliseconds: Sequence[float]) -> Quantiles:
    marks: NDArray[np.float64] = np.percentile(milliseconds, [50, 95, 99])
    return Quantiles(*(float(value) for value in marks))


def digest(bundle: Bundle) -> str:
    """Return one sha256 of all the files of a bundle."""
    listed = "".join(f"{name} {entry.sha256}\n" for name, entry in sorted(bundle.manifest.files.items()))
    return hashlib.sha256(listed.encode()).hexdigest()
