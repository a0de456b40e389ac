"""The benchmark on stub engines whose time is a number that they add to, never the clock of the machine."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stub
from visdeploy import throughput
from visdeploy.bundle import Bundle
from visdeploy.errors import CheckFailedError, InputError, MissingDependencyError, UnsupportedError
from visdeploy.machine import resident_memory
from visdeploy.regression import Baseline
from visdeploy.report import NotRun, Row
from visdeploy.spec import Variant
from visdeploy.throughput import Entry, Figures, Loaded, compete, digest, take_turns

IMAGES = [np.zeros((64, 64, 3), np.uint8), np.full((70, 30, 3), 200, np.uint8)]


class Time:
    """Seconds that pass only when an engine says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class SlowEngine(stub.StubEngine):
    """Takes so many seconds for an image, wherever it is called from."""

    def __init__(self, time: Time, name: str, precision: str, seconds: float) -> None:
        super().__init__(1, lambda: None)
        self.time, self.name, self.precision, self.seconds = time, name, precision, seconds
        self.notes = [f"{name} was chosen by nobody"]

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        self.time.spend(self.seconds * len(images))
        return super().infer(images, alone=alone)


def measured(**milliseconds: float) -> list[Entry]:
    """Time engines that need so long for an image; "onnxruntime_int8" is its name and precision."""
    time = Time()
    loaded = []
    for name, each in milliseconds.items():
        engine, _, precision = name.partition("_")
        model = stub.predictor(variants=[INT8] if precision == "int8" else [])
        model.engine = SlowEngine(time, engine, precision or "fp32", each / 1e3)
        loaded.append(Loaded(model, 0.5, 0.25, 100.0, 120.0))
    return take_turns(loaded, IMAGES, batches=(1, 4), clients=3, duration=0.2, clock=time)


INT8 = Variant(engine="onnxruntime", precision="int8", accepted=True, metric="dice", drop=0.002)
BUNDLE = Bundle(Path("stub.vdz"), stub.predictor().spec, {})


def figures(**milliseconds: float) -> Figures:
    return Figures("stub.vdz", digest(BUNDLE), "a processor", tuple(measured(**milliseconds)))


def test_every_use_of_every_engine_is_timed() -> None:
    fp32, int8 = measured(openvino=4, onnxruntime_int8=2)
    assert (fp32.name, int8.name) == ("openvino fp32", "onnxruntime int8")
    for entry, milliseconds in ((fp32, 4), (int8, 2)):
        assert entry.calls == 5 * 0.04 * 1e3 / milliseconds
        assert (entry.latency.p50, entry.latency.p99) == pytest.approx((milliseconds, milliseconds))
        assert list(entry.rates) == ["single calls", "stream, batch 1", "stream, batch 4", "3 clients"]
        assert list(entry.images_per_second.values()) == pytest.approx([1e3 / milliseconds] * 4)
        assert entry.client_latency.p50 >= milliseconds * (1 - 1e-9)
        assert set(entry.stages) == {"decode", "resize", "infer", "postprocess", "total"}
        assert entry.notes == (f"{entry.engine} was chosen by nobody",)
        assert (entry.load_s, entry.first_result_s, entry.memory_mb, entry.peak_mb) == (0.5, 0.25, 100, 120)
    assert (int8.metric, int8.drop, fp32.metric, fp32.drop) == ("dice", 0.002, None, None)


def test_ratios_are_to_the_first_fp32() -> None:
    found = figures(onnxruntime_int8=2, openvino=4, torchscript=8)
    assert found.reference.name == "openvino fp32"
    ratios = found.ratios()
    assert ratios["openvino fp32, single calls"] == 1
    assert ratios["onnxruntime int8, stream, batch 4"] == pytest.approx(2)
    assert ratios["torchscript fp32, 3 clients"] == pytest.approx(0.5)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["ratios"] == ratios
    assert document["entries"][0]["images_per_second"]["stream, batch 4"] == pytest.approx(500)


def test_ratios_are_of_the_same_round_and_use() -> None:
    fp32, int8 = measured(openvino=4, onnxruntime_int8=2)
    uses = list(fp32.rates)
    # The machine stood still in one round, and clients of fp32 gain from a second core.
    fp32 = replace(fp32, rates=dict.fromkeys(uses, (100, 100, 1)) | {"3 clients": (150, 150, 1)})
    int8 = replace(int8, rates=dict.fromkeys(uses, (200, 200, 2)))
    ratios = Figures("stub.vdz", "", "", (fp32, int8)).ratios()
    assert [ratios[f"openvino fp32, {use}"] for use in uses] == [1, 1, 1, 1.5]
    assert [ratios[f"onnxruntime int8, {use}"] for use in uses] == pytest.approx([2, 2, 2, 4 / 3])


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """Store figures as `benchmark --json` prints them."""

    def store(found: Figures, **changes: Any) -> Path:
        path = tmp_path / "base.json"
        path.write_text(json.dumps(found.to_dict() | changes))
        return path

    return store


def test_a_busy_machine_is_no_regression(stored: Callable[..., Path]) -> None:
    baseline = Baseline.read(stored(figures(openvino=4, onnxruntime_int8=2)), BUNDLE)
    comparison = baseline.compare(figures(openvino=40, onnxruntime_int8=21))
    assert (comparison.regressed, comparison.lines()) == ((), [])
    comparison.require()


def test_a_slower_ratio_is_named(stored: Callable[..., Path]) -> None:
    path = stored(figures(openvino=4, onnxruntime_int8=2))
    comparison = Baseline.read(path, BUNDLE).compare(figures(openvino=4, onnxruntime_int8=2.5))
    assert [change.name for change in comparison.regressed] == [
        f"onnxruntime int8, {use}" for use in ("single calls", "stream, batch 1", "stream, batch 4", "3 clients")
    ]
    with pytest.raises(CheckFailedError, match=r"int8, single calls: 1\.6 times the reference, was 2;"):
        comparison.require()
    Baseline.read(path, BUNDLE).compare(figures(openvino=4, onnxruntime_int8=2.5), tolerance=0.25).require()


def test_what_only_one_of_them_has_is_named(stored: Callable[..., Path]) -> None:
    path = stored(figures(openvino=4, onnxruntime_int8=2), cpu="another")
    comparison = Baseline.read(path, BUNDLE).compare(figures(openvino=4, torchscript=8))
    with pytest.raises(CheckFailedError, match=rf"not measured, and in {path}: .*onnxruntime int8, 3 clients"):
        comparison.require()
    lines = comparison.lines()
    assert lines[0] == f"{path} was measured on another processor: another"
    assert f"not in {path}: torchscript fp32, single calls" in lines
    assert len(lines) == 1 + 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        ("", "as JSON"),
        ("[" * 100_000, "as JSON"),
        ("[]", "does not hold what"),
        ('{"ratios": {}}', "does not hold what"),
        ({"ratios": {"openvino fp32, single calls": "fast"}}, "does not hold what"),
        ({"ratios": {"openvino fp32, single calls": 0}}, "does not hold what"),
        ({"ratios": {"openvino fp32, single calls": float("nan")}}, "does not hold what"),
        ({"model": "0" * 64}, "is of another bundle, stub.vdz"),
    ],
)
def test_baseline_that_is_none(content: Any, said: str, stored: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    if isinstance(content, dict):
        stored(figures(openvino=4), **content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        Baseline.read(path, BUNDLE)


def test_baseline_of_another_reference(stored: Callable[..., Path]) -> None:
    baseline = Baseline.read(stored(figures(openvino=4)), BUNDLE)
    with pytest.raises(InputError, match="are to openvino fp32, these are to torchscript fp32"):
        baseline.compare(figures(torchscript=4))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batches": []}, "batch: expected sizes"),
        ({"batches": [1, 0]}, "batch: expected sizes"),
        ({"batches": [5000]}, "batch: expected sizes"),
        ({"clients": 0}, "clients: expected 1 to"),
        ({"clients": 5000}, "clients: expected 1 to"),
        ({"duration": -1.0}, "duration: expected seconds above 0"),
        ({"duration": float("nan")}, "duration: expected seconds above 0"),
    ],
)
def test_arguments_that_measure_nothing(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compete(BUNDLE, IMAGES, **arguments)
    with pytest.raises(InputError, match="images: expected at least one"):
        compete(BUNDLE, [])


def test_loading_is_measured_engine_by_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()

    def open_slowly(name: str, bundle: Bundle, *, precision: str, num_threads: int | None) -> SlowEngine:
        time.spend(3)
        if name != "openvino":
            raise MissingDependencyError(f"no {name}") if name == "torchscript" else UnsupportedError("not here")
        return SlowEngine(time, name, precision, 0.5)

    monkeypatch.setattr("visdeploy.verify.NAMES", ("openvino", "onnxruntime", "torchscript"))
    monkeypatch.setattr("visdeploy.verify.open_engine", open_slowly)
    monkeypatch.setattr(throughput, "NAMES", ())  # imports none of them
    not_run: list[NotRun] = []
    (entry,) = throughput.load_all(
        Bundle(BUNDLE.path, BUNDLE.manifest, {"model.ts": b""}), IMAGES, None, None, not_run, clock=time
    )
    assert (entry.load_s, entry.first_result_s) == (3, 0.5)
    assert [absent.what for absent in not_run] == ["onnxruntime fp32", "torchscript"]


def test_accuracy_stands_beside_speed() -> None:
    model = stub.predictor()
    model.engine = SlowEngine(time := Time(), "openvino", "fp32", 0.01)
    row = Row("end to end", "openvino", "fp32", 0.1, 0.2, "", 0.9, True, changed=7, total=4096)
    (entry,) = take_turns([Loaded(model)], IMAGES, batches=(2,), clients=1, duration=0.1, exact=[row], clock=time)
    assert (entry.changed, entry.total, entry.dice) == (7, 4096, 0.9)


def test_accuracy_is_that_of_training_or_of_the_variant() -> None:
    variant = INT8.model_copy(update={"metric": "map50", "value": 0.7, "drop": None})
    loaded = []
    for precision, metrics in (("fp32", {"map": 0.5, "map50": 0.8}), ("int8", {"map50": 0.8}), ("fp32", {"f1": 0.4})):
        model = stub.says(stub.TWO, metrics=metrics, variants=[variant])
        model.engine.name, model.engine.precision = "onnxruntime", precision
        loaded.append(Loaded(model))
    entries = take_turns(loaded, IMAGES, batches=(2,), clients=1, duration=0.01)
    assert [(entry.metric, entry.accuracy) for entry in entries] == [("map50", 0.8), ("map50", 0.7), (None, None)]
    assert {entry.counted for entry in entries} == {"boxes"}


def test_accuracy_of_fp32_is_what_the_variants_were_compared_with() -> None:
    other, own = (
        INT8.model_copy(update={"engine": engine, "metric": "map50", "value": value, "drop": -0.25})
        for engine, value in (("openvino", 0.5), ("onnxruntime", 0.75))
    )
    model = stub.says(stub.TWO, metrics={"map50": 0.9}, variants=[other, own])
    model.engine.name, model.engine.precision = "onnxruntime", "fp32"
    (entry,) = take_turns([Loaded(model)], IMAGES, batches=(2,), clients=1, duration=0.01)
    assert (entry.metric, entry.accuracy, entry.drop) == ("map50", 0.5, None)


def test_image_that_fails_stops_the_benchmark() -> None:
    model = stub.predictor()
    model.engine = SlowEngine(time := Time(), "openvino", "fp32", 0.01)
    with pytest.raises(InputError):
        take_turns([Loaded(model)], [b"no image"], batches=(2,), clients=1, duration=0.1, clock=time)


def test_memory_of_this_process_is_known() -> None:
    before, _ = resident_memory(reset_peak=True)
    if before is None:
        pytest.skip("only Linux says")
    held = np.ones(40 << 20, np.uint8)
    now, peak = resident_memory()
    assert now is not None
    assert peak is not None
    assert now - before > 30
    del held
    assert peak >= now - 1
