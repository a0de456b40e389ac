"""Which precision `auto` is: speed does not travel with a bundle, so it is measured on the machine that serves."""

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from visdeploy import cache
from visdeploy.bundle import ONNX, Bundle
from visdeploy.engines import PRECISIONS, Engine, reason
from visdeploy.errors import EngineError

# What is faster by less is not worth the lower precision.
_WORTH = 0.95
# Rounds end where everything else is slower by this than the fastest: more of them would not change the order.
_CLEAR = 1.3
_ROUNDS = (2, 7)

clock = time.perf_counter


def fastest(name: str, bundle: Bundle, open_in: Callable[[str], Engine], facts: Mapping[str, str]) -> Engine:
    """Open a bundle in the fastest of fp32 and its accepted variants; the figures are kept in the cache.

    Args:
        name: Of the engine.
        bundle: An opened bundle.
        open_in: Opens it in a precision.
        facts: What decides the speed beside the model, for the key in the cache.

    Raises:
        EngineError: The engine refuses the model in fp32. What it refuses in other precisions is left out with a note.
    """
    accepted = [
        entry
        for entry in sorted(bundle.manifest.variants, key=lambda entry: PRECISIONS.index(entry.precision))
        if entry.engine == name and entry.accepted
    ]
    if not accepted:
        return open_in("fp32")
    opened: dict[str, Engine] = {}

    def measure() -> tuple[_Figures, bytes]:
        opened["fp32"] = open_in("fp32")
        refused = []
        for entry in accepted:
            try:
                opened[entry.precision] = open_in(entry.precision)
            except EngineError as error:
                refused.append(f"{entry.precision} is left out: {reason(error)}")
        figures = _Figures(_milliseconds(opened, bundle.manifest.size), refused)
        return figures, json.dumps(figures).encode()

    files = [bundle.sha256(file) for entry in accepted for file in entry.files]
    key = {
        "model": bundle.sha256(ONNX),
        "engine": f"precision of {name}",
        "candidates": " ".join([entry.precision for entry in accepted] + files),
        **facts,
    }
    candidates = {"fp32", *(entry.precision for entry in accepted)}
    figures, origin = cache.obtain(key, lambda blob: _Figures.read(blob.tobytes(), candidates), measure)
    chosen = choose(figures.milliseconds)
    engine = opened.pop(chosen, None) or open_in(chosen)
    for other in opened.values():
        other.close()
    notes = [f"{_sentence(figures.milliseconds, chosen)} (measured here; {origin})", *figures.refused]
    for note in notes:
        cache.log.info("%s", note)
    engine.notes[:0] = notes
    return engine


class _Figures(NamedTuple):
    milliseconds: dict[str, float]
    refused: list[str]

    @classmethod
    def read(cls, blob: bytes, candidates: Collection[str]) -> "_Figures":
        """Raise ValueError for what `measure` cannot have written."""
        milliseconds, refused = json.loads(blob)
        if not {"fp32"} <= milliseconds.keys() <= set(candidates) or not all(
            isinstance(figure, float) and 0 < figure < math.inf for figure in milliseconds.values()
        ):
            raise ValueError(f"expected milliseconds by precision, got {milliseconds!r:.80}")
        return cls(milliseconds, [str(sentence) for sentence in refused])


def choose(figures: Mapping[str, float]) -> str:
    """Return the precision to take, given milliseconds a call by precision, the highest precision first."""
    chosen, *others = figures
    for precision in others:
        if figures[precision] < _WORTH * figures[chosen]:
            chosen = precision
    return chosen


def _milliseconds(engines: Mapping[str, Engine], size: tuple[int, int]) -> dict[str, float]:
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    least, most = _ROUNDS
    best = dict.fromkeys(engines, float("inf"))
    for engine in engines.values():
        engine.infer(images)
    for done in range(1, most + 1):
        for precision, engine in engines.items():
            start = clock()
            engine.infer(images)
            best[precision] = min(best[precision], 1e3 * (clock() - start))
        first, *others = sorted(best.values())
        if done >= least and all(other > _CLEAR * first for other in others[:1]):
            break
    return best


def _sentence(figures: Mapping[str, float], chosen: str) -> str:
    others = ", ".join(f"{precision} {figure:.1f}" for precision, figure in figures.items() if precision != chosen)
    if others:
        others = ("; no faster: " if chosen == "fp32" else ", ") + others
    return f"{chosen} chosen: {figures[chosen]:.1f} ms a call{others}"
