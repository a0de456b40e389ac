from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visdeploy import ops, reference, tolerance
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("implementation")

ANCHORS = np.concatenate(
    [
        ops.multibox_prior((side, side), sizes, [1, 2, 0.5])[0]
        for side, sizes in ((12, [0.2, 0.272]), (6, [0.37, 0.447]), (1, [0.88, 0.961]))
    ]
)


def network_output(images: int, classes: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities without ties among an image's confidences, and offsets."""
    rng = np.random.default_rng([images, classes, n, seed])
    logits = rng.normal(0, 2, (images, classes + 1, n))
    exps = np.exp(logits)
    probs = (exps / exps.sum(1, keepdims=True)).astype(np.float32)
    return probs, rng.normal(0, 1, (images, 4 * n)).astype(np.float32)


def assert_same(ours: Any, expected: Any) -> None:
    """Same classes, confidences and order exactly, boxes within the table's tolerance."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert (ours.shape, ours.dtype) == (expected.shape, np.float32)
    np.testing.assert_array_equal(ours[..., :2], expected[..., :2])
    np.testing.assert_allclose(ours[..., 2:], expected[..., 2:], rtol=0, atol=tolerance.BOXES)


@pytest.mark.parametrize("n", [0, 1, 7, 16, 33, 300, None])
@pytest.mark.parametrize("classes", [1, 2, 20])
def test_multibox_detection_equals_reference(n: int | None, classes: int) -> None:
    anchors = ANCHORS[:n]
    probs, offsets = network_output(2, classes, len(anchors))
    expected = reference.multibox_detection(probs, offsets, anchors)
    assert_same(ops.multibox_detection(probs, offsets, anchors), expected)
    assert_same(ops.multibox_detection(probs, offsets, anchors[None], num_threads=2), expected)


@pytest.mark.parametrize("n", [1, 7, 100, None])
@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("thresholds", [(), (0.3,), (0.7, 0.4), (0.0, 0.0), (1.0,), (-0.1,)])
def test_multibox_detection_equals_the_book(n: int | None, classes: int, thresholds: tuple[float, ...]) -> None:
    book = pytest.importorskip("book")
    import torch

    anchors = torch.from_numpy(ANCHORS[None, :n].copy())
    probs, offsets = (torch.from_numpy(x) for x in network_output(2, classes, anchors.shape[1], 1))
    ours = ops.multibox_detection(probs, offsets, anchors, *thresholds)
    assert type(ours) is torch.Tensor
    assert_same(ours, book.multibox_detection(probs, offsets, anchors, *thresholds))


def test_bits_are_the_books_where_exp_is_exact() -> None:
    book = pytest.importorskip("book")
    import torch

    anchors = torch.from_numpy(ANCHORS[None].copy())
    probs, offsets = (torch.from_numpy(x) for x in network_output(3, 2, anchors.shape[1], 2))
    offsets.view(3, -1, 4)[..., 2:] = 0
    ours = ops.multibox_detection(probs, offsets, anchors)
    assert torch.equal(ours, book.multibox_detection(probs, offsets, anchors))


def test_the_books_example() -> None:
    anchors = np.float32(
        [[0.1, 0.08, 0.52, 0.92], [0.08, 0.2, 0.56, 0.95], [0.15, 0.3, 0.62, 0.91], [0.55, 0.2, 0.9, 0.88]]
    )
    probs = np.float32([[[0] * 4, [0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.9]]])
    out = ops.multibox_detection(probs, np.zeros((1, 16), np.float32), anchors, nms_threshold=0.5)
    np.testing.assert_allclose(out[0, :, :2], [[0, 0.9], [1, 0.9], [-1, 0.8], [-1, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(out[0, :, 2:], anchors[[0, 3, 1, 2]], atol=1e-6)


def test_below_the_positive_threshold_is_background() -> None:
    anchors = np.float32([[0, 0, 1, 1], [2, 2, 3, 3]])
    probs = np.float32([[[0.8, 0.2], [0.2, 0.8]]])
    out = ops.multibox_detection(probs, np.zeros((1, 8), np.float32), anchors, 0.5, 0.3)
    np.testing.assert_array_equal(out[0, :, 0], [0, -1])
    np.testing.assert_array_equal(out[0, :, 1], np.float32([0.8, 1 - np.float32(0.2)]))


def test_the_threshold_is_kept_unlike_in_torchvision() -> None:
    anchors = np.float32([[0, 0, 10, 10], [0, 0, 10, 3]])
    probs = np.float32([[[0.1, 0.2], [0.9, 0.8]]])
    zero = np.zeros((1, 8), np.float32)
    assert ops.multibox_detection(probs, zero, anchors, 0.3)[0, :, 0].tolist() == [0, 0]
    assert ops.multibox_detection(probs, zero, anchors, 0.299)[0, :, 0].tolist() == [0, -1]


def test_ties_keep_their_order_and_nan_comes_first() -> None:
    anchors = np.float32([[k, 0, k + 0.5, 1] for k in range(300)])
    confidence = np.random.default_rng(0).integers(0, 4, 300).astype(np.float32) / 4
    confidence[::50] = np.nan
    confidence[7] = -0.0
    out = ops.multibox_detection(
        np.stack([confidence, confidence])[None], np.zeros((1, 1200), np.float32), anchors, 0.5, -1.0
    )
    expected = np.argsort(np.where(np.isnan(confidence), -np.inf, -confidence), kind="stable")
    np.testing.assert_array_equal(out[0, :, 2], expected)


@pytest.mark.parametrize("threshold", [0.5, 1 / 3, 0.25, 0.2, 1e-7, 1.0])
@pytest.mark.parametrize("n", [15, 16, 17, 127, 128, 129, 400])
def test_ious_at_the_threshold_equal_reference(n: int, threshold: float) -> None:
    """Whole coordinates, so that many IoUs are simple fractions, in no order of place."""
    rng = np.random.default_rng(n)
    corner = rng.integers(0, 12, (n, 2))
    anchors = np.concatenate([corner, corner + rng.integers(1, 5, (n, 2))], 1).astype(np.float32)
    confidence = rng.permutation(n).astype(np.float32)[None] / n
    arguments = (np.stack([confidence, confidence], 1), np.zeros((1, 4 * n), np.float32), anchors, threshold)
    np.testing.assert_array_equal(ops.multibox_detection(*arguments), reference.multibox_detection(*arguments))


def test_boxes_without_area_drop_each_other() -> None:
    anchors = np.float32([[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.8]])
    probs = np.float32([[[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]]])
    out = ops.multibox_detection(probs, np.zeros((1, 12), np.float32), anchors)
    assert out[0, :, 0].tolist() == [0, 0, -1]


@given(st.integers(0, 2**32), st.integers(1, 14), st.sampled_from([0.5, 0.0, 1.0, -1.0, 1 / 3]))
def test_coarse_and_odd_boxes_equal_reference(seed: int, n: int, threshold: float) -> None:
    """Few values, so that ties, empty and reversed boxes, NaN and infinities abound."""
    rng = np.random.default_rng(seed)
    values = np.float32([0, 0.25, 0.5, 1] + ([np.nan, np.inf, -np.inf, 1e30] if seed % 3 == 0 else []))
    anchors, offsets = rng.choice(values, (n, 4)), np.zeros((1, 4 * n), np.float32)
    probs = rng.choice(np.float32([0.1, 0.5, 0.9, np.nan][: 3 + seed % 2]), (1, 3, n))
    np.testing.assert_array_equal(
        ops.multibox_detection(probs, offsets, anchors, threshold),
        reference.multibox_detection(probs, offsets, anchors, threshold),
    )


P, D, A = np.zeros((2, 3, 5), np.float32), np.zeros((2, 20), np.float32), np.zeros((5, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((P.astype(float), D, A), r"cls_probs: expected float32, got float64"),
        ((P, D.astype(float), A), r"offsets: expected float32, got float64"),
        ((P, D, A.astype(float)), r"anchors: expected float32, got float64"),
        ((P[:, :1], D, A), r"cls_probs: expected \(B, C \+ 1, N\) with C >= 1 and N = 5 anchors, got \(2, 1, 5\)"),
        ((P[..., :4], D, A), r"cls_probs: expected \(B, C \+ 1, N\)"),
        ((P[0], D, A), r"cls_probs: expected \(B, C \+ 1, N\)"),
        ((P, D[:1], A), r"offsets: expected \(B, 4 N\) = \(2, 20\), got \(1, 20\)"),
        ((P, D.reshape(2, 5, 4), A), r"offsets: expected \(B, 4 N\) = \(2, 20\), got \(2, 5, 4\)"),
        ((P, D, A[None].repeat(2, 0)), r"anchors: expected \(N, 4\) or \(1, N, 4\)"),
        ((P, D, A, np.nan), r"nms_threshold: expected a number, got NaN"),
        ((P, D, A, 0.5, np.nan), r"pos_threshold: expected a number, got NaN"),
    ],
)
def test_multibox_detection_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^\[multibox_detection\] {message}"):
        ops.multibox_detection(*arguments)


def test_no_images_and_no_anchors() -> None:
    assert ops.multibox_detection(P[:0], D[:0], A).shape == (0, 5, 6)
    assert ops.multibox_detection(P[..., :0], D[:, :0], A[:0]).shape == (2, 0, 6)
