from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visdeploy import ops, reference, tolerance
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("implementation")

SSD_LIKE = np.concatenate(
    [
        ops.multibox_prior((side, side), sizes, [1, 2, 0.5])[0]
        for side, sizes in ((9, [0.2, 0.272]), (4, [0.37, 0.447]), (1, [0.88, 0.961]))
    ]
)


def random_labels(images: int, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([images, rows, seed])
    corner, side = rng.random((images, rows, 2)), rng.uniform(0.05, 0.5, (images, rows, 2))
    classes = rng.integers(0, 4, (images, rows, 1))
    return np.concatenate([classes, corner - side / 2, corner + side / 2], 2).astype(np.float32)


def assert_same(ours: Any, expected: Any) -> None:
    """Same assignment exactly, offsets within the table's tolerance."""
    offsets, mask, classes = (np.asarray(x) for x in ours)
    want, want_mask, want_classes = (np.asarray(x) for x in expected)
    assert (offsets.dtype, mask.dtype, classes.dtype) == (np.float32, np.float32, np.int64)
    np.testing.assert_array_equal(mask, want_mask)
    np.testing.assert_array_equal(classes, want_classes)
    # The offsets are ten and five times what the tolerance speaks of.
    np.testing.assert_allclose(offsets, want, rtol=tolerance.BOXES, atol=10 * tolerance.BOXES)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 33, None])
@pytest.mark.parametrize("skip_padding", [True, False])
def test_multibox_target_equals_reference(n: int | None, rows: int, skip_padding: bool) -> None:
    anchors, labels = SSD_LIKE[:n], random_labels(3, rows)
    labels[1, rows // 2 :] = -1
    labels[2] = -1
    expected = reference.multibox_target(anchors, labels, skip_padding=skip_padding)
    assert_same(ops.multibox_target(anchors, labels, skip_padding=skip_padding), expected)
    assert_same(ops.multibox_target(anchors[None], labels, skip_padding=skip_padding, num_threads=2), expected)


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
@pytest.mark.parametrize("n", [1, 2, 17, None])
def test_multibox_target_equals_the_book(n: int | None, rows: int) -> None:
    book = pytest.importorskip("book")
    import torch

    anchors, labels = torch.from_numpy(SSD_LIKE[None, :n].copy()), torch.from_numpy(random_labels(2, rows, 1))
    if rows <= anchors.shape[1]:
        assert_same(ops.multibox_target(anchors, labels), book.multibox_target(anchors, labels))
    labels[1, rows // 2 :] = -1
    ours = ops.multibox_target(anchors, labels, skip_padding=False)
    assert type(ours[0]) is torch.Tensor
    assert_same(ours, book.multibox_target(anchors, labels))


def test_the_books_example() -> None:
    truth = np.float32([[[0, 0.1, 0.08, 0.52, 0.92], [1, 0.55, 0.2, 0.9, 0.88]]])
    anchors = np.float32(
        [
            [0, 0.1, 0.2, 0.3],
            [0.15, 0.2, 0.4, 0.4],
            [0.63, 0.05, 0.88, 0.98],
            [0.66, 0.45, 0.8, 0.8],
            [0.57, 0.3, 0.92, 0.9],
        ]
    )
    offsets, mask, classes = ops.multibox_target(anchors, truth)
    assert classes.tolist() == [[0, 1, 2, 0, 2]]
    np.testing.assert_array_equal(mask[0].reshape(-1, 4), np.repeat([[0], [1], [1], [0], [1]], 4, 1))
    np.testing.assert_allclose(offsets[0, 4:8], [1.4, 10, 2.59, 7.18], atol=0.01)
    assert not offsets[mask == 0].any()


def test_padding_is_skipped_unless_the_book_is_followed() -> None:
    anchors = np.float32([[0, 0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6], [0.2, 0.2, 0.4, 0.4]])
    labels = np.float32([[[3, 0.2, 0.2, 0.4, 0.4], [-1, -1, -1, -1, -1]]])
    _, mask, classes = ops.multibox_target(anchors, labels)
    assert classes.tolist() == [[0, 0, 4]]
    assert mask[0, ::4].tolist() == [0, 0, 1]
    _, mask, classes = ops.multibox_target(anchors, labels, skip_padding=False)
    assert classes.tolist() == [[0, 0, 4]]
    assert mask[0, ::4].tolist() == [1, 0, 1]


def test_ties_take_the_lower_anchor_then_the_lower_row() -> None:
    same = np.float32([[0, 0, 1, 1]])
    labels = np.float32([[[2, 0, 0, 1, 1], [5, 0, 0, 1, 1]]])
    _, _, classes = ops.multibox_target(np.repeat(same, 4, 0), labels)
    assert classes.tolist() == [[3, 6, 3, 3]]


def test_every_box_gets_an_anchor_while_there_are_any() -> None:
    labels = random_labels(1, 9)
    _, mask, _ = ops.multibox_target(np.float32([[2, 2, 3, 3]] * 5), labels)
    assert mask.all()
    _, mask, _ = ops.multibox_target(np.float32([[2, 2, 3, 3]] * 30), labels)
    assert mask.sum() == 4 * 9


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_coarse_and_odd_boxes_equal_reference(seed: int, n: int, rows: int, skip_padding: bool) -> None:
    """Few values, so that ties, empty and reversed boxes and NaN abound."""
    rng = np.random.default_rng(seed)
    values = np.float32([0, 0.25, 0.5, 1, np.nan] if seed % 3 == 0 else [0, 0.25, 0.5, 1])
    anchors, labels = rng.choice(values, (n, 4)), rng.choice(values, (2, rows, 5))
    labels[..., 0] = rng.integers(-1, 3, (2, rows))
    _, mask, classes = ops.multibox_target(anchors, labels, skip_padding=skip_padding)
    _, expected, expected_classes = reference.multibox_target(anchors, labels, skip_padding=skip_padding)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(classes, expected_classes)


@pytest.mark.parametrize(("label", "expected"), [(np.nan, 0), (np.inf, 0), (-np.inf, 0), (3e30, 0), (2.7, 3), (-2, -1)])
def test_odd_classes_are_defined(label: float, expected: int) -> None:
    anchors, labels = np.float32([[0, 0, 1, 1]]), np.float32([[[label, 0, 0, 1, 1]]])
    assert ops.multibox_target(anchors, labels, skip_padding=False)[2].tolist() == [[expected]]
    skipped = not label >= 0
    assert ops.multibox_target(anchors, labels)[1].any() != skipped


A, L = np.zeros((3, 4), np.float32), np.zeros((1, 2, 5), np.float32)


@pytest.mark.parametrize(
    ("anchors", "labels", "message"),
    [
        (A.astype(float), L, r"anchors: expected float32, got float64"),
        (A[0], L, r"anchors: expected \(N, 4\) or \(1, N, 4\), got \(4,\)"),
        (np.float32(1)[None][0:1].reshape(()), L, r"anchors: expected \(N, 4\)"),
        (A, L.astype(np.int64), r"labels: expected float32, got int64"),
        (A, L[..., :4], r"labels: expected \(B, M, 5\), rows of class, x1, y1, x2, y2, got \(1, 2, 4\)"),
        (A, L[0], r"labels: expected \(B, M, 5\)"),
    ],
)
def test_multibox_target_refuses(anchors: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=rf"^\[multibox_target\] {message}"):
        ops.multibox_target(anchors, labels)
