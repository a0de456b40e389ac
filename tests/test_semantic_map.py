from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visdeploy import mask, ops, reference
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("implementation")


def check(logits: np.ndarray, size: tuple[int, int]) -> None:
    labels, areas, rles = ops.semantic_map(logits, size)
    assert (labels.dtype, labels.shape, areas.dtype) == (np.uint8, size, np.int64)
    values = reference.upsample(logits, size)
    chosen = np.take_along_axis(values, labels[None].astype(np.int64), axis=0)[0]
    assert (values.max(0) - chosen <= 1e-5 * abs(logits).max()).all()
    for c in range(len(logits)):
        assert rles[c] == mask.encode(labels == c)
        assert areas[c] == mask.area(rles[c])


@pytest.mark.parametrize("classes", [1, 2, 3, 21, 255])
@pytest.mark.parametrize("source", [(1, 1), (5, 1), (17, 23)])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (17, 23), (17, 64), (65, 130)])
def test_best_class_everywhere(classes: int, source: tuple[int, int], size: tuple[int, int]) -> None:
    noise = np.random.default_rng(classes).normal(size=(classes, *source)).astype(np.float32)
    check(noise, size)
    check(np.stack([cv2.GaussianBlur(plane, (0, 0), 3) for plane in noise]), size)


@given(
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 99),
)
def test_any_logits(classes: int, h: int, w: int, height: int, width: int, seed: int) -> None:
    check(np.random.default_rng(seed).normal(size=(classes, h, w)).astype(np.float32), (height, width))


def test_ties_take_the_lower_class() -> None:
    logits = np.random.default_rng(0).integers(0, 3, (4, 9, 9)).astype(np.float32)
    labels, areas, rles = ops.semantic_map(logits, (9, 9))
    np.testing.assert_array_equal(labels, logits.argmax(0))
    assert areas.sum() == 81
    labels, areas, rles = ops.semantic_map(np.zeros((3, 4, 4), np.float32), (9, 9))
    assert not labels.any()
    assert areas.tolist() == [81, 0, 0]
    assert rles[1] == rles[2] == mask.encode(np.zeros((9, 9), bool))


@pytest.mark.parametrize("size", [(9, 12), (27, 36), (40, 50)])
def test_logits_that_are_not_finite(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 9, 12)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.3] = np.nan
    logits[rng.random(logits.shape) < 0.1] = np.inf
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    labels, areas, rles = ops.semantic_map(logits, size)
    expected = reference.semantic_map(logits, size)
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(areas, expected[1])
    assert rles == expected[2]


def test_valid_and_strides() -> None:
    logits = np.random.default_rng(0).normal(size=(16, 24, 3)).astype(np.float32).transpose(2, 0, 1)
    cut = np.ascontiguousarray(logits[:, :11, :17])
    labels, areas, rles = ops.semantic_map(logits, (40, 50), valid=(11, 17))
    expected = ops.semantic_map(cut, (40, 50))
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(areas, expected[1])
    assert rles == expected[2]


@pytest.mark.parametrize(
    ("logits", "size", "message"),
    [
        (np.zeros((0, 2, 2), np.float32), (4, 4), "1 to 255 classes, got 0"),
        (np.zeros((256, 2, 2), np.float32), (4, 4), "1 to 255 classes, got 256"),
        (np.zeros((2, 2), np.float32), (4, 4), r"expected \(C, h, w\), got shape \(2, 2\)"),
        (np.zeros((2, 2, 2)), (4, 4), "expected float32, got float64"),
        (np.zeros((2, 2, 0), np.float32), (4, 4), "at least one pixel"),
        (np.zeros((2, 2, 2), np.float32), (10**9, 10**9), "size: expected"),
        (np.zeros((2, 2, 2), np.float32), (0, 4), r"got \(0, 4\)"),
    ],
)
def test_refuses(logits: np.ndarray, size: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.semantic_map(logits, size)
