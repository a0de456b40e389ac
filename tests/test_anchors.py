from typing import Any

import numpy as np
import pytest

from visdeploy import ops, reference
from visdeploy.errors import InputError

SSD300 = {
    "feature_sizes": [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)],
    "aspect_ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
}
SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
STEPS = [8, 16, 32, 64, 100, 300]


@pytest.mark.parametrize("feature_size", [(1, 1), (3, 5), (7, 4), (32, 32), (37, 51)])
@pytest.mark.parametrize(
    ("sizes", "ratios"), [([0.75, 0.5, 0.25], [1, 2, 0.5]), ([0.2], [3.0]), ([0.2, 0.272], [0.7, 1 / 3])]
)
def test_multibox_prior_equals_the_book(feature_size: tuple[int, int], sizes: list[float], ratios: list[float]) -> None:
    book = pytest.importorskip("book")
    ours = ops.multibox_prior(feature_size, sizes, ratios)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, book.multibox_prior(feature_size, sizes, ratios).numpy())


def test_multibox_prior_equals_reference() -> None:
    arguments = ((4, 7), [0.9, 0.3], [2, 1, 0.5])
    np.testing.assert_array_equal(ops.multibox_prior(*arguments), reference.multibox_prior(*arguments))


def test_multibox_prior_of_nothing() -> None:
    assert ops.multibox_prior((0, 3), [0.5], [1]).shape == (1, 0, 4)
    assert ops.multibox_prior((3, 0), [0.5, 0.2], [1, 2]).shape == (1, 0, 4)


def torchvision_boxes(generator: Any, image_size: tuple[int, int], feature_sizes: list[tuple[int, int]]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    from torchvision.models.detection.image_list import ImageList

    images = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    boxes: np.ndarray = generator(images, [torch.zeros(1, 1, *size) for size in feature_sizes])[0].numpy()
    return boxes


@pytest.mark.parametrize(
    "options",
    [
        {"scales": SCALES, "steps": STEPS},
        {"scales": SCALES},
        {"scales": SCALES, "clip": False},
        {},
        {"min_ratio": 0.2, "max_ratio": 0.95, "steps": STEPS},
    ],
)
@pytest.mark.parametrize("image_size", [(300, 300), (240, 500)])
def test_default_boxes_equal_torchvision(options: dict[str, Any], image_size: tuple[int, int]) -> None:
    utils = pytest.importorskip("torchvision.models.detection.anchor_utils")
    rival = utils.DefaultBoxGenerator(SSD300["aspect_ratios"], **options)
    expected = torchvision_boxes(rival, image_size, SSD300["feature_sizes"])
    ours = ops.default_boxes(image_size, **SSD300, **options)
    assert (ours.dtype, ours.shape) == (np.float32, (8732, 4))
    np.testing.assert_array_equal(ours, expected)


def test_default_boxes_of_one_map_equal_torchvision() -> None:
    utils = pytest.importorskip("torchvision.models.detection.anchor_utils")
    expected = torchvision_boxes(utils.DefaultBoxGenerator([[2, 3]]), (64, 96), [(4, 6)])
    np.testing.assert_array_equal(ops.default_boxes((64, 96), [(4, 6)], [[2, 3]]), expected)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [None, [7, 20]])
def test_default_boxes_equal_reference(clip: bool, steps: list[float] | None) -> None:
    arguments: dict[str, Any] = {"scales": [0.3, 0.8, 1.2], "steps": steps, "clip": clip}
    case = ((50, 70), [(3, 5), (2, 1)], [[2], [3, 0.4]])
    np.testing.assert_array_equal(ops.default_boxes(*case, **arguments), reference.default_boxes(*case, **arguments))


def test_grid_anchors_equal_torchvision_and_reference() -> None:
    utils = pytest.importorskip("torchvision.models.detection.anchor_utils")
    sizes, ratios = ((32, 45.3), (64,), (7, 9, 11)), ((0.5, 1.0, 2.0), (0.3, 1.0), (1.7,))
    features = [(25, 33), (13, 17), (1, 2)]
    strides = [(200 // h, 272 // w) for h, w in features]
    ours = ops.grid_anchors(features, strides, sizes, ratios)
    np.testing.assert_array_equal(ours, torchvision_boxes(utils.AnchorGenerator(sizes, ratios), (200, 272), features))
    np.testing.assert_array_equal(ours, reference.grid_anchors(features, strides, sizes, ratios))


def test_no_maps_give_no_anchors() -> None:
    assert ops.default_boxes((300, 300), [], [], scales=[1.0]).shape == (0, 4)
    assert ops.grid_anchors([], [], [], []).shape == (0, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.multibox_prior((2,), [1], [1]), r"\[multibox_prior\] feature_size: expected two whole"),
        (lambda: ops.multibox_prior((2, -1), [1], [1]), r"\[multibox_prior\] feature_size: expected two whole"),
        (lambda: ops.multibox_prior((2, 2.5), [1], [1]), r"\[multibox_prior\] feature_size: expected two whole"),
        (lambda: ops.multibox_prior((2, 2), [], [1]), r"\[multibox_prior\] sizes: expected positive numbers"),
        (lambda: ops.multibox_prior((2, 2), [1], [0]), r"\[multibox_prior\] ratios: expected positive numbers"),
        (lambda: ops.multibox_prior((2, 2), [np.nan], [1]), r"\[multibox_prior\] sizes: expected positive numbers"),
        (lambda: ops.default_boxes((9, 9), [(1, 1)], []), r"\[default_boxes\] aspect_ratios: expected one list"),
        (lambda: ops.default_boxes((9, 9), [(1, 1)], [[]], scales=[1]), r"\[default_boxes\] scales: expected 2, got 1"),
        (lambda: ops.default_boxes((9, 9), [(1, 1)], [[]], steps=[1, 2]), r"\[default_boxes\] steps: expected 1, got"),
        (lambda: ops.default_boxes((9, 9), [(1, 1)], [[-2]]), r"\[default_boxes\] aspect_ratios: expected positive"),
        (lambda: ops.default_boxes((9, 9), [(1, 1)], [[2]], steps=[0]), r"\[default_boxes\] steps: expected positive"),
        (lambda: ops.grid_anchors([(1, 1)], [], [[1]], [[1]]), r"\[grid_anchors\] strides: expected one entry"),
        (lambda: ops.grid_anchors([(1, 1)], [(1, 1)], [[0]], [[1]]), r"\[grid_anchors\] sizes: expected positive"),
    ],
)
def test_anchors_refuse(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        call()
