"""The kernel of detect against the CPU's code, bit for bit: sizes around every block, ties, thread orders."""

from typing import Any

import numpy as np
import pytest

import cuda_arrays
from visdeploy.native import _core

pytestmark = cuda_arrays.NEEDS_KERNELS

SIZES = [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025]
SETTINGS: dict[str, Any] = {
    "image_size": (240, 300),
    "weights": (10, 10, 5, 5),
    "score_threshold": 0.01,
    "iou_threshold": 0.45,
    "top_k": 400,
    "max_det": 200,
    "mode": "exact",
    "num_threads": None,
    "out": None,
}


def case(images: int, n: int, classes: int, *, quantum: float = 0.0, odd: bool = False) -> tuple[np.ndarray, ...]:
    """Logits, offsets and anchors; a quantum makes scores and overlaps equal."""
    rng = np.random.default_rng([images, n, classes])
    logits = rng.normal(0, 1.5, (images, n, classes)).astype(np.float32)
    offsets = rng.normal(0, 1, (images, n, 4)).astype(np.float32)
    corner, side = rng.uniform(-20, 280, (n, 2)), rng.uniform(5, 120, (n, 2))
    anchors = np.concatenate([corner, corner + side], 1).astype(np.float32)
    if quantum:
        logits, offsets = np.round(logits / quantum) * np.float32(quantum), np.round(offsets)
        anchors = np.round(anchors / 20) * np.float32(20)
    if odd:
        values = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0])
        for array, share in ((logits, 0.2 / classes), (offsets, 0.03), (anchors, 0.02)):
            where = rng.random(array.shape) < share
            array[where] = rng.choice(values, where.sum())
    return logits, offsets, anchors


def assert_equal(arrays: tuple[np.ndarray, ...], seed: int = 0, **settings: Any) -> list[Any]:
    cuda_arrays.shim().shim_set_seed(seed)
    arguments = (*arrays, *{**SETTINGS, **settings}.values())
    ours, expected = cuda_arrays.OnCuda().detect(*arguments), _core.detect(*arguments)
    assert len(ours) == len(expected)
    for here, there in zip(ours, expected, strict=True):
        for x, y in zip(here, there, strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            np.testing.assert_array_equal(x, y)
    return expected


@pytest.mark.parametrize("mode", ["exact", "torchvision"])
@pytest.mark.parametrize("n", SIZES)
def test_any_number_of_anchors(n: int, mode: str) -> None:
    for seed, (images, classes) in enumerate([(1, 2), (3, 9), (2, 17)] if n < 1000 else [(2, 9)]):
        for quantum in (0.0, 1.5):
            assert_equal(case(images, n, classes, quantum=quantum), seed, mode=mode)


@pytest.mark.parametrize("classes", [2, 3, 7, 8, 9, 10, 16, 17, 31, 32, 33, 65, 91, 300])
def test_any_number_of_classes(classes: int) -> None:
    for seed in range(3):
        assert_equal(case(2, 70, classes, odd=seed == 2), seed, mode="torchvision" if seed == 1 else "exact")


@pytest.mark.parametrize("mode", ["exact", "torchvision"])
@pytest.mark.parametrize("score_threshold", [-1.0, 0.0, 1e-42, 0.01, 0.3, 1.0, np.inf, -np.inf])
@pytest.mark.parametrize("top_k", [0, 1, 7, 64, 10**18])
def test_any_thresholds_and_limits(score_threshold: float, top_k: int, mode: str) -> None:
    arrays = case(2, 130, 6, quantum=1.0)
    for seed, max_det in enumerate((0, 1, 33, 10**18)):
        limits: dict[str, Any] = {"top_k": top_k, "max_det": max_det, "iou_threshold": (0.45, 1.0, -0.1, 0.0)[seed]}
        assert_equal(arrays, seed, score_threshold=score_threshold, mode=mode, **limits)


@pytest.mark.parametrize("mode", ["exact", "torchvision"])
@pytest.mark.parametrize("top_k", [1, 5, 256, 257, 700])
def test_ties_at_the_cut_of_a_class_go_to_the_lower_anchor(top_k: int, mode: str) -> None:
    """Few different scores, so that the last of the best are equal to many; some so small that all digits count."""
    logits, offsets, anchors = case(2, 1300, 4, quantum=3.0)
    logits[1, :, 0] += np.float32(60)
    for seed in range(2):
        assert_equal((logits, offsets, anchors), seed, top_k=top_k, max_det=4000, score_threshold=0, mode=mode)


def test_values_that_are_not_finite() -> None:
    for seed in range(6):
        mode = "torchvision" if seed % 2 else "exact"
        for threshold in (-1.0, 0.01):
            assert_equal(case(3, 150 + seed, 5, odd=True), seed, mode=mode, score_threshold=threshold)


@pytest.mark.parametrize("few", [999, 1000, 1001])
def test_torchvisions_limit_of_boxes_that_are_moved_is_met_image_by_image(few: int) -> None:
    """Small boxes so far out that moving them rounds away a quarter of their sides."""
    rng = np.random.default_rng(few)
    logits, offsets = np.full((3, 600, 3), -50, np.float32), np.zeros((3, 600, 4), np.float32)
    logits[..., 0] = 0
    for image, count in enumerate((few, 300, 1200)):
        classes = np.full(1200, -50, np.float32)
        classes[:count] = rng.normal(0, 0.1, count)
        logits[image, :, 1:] = classes.reshape(600, 2)
    corner = 2**20 + rng.uniform(0, 30, (600, 2))
    anchors = np.concatenate([corner, corner + rng.uniform(0.5, 2, (600, 2))], 1).astype(np.float32)
    settings: dict[str, Any] = {"image_size": (2**21, 2**21), "top_k": 600, "max_det": 2000, "iou_threshold": 0.3}
    moved = assert_equal((logits, offsets, anchors), mode="torchvision", **settings)
    exact = assert_equal((logits, offsets, anchors), **settings)
    differ = [not np.array_equal(x[1], y[1]) for x, y in zip(moved, exact, strict=True)]
    assert differ == [few <= 1000, True, False]


@pytest.mark.parametrize("score_threshold", [0.01, 1e-6, 1e-38, 3e-45])
def test_scores_within_rounding_of_the_threshold(score_threshold: float) -> None:
    steps = np.sign(np.arange(-300, 300)) * np.arange(-300, 300) ** 2
    bits = np.float32(np.log(score_threshold / (1 - score_threshold))).view(np.int32)
    arrays = list(case(1, len(steps), 3))
    arrays[0][0] = [0, -200, 0]
    arrays[0][0, :, 1] = np.float32(-200)
    arrays[0][0, :, 2] = (bits + steps).astype(np.int32).view(np.float32)
    found = assert_equal(tuple(arrays), score_threshold=score_threshold, iou_threshold=1.0, top_k=600, max_det=600)
    assert 0 < len(found[0][1]) < len(steps)


def test_the_size_of_ssd300() -> None:
    logits, offsets, anchors = case(1, 8732, 91)
    logits[..., 0] += np.float32(10)
    assert_equal((logits, offsets, anchors), 1)
