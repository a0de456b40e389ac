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

ANCHORS = ops.multibox_prior((9, 9), [0.2, 0.4], [1, 2])
OFFSETS = RNG.normal(size=(4, ANCHORS.shape[1], 4)).astype(np.float32)
PROBS = RNG.random((4, 3, ANCHORS.shape[1])).astype(np.float32)
TRUTH = np.concatenate([RNG.integers(0, 3, (4, 5, 1)), RNG.random((4, 5, 4))], 2).astype(np.float32)

CALLS: dict[str, Callable[[], Any]] = {
    "nms": lambda: ops.nms(BOXES, SCORES, 0.5).tolist(),
    "batched_nms": lambda: ops.batched_nms(BOXES, SCORES, LABELS, 0.5, num_threads=2).tolist(),
    "decode_boxes": lambda: ops.decode_boxes(OFFSETS, ANCHORS, variances=(0.1, 0.2), num_threads=2).tolist(),
    "multibox_target": lambda: ops.multibox_target(ANCHORS, TRUTH, num_threads=2)[2].tolist(),
    "multibox_detection": lambda: ops.multibox_detection(
        PROBS, OFFSETS.reshape(4, -1), ANCHORS, num_threads=3
    ).tolist(),
    "detect": lambda: [
        one.boxes.tolist()
        for one in ops.detect(PROBS.swapaxes(1, 2), OFFSETS, ANCHORS, image_size=(1, 1), num_threads=7)
    ],
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
