from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdeploy import ops, reference, tolerance
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("implementation")

METHODS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
SIZES = [(1, 1), (1, 2), (2, 1), (3, 5), (16, 16), (31, 33), (64, 127), (128, 65), (7, 200), (90, 60)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


def check(image: np.ndarray, size: tuple[int, int], interpolation: Any) -> None:
    ours = ops.letterbox(image, size, interpolation=interpolation)
    np.testing.assert_array_equal(ours, reference.letterbox(image, size, interpolation=interpolation))
    theirs = cv2.resize(image, size[::-1], interpolation=METHODS[interpolation]).astype(int)
    levels = 0 if interpolation == "nearest" else tolerance.LETTERBOX_LEVELS
    assert np.abs(ours - theirs).max() <= levels


@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_equals_opencv(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = noise(*before)
    for interpolation in ("nearest", "bilinear"):
        check(image, after, interpolation)
    check(image, (min(before[0], after[0]), min(before[1], after[1])), "area")


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_equals_opencv_at_any_size(height: int, width: int, rows: int, columns: int) -> None:
    image = noise(height, width)
    for interpolation in ("nearest", "bilinear"):
        check(image, (rows, columns), interpolation)
    check(image, (min(rows, height), min(columns, width)), "area")


def test_nearest_is_opencvs_pixel_at_every_scale() -> None:
    for before in range(1, 130):
        image = noise(1, before)
        for after in range(1, 130, 3):
            expected = cv2.resize(image, (after, 1), interpolation=cv2.INTER_NEAREST)
            rows = reference.letterbox(image, (1, after), interpolation="nearest")
            np.testing.assert_array_equal(rows, expected)
        check(image, (1, 257), "nearest")


@pytest.mark.parametrize("interpolation", METHODS)
@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_one_colour_stays(level: int, interpolation: Any) -> None:
    image = np.full((65, 43, 3), level, np.uint8)
    assert (ops.letterbox(image, (33, 17), interpolation=interpolation) == level).all()


def test_padding() -> None:
    image = noise(20, 30)
    expected = np.full((32, 33, 3), 114)
    expected[:10, :15] = ops.letterbox(image, (10, 15), interpolation="area")
    ours = ops.letterbox(image, (10, 15), (32, 33), interpolation="area", pad_value=114)
    np.testing.assert_array_equal(ours, expected)
    assert ours.dtype == np.uint8
    floats = ops.letterbox(image, (10, 15), (32, 33), interpolation="area", pad_value=114, dtype="float32")
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats, expected)


@pytest.mark.parametrize("interpolation", METHODS)
def test_any_layout(interpolation: Any) -> None:
    image = noise(40, 50)
    expected = ops.letterbox(image[4:33, ::-1, ::-1].copy(), (13, 21), interpolation=interpolation)
    for view in (
        image[4:33, ::-1, ::-1],
        np.asfortranarray(image)[4:33, ::-1, ::-1],
        np.repeat(image, 2, axis=1)[4:33, ::-2, ::-1],
    ):
        np.testing.assert_array_equal(ops.letterbox(view, (13, 21), interpolation=interpolation), expected)


IMAGE = np.zeros((8, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.letterbox(IMAGE[..., 0], (4, 4)), r"^\[letterbox\] image: expected \(H, W, 3\) .* got \(8, 9\)$"),
        (lambda: ops.letterbox(IMAGE[:0], (4, 4)), r"^\[letterbox\] image: expected .* got \(0, 9, 3\)$"),
        (lambda: ops.letterbox(IMAGE > 0, (4, 4)), r"^\[letterbox\] image: expected uint8, got bool$"),
        (
            lambda: ops.letterbox(IMAGE, (0, 4)),
            r"^\[letterbox\] valid: expected sides from 1 to 8388608, got \(0, 4\)$",
        ),
        (lambda: ops.letterbox(IMAGE, (4, 2**40)), r"^\[letterbox\] valid: expected sides from 1 to 8388608"),
        (lambda: ops.letterbox(IMAGE, (4, 4), (4, 3)), r"^\[letterbox\] size: expected at least \(4, 4\) .* \(4, 3\)$"),
        (
            lambda: ops.letterbox(IMAGE, (9, 9), interpolation="area"),
            r"only where no side grows, got \(8, 9\) to \(9, 9",
        ),
        (lambda: ops.letterbox(IMAGE, (4, 4), interpolation="cubic"), r'interpolation: expected .* got "cubic"$'),  # type: ignore[arg-type]
        (lambda: ops.letterbox(IMAGE, (4, 4), pad_value=256), r"^\[letterbox\] pad_value: expected 0 to 255, got 256$"),
        (lambda: ops.letterbox(IMAGE, (4, 4), dtype="int8"), r'^\[letterbox\] dtype: expected .* got "int8"$'),  # type: ignore[arg-type]
    ],
)
def test_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
