"""Native ops called from many threads at once, and after a fork."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from visdeploy import mask, ops

pytestmark = pytest.mark.usefixtures("isa")

RNG = np.random.default_rng(0)
CORNERS = RNG.random((3000, 2)) * 500
BOXES = np.concatenate([CORNERS, CORNERS + RNG.random((3000, 2)) * 60], 1).astype(np.float32)
SCORES = RNG.random(3000).astype(np.float32)
LABELS = RNG.integers(0, 9, 3000)
MASKS = np.repeat(RNG.random((6, 40, 61)) > 0.7, 4, axis=2).view(np.uint8)
LOGITS = RNG.normal(size=(5, 30, 40)).astype(np.float32)
RLES = mask.encode(MASKS, axis=0)

CALLS: dict[str, Callable[[], Any]] = {
    "nms": lambda: ops.nms(BOXES, SCORES, 0.5).tolist(),
    "batched_nms": lambda: ops.batched_nms(BOXES, SCORES, LABELS, 0.5, num_threads=2).tolist(),
    "encode": lambda: mask.encode(MASKS, axis=0, num_threads=3),
    "decode": lambda: mask.decode(RLES, num_threads=3).tolist(),
    "encode_logits": lambda: mask.encode_logits(LOGITS, (90, 130), num_threads=2),
    "semantic_map": lambda: ops.semantic_map(LOGITS, (90, 130))[0].tolist(),
}


@pytest.mark.parametrize("name", CALLS)
def test_many_threads_at_once(name: str) -> None:
    expected = CALLS[name]()
    with ThreadPoolExecutor(8) as pool:
        assert all(answer == expected for answer in pool.map(lambda _: CALLS[name](), range(64)))


def answers(_: int) -> list[Any]:
    return [call() for call in CALLS.values()]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_fork() -> None:
    expected = answers(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(answers, range(4)) == [expected] * 4
