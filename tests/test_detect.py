import types
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visdeploy import _core, ops, reference, tolerance
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("implementation")

SIZE = (240, 300)


def case(images: int, n: int, classes: int, *, confident: int | None = None, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Logits, offsets and anchors: noise in which all may pass, or mostly background with a few objects."""
    rng = np.random.default_rng([images, n, classes, seed])
    logits = rng.normal(0, 1.5, (images, n, classes)).astype(np.float32)
    if confident is not None and n:
        logits[..., 0] += 12
        for image in range(images):
            anchors = rng.integers(0, n, confident)
            logits[image, anchors, rng.integers(1, classes, confident)] += 14
    corner, side = rng.uniform(-20, 280, (n, 2)), rng.uniform(5, 120, (n, 2))
    anchors = np.concatenate([corner, corner + side], 1).astype(np.float32)
    return logits, rng.normal(0, 1, (images, n, 4)).astype(np.float32), anchors


def assert_same(ours: Any, expected: Any) -> None:
    """Same labels in the same order; scores and boxes within the table's tolerance."""
    assert len(ours) == len(expected)
    for found, (boxes, scores, labels) in zip(ours, expected, strict=True):
        got = [np.asarray(x) for x in (found.boxes, found.scores, found.labels)]
        assert [x.dtype for x in got] == [np.float32, np.float32, np.int64]
        assert got[0].shape == (len(scores), 4)
        np.testing.assert_array_equal(got[2], labels)
        np.testing.assert_allclose(got[1], scores, rtol=0, atol=tolerance.SCORES)
        np.testing.assert_allclose(got[0], boxes, rtol=0, atol=tolerance.BOXES * max(SIZE))


@pytest.mark.parametrize("mode", ["exact", "torchvision"])
@pytest.mark.parametrize("confident", [None, 5])
@pytest.mark.parametrize(("n", "classes"), [(0, 3), (1, 2), (7, 2), (16, 16), (17, 17), (33, 18), (100, 5), (400, 21)])
def test_detect_equals_reference(n: int, classes: int, confident: int | None, mode: str) -> None:
    logits, offsets, anchors = case(2, n, classes, confident=confident)
    expected = reference.detect(logits, offsets, anchors, image_size=SIZE, mode=mode)
    assert_same(ops.detect(logits, offsets, anchors, image_size=SIZE, mode=mode), expected)


def torchvision_ssd(arrays: tuple[np.ndarray, ...], **settings: Any) -> list[tuple[np.ndarray, ...]]:
    """What SSD.postprocess_detections answers, called on what it reads of itself."""
    torch = pytest.importorskip("torch")
    ssd = pytest.importorskip("torchvision.models.detection.ssd")
    from torchvision.models.detection._utils import BoxCoder

    model = types.SimpleNamespace(
        box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)),
        score_thresh=settings.get("score_threshold", 0.01),
        nms_thresh=settings.get("iou_threshold", 0.45),
        topk_candidates=settings.get("top_k", 400),
        detections_per_img=settings.get("max_det", 200),
    )
    logits, offsets, anchors = (torch.from_numpy(x) for x in arrays)
    found = ssd.SSD.postprocess_detections(
        model, {"cls_logits": logits, "bbox_regression": offsets}, [anchors] * len(logits), [SIZE] * len(logits)
    )
    return [tuple(x[name].numpy() for name in ("boxes", "scores", "labels")) for x in found]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"score_threshold": 0.2},
        {"iou_threshold": 0.1, "top_k": 10},
        {"max_det": 3},
        {"top_k": 1},
        {"max_det": 5000, "top_k": 5000},
        {"score_threshold": 0.0},
        {"score_threshold": -1.0, "top_k": 50},
        {"iou_threshold": 1.0},
    ],
)
@pytest.mark.parametrize("confident", [None, 12])
def test_detect_equals_torchvision(confident: int | None, settings: dict[str, Any]) -> None:
    arrays = case(2, 600, 12, confident=confident, seed=1)
    ours = ops.detect(*arrays, image_size=SIZE, mode="torchvision", **settings)
    assert_same(ours, torchvision_ssd(arrays, **settings))


@pytest.mark.parametrize("confident", [None, 30])
def test_detect_equals_torchvision_at_the_size_of_ssd300(confident: int | None) -> None:
    arrays = case(1, 8732, 91, confident=confident, seed=2)
    expected = torchvision_ssd(arrays)
    assert len(expected[0][1]) >= 30
    for threads in (1, 3):
        assert_same(ops.detect(*arrays, image_size=SIZE, num_threads=threads), expected)


def test_moved_coordinates_are_rounded_only_in_torchvisions_mode() -> None:
    """At label 50000 a float32 coordinate keeps whole pixels only, which makes these two boxes one."""
    classes = 50_001
    logits = np.full((1, 3, classes), -50, np.float32)
    logits[0, :, -1] = [1, 2, 0]
    anchors = np.float32([[10.6, 10, 12.6, 20], [11.45, 10, 13.45, 20], [280, 220, 299, 239]])
    arrays = (logits, np.zeros((1, 3, 4), np.float32), anchors)
    settings: dict[str, Any] = {"image_size": SIZE, "iou_threshold": 0.45}
    exact, moved = (ops.detect(*arrays, mode=mode, **settings)[0] for mode in ("exact", "torchvision"))
    assert len(exact.scores) == 3
    assert len(moved.scores) == len(torchvision_ssd(arrays)[0][1]) == 2


@pytest.mark.parametrize("mode", ["exact", "torchvision"])
def test_a_crowd_of_equal_boxes_leaves_one_of_each_class(mode: Any) -> None:
    """The best candidates are all suppressed by one, so that the search has to go on to the last of them."""
    n, classes = 6000, 4
    logits = np.random.default_rng(3).normal(0, 0.5, (1, n, classes)).astype(np.float32)
    logits[0, :, 3] -= 2
    anchors = np.tile(np.float32([[10, 10, 50, 60]]), (n, 1))
    arrays = (logits, np.zeros((1, n, 4), np.float32), anchors)
    found = ops.detect(*arrays, image_size=SIZE, mode=mode, top_k=n)[0]
    assert sorted(found.labels.tolist()) == [1, 2, 3]
    assert_same([found], torchvision_ssd(arrays, top_k=n))
    # With few candidates of each class it ends sooner, at the same answer.
    assert_same(ops.detect(*arrays, image_size=SIZE, mode=mode, top_k=2), torchvision_ssd(arrays, top_k=2))


@pytest.mark.parametrize("threads", [1, 2, 7, None])
def test_threads_do_not_change_the_answer(threads: int | None) -> None:
    arrays = case(3, 900, 9)
    alone = ops.detect(*arrays, image_size=SIZE, num_threads=1)
    assert_same(
        ops.detect(*arrays, image_size=SIZE, num_threads=threads), [(x.boxes, x.scores, x.labels) for x in alone]
    )


def test_bits_are_those_of_every_implementation() -> None:
    arrays = case(1, 1500, 37)
    here = ops.detect(*arrays, image_size=SIZE)[0]
    before = _core.isa()
    _core.set_isa("scalar")
    try:
        there = _core.detect(*arrays, SIZE, (10, 10, 5, 5), 0.01, 0.45, 400, 200, "exact", None, None)[0]
    finally:
        _core.set_isa(before)
    for ours, expected in zip((here.boxes, here.scores, here.labels), there, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_scores_are_softmax_rounded_once() -> None:
    logits, offsets, anchors = case(1, 200, 7)
    found = ops.detect(logits, offsets, anchors, image_size=SIZE, iou_threshold=1.0, top_k=200, max_det=2000)[0]
    exps = np.exp(logits[0].astype(np.float64))
    scores = (exps / exps.sum(1, keepdims=True)).astype(np.float32)[:, 1:]
    np.testing.assert_allclose(found.scores, -np.sort(-scores[scores > np.float32(0.01)]), rtol=1.3e-7)
    assert (np.diff(found.scores) <= 0).all()


def test_ties_take_the_lower_anchor_then_the_lower_class() -> None:
    anchors = np.float32([[20 * k, 0, 20 * k + 10, 10] for k in range(40)])
    logits = np.zeros((1, 40, 4), np.float32)
    offsets = np.zeros((1, 40, 4), np.float32)
    found = ops.detect(logits, offsets, anchors, image_size=(10, 1000))[0]
    np.testing.assert_array_equal(found.labels, np.tile([1, 2, 3], 40))
    np.testing.assert_array_equal(found.boxes[::3], anchors)
    few = ops.detect(logits, offsets, anchors, image_size=(10, 1000), top_k=2, max_det=5)[0]
    assert few.labels.tolist() == [1, 2, 3, 1, 2]
    np.testing.assert_array_equal(few.boxes[:, 0], [0, 0, 0, 20, 20])


def test_many_ties_are_cut_by_index() -> None:
    """More equal scores than candidates are held at a time."""
    n = 5000
    anchors = np.tile(np.float32([[0, 0, 10, 10]]), (n, 1)) + np.float32([20, 0, 20, 0]) * np.arange(
        n, dtype=np.float32
    ).reshape(-1, 1)
    arrays = (np.zeros((1, n, 2), np.float32), np.zeros((1, n, 4), np.float32), anchors)
    for threads in (1, 3):
        found = ops.detect(*arrays, image_size=(10, 200_000), top_k=n, max_det=300, num_threads=threads)[0]
        np.testing.assert_array_equal(found.boxes, anchors[:300])


def test_the_threshold_is_strict_in_float32() -> None:
    logits = np.zeros((1, 1, 2), np.float32)
    arrays = (logits, np.zeros((1, 1, 4), np.float32), np.float32([[0, 0, 9, 9]]))
    assert len(ops.detect(*arrays, image_size=SIZE, score_threshold=0.5)[0].scores) == 0
    assert len(ops.detect(*arrays, image_size=SIZE, score_threshold=0.5 + 1e-9)[0].scores) == 0
    assert len(ops.detect(*arrays, image_size=SIZE, score_threshold=0.4999999)[0].scores) == 1


@pytest.mark.parametrize("classes", [3, 20])
@pytest.mark.parametrize("score_threshold", [0.01, -1.0])
def test_rows_of_logits_that_are_not_finite(classes: int, score_threshold: float) -> None:
    base = np.zeros(classes, np.float32)
    rows = [base.copy() for _ in range(7)]
    rows[0][1] = np.nan
    rows[1][0] = np.nan
    rows[2][2] = np.inf
    rows[3][0] = np.inf
    rows[4][:] = -np.inf
    rows[5][0] = -np.inf
    rows[6][1] = -np.inf
    anchors = np.float32([[20 * k, 0, 20 * k + 10, 10] for k in range(7)])
    arrays = (np.stack(rows)[None], np.zeros((1, 7, 4), np.float32), anchors)
    found = ops.detect(*arrays, image_size=SIZE, score_threshold=score_threshold)[0]
    assert set(found.boxes[:, 0].tolist()) == {100, 120}
    assert len(found.scores) == 2 * (classes - 1) - (score_threshold > 0)
    assert len(torchvision_ssd(arrays, score_threshold=score_threshold)[0][1]) == len(found.scores)


def test_offsets_and_anchors_that_are_not_finite() -> None:
    anchors = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], [np.nan, 0, 9, 9], [0, 0, np.inf, 9], [0, 0, 10, 10.5]])
    offsets = np.zeros((1, 5, 4), np.float32)
    offsets[0, 1] = [np.nan, 0, 0, 0]
    offsets[0, 4, 2] = np.inf
    logits = np.zeros((1, 5, 2), np.float32)
    logits[0, :, 1] = [5, 4, 3, 2, 1]
    expected = reference.detect(logits, offsets, anchors, image_size=SIZE)
    found = ops.detect(logits, offsets, anchors, image_size=SIZE)
    assert_same(found, expected)
    assert np.isnan(found[0].boxes[1, 0])
    assert_same(
        ops.detect(logits, offsets, anchors, image_size=SIZE, mode="torchvision"),
        torchvision_ssd((logits, offsets, anchors)),
    )


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(2, 35), st.floats(0.1, 30))
def test_no_anchor_is_refused_wrongly(seed: int, n: int, classes: int, spread: float) -> None:
    """Whatever the logits' scale, all that passes the threshold by more than rounding is found."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((1, n, classes)) * spread).astype(np.float32)
    exps = np.exp(logits[0].astype(np.float64) - logits[0].max(-1, keepdims=True))
    scores = (exps / exps.sum(-1, keepdims=True))[:, 1:]
    threshold = float(rng.choice([0.01, 0.3, 0.9, 1e-6]))
    anchors = np.float32([[20 * k, 0, 20 * k + 10, 10] for k in range(n)])
    found = ops.detect(
        logits,
        np.zeros((1, n, 4), np.float32),
        anchors,
        image_size=(10, 2000),
        score_threshold=threshold,
        top_k=n,
        max_det=n * classes,
    )[0]
    assert np.sum(scores > threshold * (1 + 1e-6)) <= len(found.scores) <= np.sum(scores > threshold * (1 - 1e-6))


def test_any_memory_and_torch() -> None:
    torch = pytest.importorskip("torch")
    logits, offsets, anchors = case(2, 50, 6)
    expected = [(x.boxes, x.scores, x.labels) for x in ops.detect(logits, offsets, anchors, image_size=SIZE)]
    channels_first = np.ascontiguousarray(logits.transpose(0, 2, 1)).transpose(0, 2, 1)
    anchors.flags.writeable = False
    assert_same(ops.detect(channels_first, offsets[::-1].copy()[::-1], anchors[None], image_size=SIZE), expected)
    found = ops.detect(*(torch.from_numpy(x.copy()) for x in (logits, offsets, anchors)), image_size=SIZE)
    assert {type(x) for one in found for x in (one.boxes, one.scores, one.labels)} == {torch.Tensor}
    assert_same(found, expected)


def test_nothing_gives_nothing() -> None:
    logits, offsets, anchors = case(2, 50, 6)
    assert ops.detect(logits[:0], offsets[:0], anchors, image_size=SIZE) == []
    for settings in ({"top_k": 0}, {"max_det": 0}, {"score_threshold": 1.0}):
        for found in ops.detect(logits, offsets, anchors, image_size=SIZE, **settings):
            assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_detections_are_frozen() -> None:
    found = ops.detect(*case(1, 3, 2), image_size=SIZE)[0]
    with pytest.raises(FrozenInstanceError):
        found.boxes = None  # type: ignore[misc]


G, D, A = np.zeros((2, 5, 3), np.float32), np.zeros((2, 5, 4), np.float32), np.zeros((5, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((G.astype(float), D, A), {}, r"logits: expected float32, got float64"),
        ((G, D.astype(float), A), {}, r"offsets: expected float32, got float64"),
        ((G, D, A.astype("f2")), {}, r"anchors: expected float32, got float16"),
        ((G[0], D, A), {}, r"logits: expected \(B, N, C\), got \(5, 3\)"),
        ((G[:, :4], D, A), {}, r"logits: expected \(B, N, C\) with N = 5 anchors, got \(2, 4, 3\)"),
        ((G[..., :1], D, A), {}, r"logits: expected at least 2 classes, the background first, got \(2, 5, 1\)"),
        ((np.broadcast_to(np.float32(0), (1, 5, 2**30)), D[:1], A), {}, r"logits: expected at most 2147483647 numbers"),
        ((G, D[:1], A), {}, r"offsets: expected \(B, N, 4\) = \(2, 5, 4\), got \(1, 5, 4\)"),
        ((G, D.reshape(2, 20), A), {}, r"offsets: expected \(B, N, 4\)"),
        ((G, D, A[:, :3]), {}, r"anchors: expected \(N, 4\)"),
        ((G, D, A), {"image_size": (-1, 5)}, r"image_size: expected \(H, W\), neither negative"),
        ((G, D, A), {"weights": (1, 2)}, r"weights: expected 4 numbers, got 2"),
        ((G, D, A), {"score_threshold": np.nan}, r"score_threshold: expected a number, got NaN"),
        ((G, D, A), {"iou_threshold": np.nan}, r"iou_threshold: expected a number, got NaN"),
        ((G, D, A), {"top_k": -1}, r"top_k: expected at least 0, got -1"),
        ((G, D, A), {"max_det": -1}, r"max_det: expected at least 0, got -1"),
        ((G, D, A), {"mode": "fast"}, r"mode: expected \"exact\" or \"torchvision\", got 'fast'"),
        ((G, D, A), {"num_threads": 0}, r"num_threads: expected None or at least 1, got 0"),
    ],
)
def test_detect_refuses(arguments: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^\[detect\] {message}"):
        ops.detect(*arguments, **{"image_size": SIZE, **settings})


@pytest.mark.parametrize("classes", [2, 5, 21])
@pytest.mark.parametrize("mode", ["exact", "torchvision"])
def test_logits_and_offsets_are_read_out_of_the_rows_of_one_answer(
    classes: int, mode: Any, implementation: str
) -> None:
    logits, offsets, anchors = case(3, 300, classes, seed=5)
    expected = ops.detect(logits, offsets, anchors, image_size=SIZE, mode=mode)
    assert all(len(found.scores) for found in expected)
    joined = np.concatenate([logits, offsets], 2)
    spread = np.zeros((3, 2, 300, classes + 7), np.float32)
    spread[:, 1, ::-1, 2:-1] = joined
    odd = np.frombuffer(b"?" + joined.tobytes(), np.uint8)[1:].view(np.float32).reshape(joined.shape)
    for answer in (
        joined,
        spread[:, 1, ::-1, 2:-1],
        np.asfortranarray(joined),
        joined if implementation == "cuda" else odd,  # which device memory may not be
        joined[:, :, np.arange(classes + 4)],
    ):
        for threads in (1, 4):
            ours = ops.detect(
                answer[..., :-4], answer[..., -4:], anchors, image_size=SIZE, mode=mode, num_threads=threads
            )
            for found, same in zip(ours, expected, strict=True):
                np.testing.assert_array_equal(np.asarray(found.boxes), np.asarray(same.boxes))
                np.testing.assert_array_equal(np.asarray(found.scores), np.asarray(same.scores))
                np.testing.assert_array_equal(np.asarray(found.labels), np.asarray(same.labels))
    one = np.broadcast_to(joined[:1], joined.shape)  # a stride of zero
    for found in ops.detect(one[..., :-4], one[..., -4:], anchors, image_size=SIZE, mode=mode):
        np.testing.assert_array_equal(np.asarray(found.scores), np.asarray(expected[0].scores))
