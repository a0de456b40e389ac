"""What precision="auto" takes: measured here, remembered, and explained."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stub import StubEngine
from visdeploy import cache
from visdeploy.bundle import ONNX, Bundle, Manifest
from visdeploy.engines import Engine, choice
from visdeploy.errors import EngineError, UnsupportedError
from visdeploy.spec import Variant

SPEC = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5}
FACTS = {"version": "1", "device": "this one", "threads": "2"}
ACCEPTED = {"bf16": True, "int8": True}


class Machine:
    """A clock that only its engines move, each by what a call in its precision takes."""

    def __init__(self, **milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.now = 0.0
        self.calls: list[str] = []
        self.open: list[str] = []

    def open_in(self, precision: str) -> Engine:
        if precision not in self.milliseconds:
            raise UnsupportedError(f"no {precision} here")
        engine = StubEngine(1, lambda: self.call(precision))
        engine.precision = precision
        engine.close = lambda: self.open.remove(precision)  # type: ignore[method-assign]
        self.open.append(precision)
        return engine

    def call(self, precision: str) -> None:
        self.calls.append(precision)
        self.now += self.milliseconds[precision] / 1e3

    def fastest(self, accepted: dict[str, bool] = ACCEPTED, **facts: str) -> Engine:
        variants = [
            Variant(engine="stub", precision=precision, files=(f"variants/{precision}-stub.onnx",), accepted=passed)
            for precision, passed in accepted.items()
        ]
        variants.append(Variant(engine="other", precision="fp16", accepted=True))
        manifest = Manifest.parse({**SPEC, "variants": variants})
        files = {ONNX: b"graph", **{f"variants/{precision}-stub.onnx": b"low" for precision in accepted}}
        return choice.fastest("stub", Bundle(Path("car.vdz"), manifest, files), self.open_in, FACTS | facts)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    """Makes machines whose clock is the one in force, and which share an empty cache."""
    monkeypatch.setenv("VISDEPLOY_CACHE", str(tmp_path))

    def make(**milliseconds: float) -> Machine:
        made = Machine(**milliseconds)
        monkeypatch.setattr(choice, "clock", lambda: made.now)
        return made

    return make


def test_fastest_is_taken_and_says_why(machine: Callable[..., Machine]) -> None:
    made = machine(fp32=231.9, bf16=151.0, int8=63.1)
    engine = made.fastest()
    assert engine.precision == "int8"
    assert engine.notes[0].startswith("int8 chosen: 63.1 ms a call, fp32 231.9, bf16 151.0 (measured here; made anew")
    assert made.open == ["int8"], "the others are released"


def test_int8_that_is_not_faster_is_not_taken(machine: Callable[..., Machine]) -> None:
    engine = machine(fp32=60.1, int8=64.0).fastest({"int8": True})
    assert engine.precision == "fp32"
    assert engine.notes[0].startswith("fp32 chosen: 60.1 ms a call; no faster: int8 64.0 (measured here")


@pytest.mark.parametrize(
    ("figures", "chosen"),
    [
        ({"fp32": 100.0, "int8": 94.0}, "int8"),
        ({"fp32": 100.0, "int8": 96.0}, "fp32"),
        ({"fp32": 100.0, "bf16": 60.0, "int8": 58.0}, "bf16"),
        ({"fp32": 100.0, "bf16": 60.0, "int8": 50.0}, "int8"),
        ({"fp32": 100.0, "bf16": 97.0, "int8": 94.0}, "int8"),
        ({"fp32": 100.0}, "fp32"),
    ],
)
def test_lower_precision_must_gain_something(figures: dict[str, float], chosen: str) -> None:
    assert choice.choose(figures) == chosen


@pytest.mark.parametrize(
    "figures", ["[{}, []]", '[{"fp32": "x"}, []]', '[{"fp32": 1.0, "bf17": 0.5}, []]', '[{"fp32": Infinity}, []]', "7"]
)
def test_figures_that_nobody_wrote_are_measured_again(machine: Callable[..., Machine], figures: str) -> None:
    machine(fp32=200.0, int8=300.0).fastest()
    (kept,) = (entry for entry in cache.entries() if entry.key["engine"] == "precision of stub")
    cache.keep(kept.key, figures.encode())
    engine = machine(fp32=200.0, bf16=151.0, int8=63.1).fastest()
    assert engine.precision == "int8"
    assert "the engine refused it" in engine.notes[0]


def test_choice_is_remembered(machine: Callable[..., Machine]) -> None:
    machine(fp32=200.0, bf16=151.0, int8=63.1).fastest()
    later = machine(fp32=1.0, bf16=2.0, int8=3.0)
    engine = later.fastest()
    assert (engine.precision, later.calls, later.open) == ("int8", [], ["int8"])
    assert "63.1 ms a call, fp32 200.0, bf16 151.0 (measured here; taken from the cache)" in engine.notes[0]


@pytest.mark.parametrize("part", FACTS)
def test_choice_is_made_again_when_the_machine_is_another(machine: Callable[..., Machine], part: str) -> None:
    machine(fp32=200.0, bf16=151.0, int8=63.1).fastest()
    engine = machine(fp32=1.0, bf16=2.0, int8=3.0).fastest(**{part: "other"})
    assert engine.precision == "fp32"
    assert f"the cache held it for another {part}: {FACTS[part]} -> other" in engine.notes[0]


def test_only_accepted_variants_are_considered(machine: Callable[..., Machine]) -> None:
    made = machine(fp32=200.0, bf16=151.0, int8=63.1, fp16=1.0)
    engine = made.fastest({"bf16": True, "int8": False})
    assert (engine.precision, set(made.calls)) == ("bf16", {"fp32", "bf16"})


def test_nothing_accepted_is_fp32_without_a_word(machine: Callable[..., Machine]) -> None:
    made = machine(fp32=200.0, int8=63.1)
    engine = made.fastest({"int8": False})
    assert (engine.precision, made.calls, engine.notes) == ("fp32", [], [])
    assert cache.entries() == []


def test_what_cannot_run_here_is_left_out_with_a_note(machine: Callable[..., Machine]) -> None:
    for _ in range(2):
        engine = machine(fp32=200.0, int8=63.1).fastest()
        assert engine.precision == "int8"
        assert engine.notes[1] == "bf16 is left out: no bf16 here"


def test_model_that_is_refused_in_fp32_is_an_error(machine: Callable[..., Machine]) -> None:
    with pytest.raises(EngineError, match="no fp32 here"):
        machine(int8=63.1).fastest()


def test_rounds_take_turns_and_end_when_the_order_is_clear(machine: Callable[..., Machine]) -> None:
    clear = machine(fp32=200.0, int8=60.0)
    clear.fastest({"int8": True})
    assert clear.calls == ["fp32", "int8"] * 3
    close = machine(fp32=70.0, bf16=66.0)
    close.fastest({"bf16": True})
    assert close.calls == ["fp32", "bf16"] * 8


def test_disturbed_round_does_not_decide(machine: Callable[..., Machine]) -> None:
    made = machine(fp32=70.0, int8=60.0)
    waits = iter([0.0, 0.5])  # of the warm-up, then of the first timed call

    def infer(images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        made.now += next(waits, 0.0)
        made.call("int8")
        return np.zeros((1, 1, 64, 64), np.float32)

    open_in = made.open_in

    def disturbed(precision: str) -> Engine:
        engine = open_in(precision)
        if precision == "int8":
            engine.infer = infer  # type: ignore[method-assign]
        return engine

    made.open_in = disturbed  # type: ignore[method-assign]
    assert made.fastest({"int8": True}).precision == "int8"
