"""Order, bounds and endings of work on several threads."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from visdeploy.lanes import in_order


def lanes() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("visdeploy-lane")]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_order_is_kept_whatever_each_item_takes(count: int) -> None:
    delays = random.Random(count).choices([0, 0.001, 0.004], k=120)

    def work(item: tuple[int, float]) -> int:
        time.sleep(item[1])
        return item[0]

    assert list(in_order(work, enumerate(delays), count, 2 * count)) == list(range(120))
    assert not lanes()


def test_lanes_work_at_once_and_no_more_than_there_are() -> None:
    together = threading.Barrier(3, timeout=30)
    list(in_order(lambda _: together.wait(), range(30), 3, 6))  # breaks unless three meet
    busy, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.001)
        with lock:
            busy -= 1

    list(in_order(work, range(60), 3, 20))
    assert most <= 3


def test_reader_that_stops_stops_all() -> None:
    read = done = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(1, 1000):
            read = item
            yield item

    def work(item: int) -> int:
        nonlocal done
        done = item
        return item

    answers = in_order(work, items(), 1, 5)
    assert read == 0
    assert next(answers) == 1
    time.sleep(0.1)
    assert done == read <= 5
    assert [next(answers), next(answers)] == [2, 3]
    assert read <= 8
    answers.close()
    assert not lanes()


def test_answer_is_not_held_back_by_a_slow_source() -> None:
    """As a camera's: the frame after the next comes only when the one before is answered."""
    answered = threading.Event()

    def camera() -> Iterator[int]:
        yield 0
        time.sleep(0.05)  # time to answer the first
        yield 1
        assert answered.is_set(), "the third frame was asked for with nothing answered"
        yield 2

    answers = in_order(lambda item: item, camera(), 2, 4)
    assert next(answers) == 0
    answered.set()
    assert list(answers) == [1, 2]


def test_failures_come_in_their_turn() -> None:
    def items() -> Iterator[int]:
        yield from (3, 2, 1)
        raise ConnectionError("camera lost")

    answers = in_order(lambda item: 6 // item, items(), 2, 4)
    assert [next(answers) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ConnectionError, match="camera lost"):
        next(answers)
    answers = in_order(lambda item: 6 // item, [1, 0, 2], 2, 4)
    assert next(answers) == 6
    with pytest.raises(ZeroDivisionError):
        next(answers)
    assert not lanes()


def test_interrupt_while_reading_ends_all_at_once() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_order(lambda item: time.sleep(0.05), items(), 2, 4))
    assert not lanes()


def test_what_waits_is_dropped_and_what_runs_is_waited_for() -> None:
    started, go = threading.Event(), threading.Event()
    ran = []

    def work(item: int) -> int:
        ran.append(item)
        if item == 0:
            time.sleep(0.02)  # time to read ahead
        if item == 1:
            started.set()
            go.wait(30)
        return item

    answers = in_order(work, range(50), 1, 8)
    assert next(answers) == 0
    started.wait(30)
    threading.Timer(0.05, go.set).start()
    answers.close()
    assert ran == [0, 1]
    assert not lanes()


def test_iterator_lost_in_a_cycle_is_collected_on_any_thread() -> None:
    class Cycle:
        pass

    collect = threading.Event()
    collected = []

    def work(item: int) -> int:
        if item == 0:
            time.sleep(0.02)  # time to read ahead
        if item == 1 and collect.wait(30):
            collected.append(gc.collect())  # closes the iterator on its own thread
        return item

    holder = Cycle()
    holder.answers = in_order(work, range(9), 1, 3)
    holder.itself = holder
    assert next(holder.answers) == 0
    lost = weakref.ref(holder)
    gc.disable()
    try:
        del holder
        collect.set()
        deadline = time.monotonic() + 30
        while (lost() or lanes()) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        gc.enable()
    assert collected
    assert not lost()
    assert not lanes()


def test_iterator_that_is_collected_under_a_lock_of_its_lanes_does_not_wait_for_them() -> None:
    lock, working = threading.Lock(), threading.Event()

    def work(item: int) -> int:
        if item:
            working.set()
            with lock:
                pass
        return item

    holder = [in_order(work, range(9), 1, 3)]
    holder.append(holder)
    with lock:
        assert next(holder[0]) == 0
        assert working.wait(30)
        del holder
        gc.collect()  # would wait for a lane that waits for the lock
    deadline = time.monotonic() + 30
    while lanes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lanes()


STREAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
import stub

frame = np.zeros((64, 64, 3), np.uint8)
def endless():
    while True:
        yield frame
stream = stub.predictor(lambda: time.sleep(0.01)).stream(endless())
"""


def run(code: str, *, interrupt: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STREAM + code, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if interrupt:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(
    "ending",
    [
        "next(stream)",
        "for result in stream:\n    break",
        # From 3.12 on no thread can begin another when the main one has ended.
        "import threading; begun = threading.Event()\n"
        "threading.Thread(target=lambda: (next(stream), begun.set(), next(stream))).start(); begun.wait()",
        "next(stream); import gc; cycle = [stream]; cycle.append(cycle); del stream, cycle",
        "stream",
    ],
)
def test_process_ends_with_a_stream_that_does_not(ending: str) -> None:
    done = run(ending)
    assert (done.returncode, done.stderr) == (0, "")


FORK = """
import os
next(stream)
child = os.fork()
try:
    next(stream)
except Exception as error:
    print(child == 0, error, flush=True)
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_is_refused_a_stream_of_its_parent() -> None:
    done = run(FORK)
    assert done.returncode == 0
    assert "True [predict] the stream was begun before this process was forked" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("where", ["for _ in stream: pass", "next(stream); time.sleep(60)"])
def test_interrupt_ends_the_process_without_a_word_from_threads(where: str) -> None:
    begin = "try:\n    next(stream)\n    print('ready', flush=True)\n    "
    done = run(f"{begin}{where}\nexcept KeyboardInterrupt:\n    sys.exit(130)", interrupt=True)
    assert (done.returncode, done.stderr) == (130, "")
