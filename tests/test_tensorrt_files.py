"""Engines that are kept: in the cache, and in files with their sidecars; run against the stand-in of the libraries."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorrt_standin as standin
from stub import predictor
from tensorrt_standin import SMALL, check, images
from visdeploy.bundle import Bundle
from visdeploy.engines import open_engine, tensorrt, tensorrt_build
from visdeploy.engines.exported import open_file
from visdeploy.engines.tensorrt_build import Plan, Sidecar
from visdeploy.engines.tensorrt_library import open_library
from visdeploy.errors import InputError, UnsupportedError


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """An empty cache, and builds that give the stand-in's plan and are counted."""
    monkeypatch.setenv("VISDEPLOY_CACHE", str(tmp_path / "cache"))
    calls: list[dict[str, Any]] = []

    def build(bundle: Bundle, **options: Any) -> Plan:
        calls.append(options)
        measured = options["timing"] + b"+" if options["library"] == "tensorrt" else b""
        made = standin.plan(open_library(options["library"]).version, max_batch=bundle.manifest.max_batch)
        return Plan(made, Sidecar.model_construct(), measured)

    monkeypatch.setattr(tensorrt, "build", build)
    return calls


def test_cached_engine_is_taken_until_something_changes(
    library: str,
    cudart: standin.Cudart,
    monkeypatch: pytest.MonkeyPatch,
    binary_bundle: Path,
    built: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = Bundle.open(binary_bundle)
    old, new = standin.VERSIONS[library]
    caplog.set_level(logging.INFO)
    for _ in range(2):
        engine = open_engine("auto", bundle, num_threads=7)  # the first in preference, now that there is a GPU
        assert (engine.lanes, engine.preferred_batch) == (7, 1)
        assert (engine.name, engine.version, engine.precision) == ("tensorrt", f"{library} {old}", "fp32")
        batch = images((2, 64, 64, 3))
        np.testing.assert_array_equal(engine.infer(batch), standin.network(batch)[:, :1])
        engine.close()
    assert len(built) == 1
    standin.install(monkeypatch, cudart, rtx=library == "tensorrt_rtx", newer=True)
    open_engine("tensorrt", bundle).close()
    assert f"version: {old} -> {new}" in caplog.text
    monkeypatch.setattr(
        standin.Cudart, "cudaGetDeviceProperties", lambda self, index: cuda_device("Another GPU", 12, 0)
    )
    open_engine("tensorrt", bundle).close()
    assert "device: Stand-in GPU (8.9) -> Another GPU (12.0)" in caplog.text
    assert len(built) == 3


def cuda_device(name: str, major: int, minor: int) -> Any:
    return standin.SimpleNamespace(name=name.encode(), major=major, minor=minor)


@pytest.mark.parametrize("library", ["tensorrt"], indirect=True)
def test_plan_that_is_refused_is_built_again_and_said_why(
    library: str, binary_bundle: Path, built: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(binary_bundle)
    open_engine("tensorrt", bundle).close()
    (blob,) = [file for file in (tmp_path / "cache").glob("*.blob") if b"channels" in file.read_bytes()]
    foreign = standin.plan("10.9.0")
    blob.write_bytes(foreign)
    facts = json.loads(blob.with_suffix(".json").read_text())
    facts |= {"sha256": hashlib.sha256(foreign).hexdigest(), "size": len(foreign)}
    blob.with_suffix(".json").write_text(json.dumps(facts))
    open_engine("tensorrt", bundle).close()
    assert "the plan is of version 10.9.0, expected 11.4.0" in caplog.text
    assert [options["timing"] for options in built] == [b"", b"+"]  # what was measured is there for the next build


@pytest.mark.parametrize("library", ["tensorrt_rtx"], indirect=True)
def test_compiled_kernels_are_kept_for_the_next_process(
    library: str, binary_bundle: Path, built: list[dict[str, Any]], tmp_path: Path
) -> None:
    bundle = Bundle.open(binary_bundle)
    for expected in (b"compiled", b"compiled, and compiled"):
        open_engine("tensorrt", bundle).close()
        assert expected in [file.read_bytes() for file in (tmp_path / "cache").glob("*.blob")]
    assert len(built) == 1


OF_FILE = Bundle(Path("car.vdz"), predictor().spec, {"model.onnx": b"graph"})


def write_file(path: Path, of: str, **changes: Any) -> Path:
    data = standin.plan()
    path.write_bytes(data)
    sidecar = {
        "visdeploy": "0.1.0",
        "library": of,
        "library_version": standin.VERSIONS[of][0],
        "precision": "fp16",
        "model": "model.onnx",
        "model_sha256": hashlib.sha256(b"graph").hexdigest(),
        "engine_sha256": hashlib.sha256(data).hexdigest(),
        "engine_size": len(data),
        "inputs": [],
        "outputs": [],
    }
    tensorrt_build.sidecar_path(path).write_text(json.dumps(sidecar | changes))
    return path


def test_file_with_its_sidecar_is_opened(library: str, tmp_path: Path) -> None:
    engine = open_file(write_file(tmp_path / "car.engine", library, compute_capabilities=["8.9", "12.0"]), OF_FILE)
    check(engine, images(SMALL))
    assert engine.precision == "fp16"
    engine.close()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"library_version": "11.3.0"}, UnsupportedError, "built for .* 11.3.0, here is 1.*; build it again"),
        ({"compute_capabilities": ["12.0"]}, UnsupportedError, r"built for compute capability 12.0, here is Stand-in"),
        ({"gpu": "NVIDIA T4 (7.5)"}, UnsupportedError, r"built for NVIDIA T4 \(7.5\), here is Stand-in GPU \(8.9\)"),
        ({"model_sha256": "0" * 64}, InputError, "built from another model than the model.onnx of car.vdz"),
        ({"engine_sha256": "0" * 64}, InputError, "not the engine that car.engine.json describes"),
        ({"library": "antigravity"}, InputError, "not the sidecar of an engine .library: "),
        ({"format": 2}, InputError, "not the sidecar of an engine .format: "),
    ],
)
def test_file_of_another_place_is_refused(
    library: str, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_file(write_file(tmp_path / "car.engine", library, **changes), OF_FILE)


def test_file_without_its_sidecar_is_refused(library: str, tmp_path: Path) -> None:
    path = write_file(tmp_path / "car.engine", library)
    tensorrt_build.sidecar_path(path).unlink()
    with pytest.raises(InputError, match=r"car.engine.json: No such file .*; an engine is read with its sidecar"):
        open_file(path, OF_FILE)
