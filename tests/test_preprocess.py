import sys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cuda_arrays
from visdeploy import reference, tolerance
from visdeploy.preprocess import prepare
from visdeploy.spec import Spec

SIZES = [(1, 1), (1, 2), (33, 17), (63, 65), (64, 64), (64, 96), (65, 130), (1, 3000), (3000, 1), (301, 97)]


def spec(**changes: Any) -> Spec:
    return Spec.parse(
        {"task": "segmentation", "labels": ["car"], "size": (64, 96), "mean": 0.5, "std": 0.5, "pad_value": 7} | changes
    )


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if size[0] <= image.shape[0] and size[1] <= image.shape[1]:
        return reference.letterbox(image, size, interpolation="area")
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("size", SIZES)
def test_stretch_fills_the_network_input(size: tuple[int, int]) -> None:
    image = noise(*size)
    prepared = prepare(image, spec())
    assert prepared.pixels.shape == (64, 96, 3)
    assert (prepared.valid, prepared.source_size) == ((64, 96), size)
    np.testing.assert_array_equal(prepared.pixels, resized(image, (64, 96)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 96), (64, 96)),
        ((32, 48), (64, 96)),
        ((128, 96), (64, 48)),
        ((100, 300), (32, 96)),
        ((99, 101), (64, 65)),
        ((1, 1), (64, 64)),
        ((1, 3000), (1, 96)),
        ((3000, 1), (64, 1)),
    ],
)
def test_letterbox_keeps_the_aspect_and_pads_right_and_bottom(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = noise(*size)
    prepared = prepare(image, spec(resize="letterbox"))
    height, width = prepared.valid
    assert (height, width) == expected
    assert prepared.pixels.shape == (64, 96, 3)
    np.testing.assert_array_equal(prepared.pixels[:height, :width], resized(image, expected))
    assert (prepared.pixels[height:] == 7).all()
    assert (prepared.pixels[:, width:] == 7).all()


@pytest.mark.parametrize("size", SIZES)
def test_native_only_pads(size: tuple[int, int]) -> None:
    image = noise(*size)
    prepared = prepare(image, spec(resize="native", divisor=32))
    height, width = size
    padded = prepared.pixels.shape[:2]
    assert all(side % 32 == 0 and 0 <= side - own < 32 for side, own in zip(padded, size, strict=True))
    assert prepared.valid == prepared.source_size == size
    np.testing.assert_array_equal(prepared.pixels[:height, :width], image)
    assert (prepared.pixels[height:] == 7).all()
    assert (prepared.pixels[:, width:] == 7).all()


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["stretch", "letterbox", "native"]))
@settings(max_examples=60, deadline=None)
def test_geometry_of_any_size(height: int, width: int, mode: str) -> None:
    prepared = prepare(np.zeros((height, width, 3), np.uint8), spec(resize=mode))
    rows, columns = prepared.valid
    assert 1 <= rows <= prepared.pixels.shape[0]
    assert 1 <= columns <= prepared.pixels.shape[1]
    if mode == "letterbox":
        assert rows == 64 or columns == 96
        scale = min(64 / height, 96 / width)
        assert abs(rows - max(1, height * scale)) <= 0.5
        assert abs(columns - max(1, width * scale)) <= 0.5


@pytest.mark.parametrize(
    ("size", "changes", "method"),
    [
        ((130, 200), {}, cv2.INTER_AREA),
        ((64, 200), {}, cv2.INTER_AREA),
        ((63, 200), {}, cv2.INTER_LINEAR),
        ((200, 95), {}, cv2.INTER_LINEAR),
        ((20, 30), {}, cv2.INTER_LINEAR),
        ((130, 200), {"antialias": False}, cv2.INTER_LINEAR),
        ((130, 200), {"interpolation": "nearest"}, cv2.INTER_NEAREST),
        ((20, 30), {"interpolation": "nearest"}, cv2.INTER_NEAREST),
    ],
)
def test_areas_are_averaged_only_where_neither_axis_grows(
    size: tuple[int, int], changes: dict[str, Any], method: int
) -> None:
    image = noise(*size)
    expected = cv2.resize(image, (96, 64), interpolation=method).astype(int)
    levels = tolerance.LETTERBOX_LEVELS if method == cv2.INTER_AREA else 0
    assert np.abs(prepare(image, spec(**changes)).pixels - expected).max() <= levels


def test_same_size_is_left_alone() -> None:
    image = noise(64, 96)
    assert prepare(image, spec()).pixels is image


@pytest.mark.skipif(not list(cuda_arrays.FOLDER.glob("_core*.so")), reason="the kernels are not built for the CPU")
@pytest.mark.parametrize("changes", [{}, {"antialias": False}, {"interpolation": "nearest"}])
@pytest.mark.parametrize("mode", ["stretch", "letterbox", "native"])
@pytest.mark.parametrize("size", [(1, 1), (33, 17), (64, 96), (65, 130), (301, 97)])
def test_images_on_a_device_stay_there_and_become_the_same(
    size: tuple[int, int], mode: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = cuda_arrays.core()
    monkeypatch.setattr(sys.modules["visdeploy.ops.letterbox"], "_core", core)
    image, options = noise(*size), spec(resize=mode, divisor=32, **changes)
    ours, expected = prepare(core.DeviceArray(image), options), prepare(image, options)
    assert type(ours.pixels) is core.DeviceArray
    assert (ours.valid, ours.source_size) == (expected.valid, expected.source_size)
    pixels = ours.pixels.numpy()
    assert pixels.dtype == np.uint8
    grows = expected.valid[0] > size[0] or expected.valid[1] > size[1]
    bilinear = options.interpolation == "bilinear" and (grows or not options.antialias)
    levels = tolerance.LETTERBOX_LEVELS if bilinear else 0
    assert np.abs(pixels.astype(int) - expected.pixels).max() <= levels
