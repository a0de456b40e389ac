"""One model for many threads, calls and processes: the same answers, and no memory that stays behind."""

import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import visdeploy as vd
from visdeploy import image
from visdeploy.errors import EngineError

SOAK = bool(os.environ.get("VISDEPLOY_SOAK"))
Image = NDArray[np.uint8]


def answer(model: vd.Predictor, photo: Image) -> list[dict[str, Any]]:
    masks = model(photo).masks
    assert masks is not None
    return masks.rle


def test_eight_threads_get_what_one_gets(engine: str, binary_bundle: Path, photos: list[Image]) -> None:
    with vd.load(binary_bundle, engine=engine, num_threads=1) as model:
        expected = [answer(model, photo) for photo in photos]

        def run(worker: int) -> bool:
            turns = range(worker, worker + (500 if SOAK else 25))
            return all(answer(model, photos[turn % 2]) == expected[turn % 2] for turn in turns)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(run, range(8)))


MEASURE = """
import json, os, sys
import numpy as np
import visdeploy as vd

path, engine, calls, loads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
image = np.random.default_rng(0).integers(0, 256, (75, 101, 3), np.uint8)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

def call(model, times):
    for _ in range(times):
        model(image).masks.rle

with vd.load(path, engine=engine, num_threads=1) as model:
    call(model, calls // 4)
    before = resident()
    call(model, calls)
    by_calls = resident() / before
for _ in range(loads // 4):
    with vd.load(path, engine=engine, num_threads=1) as model:
        call(model, 1)
before = resident()
for _ in range(loads):
    with vd.load(path, engine=engine, num_threads=1) as model:
        call(model, 1)
print(json.dumps([by_calls, resident() / before]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of memory")
def test_memory_stays_flat(engine: str, binary_bundle: Path) -> None:
    calls, loads = (20_000, 200) if SOAK else (1000, 20)
    command = [sys.executable, "-c", MEASURE, binary_bundle, engine, str(calls), str(loads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    by_calls, by_loads = json.loads(done.stdout)
    assert by_calls < 1.02
    assert by_loads < 1.02


def call_in_child(model: vd.Predictor, photo: Image, answers: Any) -> None:
    try:
        answers.put(answer(model, photo))
    except EngineError as error:
        answers.put(str(error))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_another_process(method: str, engine: str, binary_bundle: Path, photos: list[Image]) -> None:
    processes = multiprocessing.get_context(method)
    answers = processes.Queue()
    with vd.load(binary_bundle, engine=engine, num_threads=1) as model:
        expected = answer(model, photos[0])
        child = processes.Process(target=call_in_child, args=(model, photos[0], answers))
        child.start()
        got = answers.get(timeout=120)
        child.join()
    if method == "spawn":
        assert got == expected
    else:
        assert got == "[predict] the model was loaded before this process was forked; load it in this one"


FORK = """
import multiprocessing, sys
import visdeploy as vd
from visdeploy.errors import EngineError
path, engine, photo = sys.argv[1:]

def call(_):
    try:
        with vd.load(path, engine=engine, num_threads=2) as model:
            return str(model(photo).error)
    except EngineError as error:
        return str(error)

with vd.load(path, engine=engine, num_threads=2) as model:
    model(photo)
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply_async(call, (0,)).get(timeout=120))
"""


def test_loading_after_a_fork_answers_or_says_why_not(engine: str, binary_bundle: Path, tmp_path: Path) -> None:
    image.write(tmp_path / "photo.png", np.zeros((40, 60, 3), np.uint8))
    command = [sys.executable, "-c", FORK, binary_bundle, engine, tmp_path / "photo.png"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=150).stdout
    if engine == "onnxruntime":
        assert said == "None\n"
    else:
        assert said.startswith(f"[load] engine {engine} was used before this process was forked")
