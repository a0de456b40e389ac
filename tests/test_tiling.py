"""Images larger than the network: windows, their blend, and what becomes of it."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import stub
import visdeploy as vd
from visdeploy import tiling
from visdeploy.errors import EngineError, InputError
from visdeploy.postprocess import find_masks, find_tiled_masks
from visdeploy.preprocess import prepare
from visdeploy.spec import Manifest, Spec

SIZES = [(1, 1), (32, 48), (31, 200), (200, 47), (33, 49), (64, 96), (100, 117), (161, 145)]
Planes = NDArray[np.float32]


def spec(labels: int = 1, **changes: Any) -> Manifest:
    names = ["car"] if labels == 1 else [f"class {index}" for index in range(labels)]
    given = {"task": "segmentation", "labels": names, "size": (32, 48), "divisor": 16, "mean": 0.5, "std": 0.5}
    return Manifest.parse(given | {"resize": "tile"} | ({} if labels == 1 else {"activation": "softmax"}) | changes)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


def network(channels: int, stride: int = 1) -> Callable[[NDArray[np.uint8]], Planes]:
    """Answers that depend on where in its window a pixel lies, so that windows contradict each other."""

    def infer(images: NDArray[np.uint8]) -> Planes:
        x = images.astype(np.float32)[:, ::stride, ::stride] / 64
        y = np.linspace(-1, 1, x.shape[1], dtype=np.float32)[:, None] * np.linspace(0, 3, x.shape[2], dtype=np.float32)
        return np.stack([x[..., k % 3] * (1 + k) - 2 * k + y for k in range(channels)], 1)

    return infer


def blended(pixels: NDArray[np.uint8], infer: Callable[[NDArray[np.uint8]], Planes], given: Spec) -> NDArray[Any]:
    """What `tiling.answer` must be: every window added to the whole image, in double precision."""
    (height, width), (window_height, window_width) = pixels.shape[:2], given.size

    def starts(length: int, window: int) -> list[int]:
        found = [0]
        while found[-1] + window < length:
            found.append(min(found[-1] + round(window * (1 - given.tile_overlap)), length - window))
        return found

    bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in given.size]
    weight = np.multiply.outer(*bells)
    total, weights = 0.0, np.zeros((height, width))
    for top in starts(height, window_height):
        for left in starts(width, window_width):
            part = np.s_[top : top + window_height, left : left + window_width]
            answer = infer(pixels[part][None])[0]
            planes = np.stack([cv2.resize(plane, (window_width, window_height)) for plane in answer])
            one = np.zeros((len(planes), height, width))
            one[:, *part] = planes * weight
            ones = np.zeros((height, width))
            ones[part] = weight
            total, weights = total + one, weights + ones
    return total / weights


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("stride", [1, 4])
def test_logits_are_the_weighted_mean_of_all_windows(size: tuple[int, int], overlap: float, stride: int) -> None:
    given = spec(3, tile_overlap=overlap)
    pixels = prepare(noise(*size), given).pixels
    ours, expected = tiling.answer(network(3, stride), pixels, given), blended(pixels, network(3, stride), given)
    assert ours.dtype == np.float32
    assert ours.shape == (3, *pixels.shape[:2])
    assert np.abs(ours - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("labels", [1, 4])
def test_masks_are_those_of_the_whole_blend(size: tuple[int, int], labels: int) -> None:
    given = spec(labels)
    infer, prepared = network(labels), prepare(noise(*size), given)
    whole = find_masks(tiling.answer(infer, prepared.pixels, given), prepared, given)
    answers = (infer(window[None])[0] for window in tiling.windows(prepared.pixels, given))
    ours = find_tiled_masks(tiling.blend(answers, prepared.pixels.shape[:2], given), prepared, given)
    assert ours.size == size
    assert ours.labels.tolist() == whole.labels.tolist()
    assert ours.rle == whole.rle


def test_image_that_fits_a_window_is_answered_as_it_is() -> None:
    for size in [(32, 48), (20, 48), (7, 9)]:
        given = spec(pad_value=9)
        prepared = prepare(noise(*size), given)
        assert prepared.pixels.shape == (32, 48, 3)
        assert (prepared.valid, prepared.source_size) == (size, size)
        np.testing.assert_array_equal(prepared.pixels[: size[0], : size[1]], noise(*size))
        assert (prepared.pixels[size[0] :] == 9).all()
        assert (prepared.pixels[:, size[1] :] == 9).all()
        infer = network(1)
        np.testing.assert_array_equal(tiling.answer(infer, prepared.pixels, given), infer(prepared.pixels[None])[0])


def test_other_modes_have_one_window() -> None:
    for mode in ("stretch", "letterbox", "native"):
        given = spec(resize=mode)
        prepared = prepare(noise(64, 96), given)
        (window,) = tiling.windows(prepared.pixels, given)
        assert window is prepared.pixels


@pytest.mark.parametrize("size", [(300, 290), (64, 64), (50, 200)])
@pytest.mark.parametrize("labels", [["car"], ["red", "green", "blue"]])
def test_call_and_stream_answer_in_tiles(size: tuple[int, int], labels: list[str]) -> None:
    photo = cv2.GaussianBlur(noise(*size), (0, 0), 4)
    photo = ((photo.astype(int) - 127) * 5 + 127).clip(0, 255).astype(np.uint8)
    model = stub.predictor(labels=labels, resize="tile")
    # The stub answers each pixel by its colour, whatever is around it, so tiles change nothing.
    expected = photo.argmax(-1) if len(labels) == 3 else photo[..., 0] > 127
    sure = np.ones(size, bool) if len(labels) == 1 else np.ptp(np.sort(photo, -1)[..., 1:].astype(int), -1) > 0
    called, *streamed = [model(photo), *model.stream([photo] * 5)]
    assert set(model.engine.batches) == {1}
    assert model.engine.alone == (size == model.spec.size)
    for result in (called, *streamed):
        assert result.masks is not None
        np.testing.assert_array_equal(result.masks.to_numpy()[sure], expected[sure])
        assert result.masks.rle == called.masks.rle
        assert min(result.timings.infer_ms, result.timings.postprocess_ms) > 0
    if len(labels) == 1:
        np.testing.assert_allclose(called.masks.probability(), 1 / (1 + np.exp(0.5 - photo[..., 0] / 255)), atol=1e-6)
        moved = model(photo, threshold=0.6).masks.to_numpy()
        np.testing.assert_array_equal(moved, photo[..., 0] / 255 - 0.5 > np.log(1.5))
    elif size == model.spec.size:
        assert called.masks.probability().shape == (3, *size)
    else:
        with pytest.raises(InputError, match="expected an image answered at once"):
            called.masks.probability()


def test_failing_tile_fails_its_image_alone() -> None:
    calls = 0

    def fail_fourth() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise EngineError("out of memory")

    model = stub.predictor(fail_fourth, resize="tile")
    model.engine.lanes = 1
    results = list(model.stream([noise(100, 100)] * 3))
    assert [result.error is None for result in results] == [False, True, True]
    calls = 0
    with pytest.raises(EngineError, match="out of memory"):
        model(noise(200, 200))


def test_wrong_number_of_channels_is_an_engine_error() -> None:
    model = stub.predictor(resize="tile")
    model.engine.channels = 3
    with pytest.raises(EngineError, match="answered with 3 channels, its spec says 1"):
        model(noise(100, 100))


def test_memory_is_that_of_a_band_of_rows() -> None:
    """Twelve classes of a high image: its logits would take 47 MB, a band of 64 rows takes 1."""
    given = spec(12, size=64)
    infer, prepared = network(12), prepare(np.zeros((3000, 320, 3), np.uint8), given)
    answers = (infer(window[None])[0] for window in tiling.windows(prepared.pixels, given))
    tracemalloc.start()
    try:
        find_tiled_masks(tiling.blend(answers, (3000, 320), given), prepared, given)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6


@pytest.mark.parametrize("labels", [1, 4])
def test_bundle_in_tiles_proves_itself_on_every_engine(engine: str, labels: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from nets import ConvNet
    from visdeploy import export

    path, photo = tmp_path / "tiles.vdz", cv2.GaussianBlur(noise(100, 130), (0, 0), 3)
    report = export.export(ConvNet(labels, stride=4), path, spec=spec(labels), golden=[photo, photo[:20, :30]])
    assert report.ok
    with vd.load(path, engine=engine) as model:
        assert model.verify().ok
        called, (streamed,) = model(photo), model.stream([photo])
        assert called.masks.to_numpy().shape == (100, 130)
        assert (called.masks.to_numpy() != streamed.masks.to_numpy()).mean() < 1e-3


@pytest.mark.parametrize("overlap", [-0.1, 0.8, float("nan")])
def test_overlap_out_of_range_is_refused(overlap: float) -> None:
    with pytest.raises(InputError, match="tile_overlap"):
        spec(tile_overlap=overlap)


def test_windows_are_multiples_of_the_divisor() -> None:
    with pytest.raises(InputError, match="size: height and width must be multiples of 16"):
        spec(size=(40, 48))


def test_calibration_takes_windows_from_all_over_the_images() -> None:
    pytest.importorskip("torch")
    from visdeploy.calibration import prepare_images

    photo = noise(120, 160)
    given = spec(size=32)
    seen = prepare_images([photo] * 9, given, 9).pixels
    possible = {window.tobytes() for window in tiling.windows(photo, given)}
    assert {pixels.shape for pixels in seen} == {(32, 32, 3)}
    assert {pixels.tobytes() for pixels in seen} <= possible
    assert len({pixels.tobytes() for pixels in seen}) == 9
