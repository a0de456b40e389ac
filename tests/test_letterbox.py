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


@pytest.mark.parametrize("size", [(13, 21), (2, 3), (29, 50)])
@pytest.mark.parametrize("interpolation", METHODS)
def test_any_layout(interpolation: Any, size: tuple[int, int]) -> None:
    image = noise(40, 50)
    expected = reference.letterbox(image[4:33, ::-1, ::-1], size, interpolation=interpolation)
    read_only = image[4:33, ::-1, ::-1].copy()
    read_only.flags.writeable = False
    for view in (
        read_only,
        image[4:33, ::-1, ::-1],
        image[::-1][7:36][::-1, ::-1, ::-1],
        np.asfortranarray(image)[4:33, ::-1, ::-1],
        np.repeat(image, 2, axis=1)[4:33, ::-2, ::-1],
    ):
        np.testing.assert_array_equal(ops.letterbox(view, size, interpolation=interpolation), expected)


# Around the totals up to which the means are computed in float, and the sums of rows.
@pytest.mark.parametrize("level", [128, 254])
@pytest.mark.parametrize("pixels", [2, 3, 16383, 16384, 16385, 40000, 50001, 60001, 65793, 65794, 2**20 - 1, 2**20])
def test_means_are_rounded_half_up(pixels: int, level: int) -> None:
    for brighter, expected in ((pixels // 2 + pixels % 2, level + 1), ((pixels - 1) // 2, level)):
        row = np.full((1, pixels, 3), level, np.uint8)
        row[0, :brighter] = level + 1
        for image in (row, row.transpose(1, 0, 2)):
            assert (ops.letterbox(image, (1, 1), interpolation="area") == expected).all()


@pytest.mark.parametrize(
    ("before", "after", "interpolation"),
    [
        ((128, 129), (1, 1), "area"),
        ((131, 127), (7, 126), "area"),
        ((509, 251), (256, 100), "area"),
        ((66001, 3), (5, 2), "area"),
        ((3, 66001), (2, 5), "area"),
        ((3, 2), (300001, 1), "bilinear"),
        ((2, 3), (1, 300001), "bilinear"),
        ((2, 3), (127, 65), "bilinear"),
        ((400, 7), (9, 300), "bilinear"),
    ],
)
def test_large_weights(before: tuple[int, int], after: tuple[int, int], interpolation: Any) -> None:
    image = noise(*before)
    expected = reference.letterbox(image, after, interpolation=interpolation)
    np.testing.assert_array_equal(ops.letterbox(image, after, interpolation=interpolation), expected)


IMAGE = np.zeros((8, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.letterbox(IMAGE[..., 0], (4, 4)), r"^\[letterbox\] image: expected \(H, W, 3\) .* got \(8, 9\)$"),
        (lambda: ops.letterbox(IMAGE[:0], (4, 4)), r"^\[letterbox\] image: expected .* got \(0, 9, 3\)$"),
        (lambda: ops.letterbox(IMAGE > 0, (4, 4)), r"^\[letterbox\] image: expected uint8, got bool$"),
        (
            lambda: ops.letterbox(IMAGE, (0, 4)),
            r"^\[letterbox\] valid: expected sides from 1 to 1048576, got \(0, 4\)$",
        ),
        (lambda: ops.letterbox(IMAGE, (4, 2**40)), r"^\[letterbox\] valid: expected sides from 1 to 1048576"),
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
