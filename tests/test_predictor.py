import gc
import io
import random
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stub
import visdeploy as vd
from conftest import ENGINES
from visdeploy import image, tolerance
from visdeploy.errors import EngineError, InputError
from visdeploy.predictor import Predictor
from visdeploy.types import Result

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(engine: str, binary_bundle: Path) -> Iterator[Predictor]:
    with vd.load(binary_bundle, engine=engine) as opened:
        yield opened


def classes(result: Result) -> Image:
    assert result.error is None
    assert result.masks is not None
    return result.masks.to_numpy()


def frames(count: int) -> list[Image]:
    """Images of the stub's own size, red up to another column each."""
    images = np.zeros((count, 64, 64, 3), np.uint8)
    for index, frame in enumerate(images):
        frame[:, :index] = 255
    return list(images)


def lanes() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("visdeploy-lane")]


def test_every_kind_of_source_gives_the_same_answer(model: Predictor, photos: list[Image], tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    photo = photos[0]
    path = tmp_path / "photo.png"
    image.write(path, photo)
    data = path.read_bytes()
    view = photo.repeat(2, 0).repeat(2, 1)[::2, ::2]
    view.flags.writeable = False
    reference = classes(model(photo))
    assert 0.05 < reference.mean() < 0.95
    assert reference.shape == photo.shape[:2]
    sources = [str(path), path, data, bytearray(data), memoryview(data), pil.open(path), pil.fromarray(photo), view]
    for source in [*sources, np.dstack([photo, photo[..., 0]])]:
        np.testing.assert_array_equal(classes(model(source)), reference)
    bgr = photo[..., ::-1]
    np.testing.assert_array_equal(classes(model(bgr, color="bgr")), reference)
    assert (classes(model(bgr)) != reference).any()
    gray = photo[..., 0]
    np.testing.assert_array_equal(classes(model(gray)), classes(model(np.dstack([gray] * 3))))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 3), (64, 64), (65, 1001)])
def test_any_size_is_answered_at_that_size(model: Predictor, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    result = model(pixels)
    assert result.size == size
    assert classes(result).shape == size


@pytest.mark.parametrize("bundle", ["binary_bundle", "classes_bundle"])
def test_engines_agree(bundle: str, photos: list[Image], request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(bundle)
    for photo in [*photos, photos[0][:1, :1], photos[0][:5]]:
        answers = []
        for name in ENGINES:
            with vd.load(path, engine=name) as opened:
                answers.append(classes(opened(photo)))
        for answer in answers[1:]:
            assert (answer != answers[0]).mean() <= tolerance.MASK_PIXELS["fp32"]


def test_list_gives_a_list(model: Predictor, photos: list[Image]) -> None:
    results = model(photos)
    assert [result.index for result in results] == [0, 1]
    for result, photo in zip(results, photos, strict=True):
        np.testing.assert_array_equal(classes(result), classes(model(photo)))
    assert model([]) == []


def test_stream_gives_what_calls_give(model: Predictor, photos: list[Image]) -> None:
    many = [photos[index % 2] for index in range(2 * model.spec.max_batch + 3)]
    reference = [classes(model(photo)) for photo in photos]
    for batch_size in (1, 3, 100):
        results = list(model.stream(many, batch_size=batch_size))
        assert [result.index for result in results] == list(range(len(many)))
        for result in results:
            difference = (classes(result) != reference[result.index % 2]).mean()
            assert difference <= tolerance.MASK_PIXELS["fp32"]


def test_result_is_independent_of_later_calls(model: Predictor, photos: list[Image]) -> None:
    first = model(photos[0])
    assert first.masks is not None
    logits = first.masks.logits.copy()
    for _ in range(3):
        model(photos[1])
    list(model.stream(photos * 3))
    np.testing.assert_array_equal(first.masks.logits, logits)


def test_threads_share_a_model(model: Predictor, photos: list[Image]) -> None:
    reference = [classes(model(photo)) for photo in photos]

    def run(worker: int) -> bool:
        return all(
            np.array_equal(classes(model(photos[(worker + turn) % 2])), reference[(worker + turn) % 2])
            for turn in range(8)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(4)))


def test_classes_without_background_cover_the_image(engine: str, classes_bundle: Path, photos: list[Image]) -> None:
    with vd.load(classes_bundle, engine=engine) as opened:
        result = opened(photos[0])
        assert result.masks is not None
        assert result.masks.background is None
        assert sum(result.to_dict()["masks"][k]["area"] for k in range(len(result.masks.labels))) == 75 * 101
        with pytest.raises(InputError, match="threshold: only a binary model has one"):
            opened(photos[0], threshold=0.5)


def test_threshold_moves_the_mask(photos: list[Image]) -> None:
    opened = stub.predictor()
    areas = [classes(opened(photos[0], threshold=value)).sum() for value in (0.4, 0.5, 0.6)]
    assert areas[0] > areas[1] > areas[2] > 0
    streamed = next(opened.stream([photos[0]], threshold=0.6))
    assert classes(streamed).sum() == areas[2]


def test_bad_items_leave_the_others_alone(tmp_path: Path) -> None:
    good = frames(4)
    (tmp_path / "cut.png").write_bytes(image.encode_png(good[0])[:-20])
    sources: list[Any] = [
        good[0],
        tmp_path / "missing.jpg",
        good[1],
        b"garbage",
        good[2].astype(float),
        None,
        tmp_path / "cut.png",
        good[3],
    ]
    for batch_size in (1, 2, 8):
        results = list(stub.predictor().stream(sources, batch_size=batch_size))
        assert [result.index for result in results] == list(range(8))
        bad = [result for result in results if result.error is not None]
        assert [result.index for result in bad] == [1, 3, 4, 5, 6]
        assert all(isinstance(result.error, InputError) and result.masks is None for result in bad)
        assert bad[0].source == str(tmp_path / "missing.jpg")
        assert [bad[1].source, bad[2].source] == ["bytes in memory", "ndarray in memory"]
        for index, frame in zip((0, 2, 7), (good[0], good[1], good[3]), strict=True):
            np.testing.assert_array_equal(classes(results[index]), frame[..., 0] > 127)


def test_surprise_in_one_item_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(source: Any, color: str) -> Image:
        if source == "surprise":
            raise MemoryError("no room")
        return frames(1)[0]

    monkeypatch.setattr("visdeploy.predictor.decode", decode)
    results = list(stub.predictor().stream(["a", "surprise", "b"]))
    assert [result.error is None for result in results] == [True, False, True]
    assert "MemoryError('no room')" in str(results[1].error)


@pytest.mark.parametrize(("batch_size", "tries"), [(1, [1] * 6), (2, [1, 1, 2, 2, 2]), (6, [1] * 6 + [6])])
@pytest.mark.parametrize("error", [EngineError("out of memory"), RuntimeError("out of memory")])
def test_image_that_fails_its_batch_fails_alone(
    batch_size: int, tries: list[int], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = stub.predictor()
    infer = opened.engine.infer

    def fail_on_third(images: Image, alone: bool) -> NDArray[np.float32]:
        logits = infer(images, alone=alone)
        if (images == frames(3)[2]).all((1, 2, 3)).any():
            raise error
        return logits

    monkeypatch.setattr(opened.engine, "infer", fail_on_third)
    results = list(opened.stream(frames(6), batch_size=batch_size))
    assert [result.index for result in results if result.error is not None] == [2]
    assert [result.index for result in results] == list(range(6))
    assert sorted(opened.engine.batches) == tries
    assert isinstance(results[2].error, EngineError)
    assert "out of memory" in str(results[2].error)


def test_error_that_is_kept_keeps_no_image() -> None:
    kept = []

    def fail() -> None:
        raise RuntimeError("no")

    opened = stub.predictor(fail)
    for frame in frames(3):
        kept.append(weakref.ref(frame))
        results = list(opened.stream(iter([frame]), batch_size=1))
        assert results[0].error is not None
    del frame
    assert results
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_batches_hold_neighbours_of_one_size_up_to_the_limit() -> None:
    opened = stub.predictor(max_batch=3, resize="native")
    wide = np.zeros((64, 96, 3), np.uint8)
    results = list(opened.stream([*frames(5), wide, wide, b"", *frames(2)], batch_size=50))
    assert [result.index for result in results if result.error is not None] == [7]
    assert sorted(opened.engine.batches) == [1, 1, 1, 1, 2, 3]


def test_engine_chooses_the_batch() -> None:
    opened = stub.predictor()
    list(opened.stream(frames(4)))
    assert opened.engine.batches == [1] * 4
    opened.engine.preferred_batch = 2
    list(opened.stream(frames(4)))
    assert opened.engine.batches == [1] * 4 + [2] * 2


def test_stream_reads_only_as_far_as_needed_and_keeps_nothing() -> None:
    read = 0
    given: list[weakref.ref[Any]] = []

    def source() -> Iterator[Image]:
        nonlocal read
        for frame in frames(64):
            read += 1
            yield frame

    stream = stub.predictor().stream(source(), batch_size=2)
    assert read == 0
    for answered, result in enumerate(stream, 1):
        assert result.image is not None
        given.append(weakref.ref(result))
        assert read - answered <= 9
        assert sum(ref() is not None for ref in given) <= 3  # this one, the one before, and its neighbour
        if answered == 30:
            time.sleep(0.1)
            assert read - answered <= 9
    assert read == answered == 64


def test_order_is_kept_whatever_each_image_takes() -> None:
    rng = random.Random(0)
    opened = stub.predictor(lambda: time.sleep(rng.choice([0, 0.001, 0.005])))
    for batch_size in (1, 3):
        results = list(opened.stream(frames(60), batch_size=batch_size))
        assert [result.index for result in results] == list(range(60))
        for result, frame in zip(results, frames(60), strict=True):
            np.testing.assert_array_equal(classes(result), frame[..., 0] > 127)


def test_stream_shares_the_cores_and_a_call_takes_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stub.predictor()
    infer, seen = opened.engine.infer, []

    def watch(images: Image, *, alone: bool = True) -> NDArray[np.float32]:
        seen.append((alone, threading.current_thread().name[:14]))
        return infer(images, alone=alone)

    monkeypatch.setattr(opened.engine, "infer", watch)
    list(opened.stream(frames(3)))
    opened(frames(1)[0])
    assert seen[:3] == [(False, "visdeploy-lane")] * 3
    assert seen[3] == (True, threading.current_thread().name[:14])


def test_folder_is_a_stream_of_its_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp"):
        image.write(tmp_path / name, frames(1)[0])
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, str(tmp_path)):
        results = list(stub.predictor().stream(folder))
        assert [Path(result.source).name for result in results] == ["a.JPG", "b.png", "c.webp"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        stub.predictor().stream(tmp_path / "empty")


def test_reused_buffer_gives_every_frame_its_own_answer() -> None:
    buffer = np.zeros((64, 64, 3), np.uint8)

    def camera() -> Iterator[Image]:
        for frame in frames(20):
            buffer[:] = frame
            yield buffer

    for result, frame in zip(stub.predictor().stream(camera()), frames(20), strict=True):
        np.testing.assert_array_equal(classes(result), frame[..., 0] > 127)
        np.testing.assert_array_equal(result.image, frame)


def test_result_keeps_its_image_when_the_caller_changes_the_array() -> None:
    frame = frames(9)[8]
    result = stub.predictor()(frame)
    before = result.plot().array
    frame[:] = 77
    np.testing.assert_array_equal(result.plot().array, before)


def test_what_came_before_a_failing_source_is_answered() -> None:
    def source() -> Iterator[Image]:
        yield from frames(5)
        raise ConnectionError("camera lost")

    stream = stub.predictor().stream(source(), batch_size=2)
    assert [next(stream).index for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ConnectionError, match="camera lost"):
        next(stream)


def test_leaving_early_leaves_no_thread() -> None:
    opened = stub.predictor()
    for result in opened.stream(frames(40), batch_size=2):
        if result.index == 3:
            assert lanes()
            break
    assert not lanes()
    stream = opened.stream(frames(40))
    next(stream)
    stream.close()
    assert not lanes()


def test_empty_stream_is_empty() -> None:
    assert list(stub.predictor().stream([])) == []
    assert list(stub.predictor().stream(iter(()))) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size: expected a whole number of at least 1, got 1.5"),
        ({"batch_size": "4"}, "batch_size: expected a whole number of at least 1, got '4'"),
        ({"color": "rbg"}, "color: expected rgb or bgr, got 'rbg'"),
        ({"threshold": 1.5}, "threshold: expected a probability between 0 and 1, got 1.5"),
        ({"threshold": float("nan")}, "threshold: expected a probability"),
        ({"images": "photo.jpg"}, "images: expected several images, got a single str, and 'photo.jpg' does not exist"),
        ({"images": Path("photo.jpg")}, "images: expected several images, got a single PosixPath"),
        ({"images": b"\xff\xd8"}, "images: expected several images, got a single bytes"),
        ({"images": frames(1)[0]}, "images: expected several images, got a single ndarray"),
        ({"images": 5}, "images: expected several images, got 5"),
        ({"images": None}, "images: expected several images, got None"),
    ],
)
def test_wrong_argument_is_refused_before_anything_runs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stub.predictor().stream(**{"images": frames(1)} | arguments)


def test_array_of_images_is_a_stream() -> None:
    assert len(list(stub.predictor().stream(np.stack(frames(3))))) == 3


@pytest.mark.parametrize("source", ["missing.jpg", b"garbage", b"", None, 3, np.zeros((4, 4, 3)), np.zeros((0, 4, 3))])
def test_call_raises_on_a_bad_image(source: Any) -> None:
    with pytest.raises(InputError, match=r"^\[decode\]"):
        stub.predictor()(source)


def test_closed_model_says_so(engine: str, binary_bundle: Path, photos: list[Image]) -> None:
    with vd.load(binary_bundle, engine=engine) as opened:
        stream = opened.stream(photos * 20, batch_size=1)
        next(stream)
        batch = opened.stream(photos[:1] * 4, batch_size=4)
        next(batch)
    for use in (lambda: opened(photos[0]), lambda: opened.stream(photos), lambda: next(stream), lambda: next(batch)):
        with pytest.raises(InputError, match="the model was closed; load it again"):
            use()
    opened.close()
    assert not lanes()


def test_engine_is_closed_once_and_only_when_nobody_uses_it() -> None:
    running, go = threading.Event(), threading.Event()

    def wait() -> None:
        running.set()
        go.wait(30)

    opened = stub.predictor(wait)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(opened, frames(9)[8])
        running.wait(30)
        opened.close()
        assert opened.engine.closed == 0
        with pytest.raises(InputError, match="the model was closed"):
            opened(frames(1)[0])
        go.set()
        assert classes(answer.result()).sum() == 64 * 8
    assert opened.engine.closed == 1
    opened.close()
    assert opened.engine.closed == 1


def test_engine_that_answers_nonsense_is_an_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stub.predictor()
    for shape in [(2, 1, 64, 64), (64, 64), (0,)]:
        monkeypatch.setattr(opened.engine, "infer", lambda images, alone, shape=shape: np.zeros(shape, np.float32))
        with pytest.raises(EngineError, match="stub answered a batch of 1 with the shape"):
            opened(frames(1)[0])


def test_timings_are_filled(photos: list[Image]) -> None:
    timings = stub.predictor()(image.encode_png(photos[0])).timings
    stages = (timings.decode_ms, timings.resize_ms, timings.infer_ms, timings.postprocess_ms)
    assert all(stage > 0 for stage in stages)
    assert timings.total_ms == pytest.approx(sum(stages))


def test_exif_turned_photo_is_answered_upright(photos: list[Image]) -> None:
    pil = pytest.importorskip("PIL.Image")
    exif = pil.Exif()
    exif[0x0112] = 6
    pil.fromarray(photos[0]).save(buffer := io.BytesIO(), "PNG", exif=exif)
    upright = stub.predictor()(np.rot90(photos[0], -1))
    np.testing.assert_array_equal(classes(stub.predictor()(buffer.getvalue())), classes(upright))


@pytest.mark.realdata
def test_folder_of_good_and_bad_photos(data_dir: Path, binary_bundle: Path) -> None:
    paths = sorted(path for path in (data_dir / "photos").iterdir() if path.suffix not in (".csv", ".md"))
    with vd.load(binary_bundle) as opened:
        results = list(opened.stream(paths))
    assert [result.source for result in results] == [str(path) for path in paths]
    bad = {Path(result.source).name for result in results if isinstance(result.error, InputError)}
    assert bad >= {"bomb_dims.gif", "broken_header.png", "truncated.png", "truncated_progressive.jpg"}
    assert not bad & {"cmyk_adobe.jpg", "gray_128.jpg", "rgb16_100x40.tif", "palette_trns_single.png", "truck.jpg"}
    for result in results:
        assert (result.masks is None) == (Path(result.source).name in bad)
        if result.masks is not None:
            assert result.masks.to_numpy().shape == result.size


@pytest.mark.parametrize("wrong", [{"path": None}, {"path": b"x.vdz"}, {"engine": None}, {"precision": 32}])
def test_wrong_arguments_of_load_are_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=rf"\[load\] {name}: expected "):
        vd.load(**{"path": "x.vdz", **wrong})
