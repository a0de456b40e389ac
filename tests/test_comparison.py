"""What counts as the same answer, and what does not: every kind of wrong box is found, and rounding is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from visdeploy.answers import Answer
from visdeploy.comparison import Compared, Expected, compare
from visdeploy.spec import Manifest

SPEC = Manifest.parse(
    {
        "task": "detection",
        "labels": ["cat", "dog"],
        "size": 100,
        "mean": 0.5,
        "std": 0.5,
        "activation": "softmax",
        "threshold": 0.3,
        "anchors": {"rule": "boxes", "corners": [[0, 0, 10, 10]]},
    }
)
SIZE = (200, 300)  # a pixel of the network is two high and three wide
BOXES: dict[str, Any] = {
    "boxes": [[20, 10, 80, 70], [30, 100, 90, 160], [200, 20, 290, 60], [150, 100, 170, 120], [100, 30, 180, 90]],
    "scores": [0.99, 0.9, 0.8, 0.6, 0.5],
    "labels": [1, 2, 1, 1, 2],
}


def found(boxes: Any, scores: Any, labels: Any) -> Answer:
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32),
        "labels": np.array(labels, np.int64),
    }


def never() -> Answer:
    raise AssertionError("nobody needs the candidates")


def never_found() -> Answer:
    return found([], [], [])


def against(
    answered: Answer | None, *, reference: Answer | None = None, precision: str = "fp32", **more: Any
) -> Compared:
    expected = Expected("a.jpg", SIZE, reference or found(**BOXES), more.pop("candidates", never_found))
    return compare(answered, expected, SPEC.model_copy(update=more), precision)


def changed(change: Callable[[dict[str, Any]], Any]) -> Answer:
    answer = dict(found(**BOXES))
    change(answer)
    return answer


def swap(answer: dict[str, Any], field: str) -> None:
    answer[field] = answer[field][[1, 0, 2, 3, 4]]


def drop(answer: dict[str, Any], row: int) -> None:
    answer.update({field: np.delete(array, row, 0) for field, array in answer.items()})


def repeat(answer: dict[str, Any], row: int) -> None:
    answer.update({field: np.concatenate([array, array[row : row + 1]]) for field, array in answer.items()})


@pytest.mark.parametrize(
    ("mutation", "alone"),
    [
        pytest.param(lambda answer: np.negative(answer["labels"] - 3, out=answer["labels"]), 10, id="swapped classes"),
        pytest.param(lambda answer: swap(answer, "labels"), 4, id="two labels swapped"),
        pytest.param(lambda answer: swap(answer, "boxes"), 4, id="two boxes swapped"),
        pytest.param(lambda answer: answer.update(boxes=answer["boxes"] + 1), 10, id="shifted by a pixel"),
        pytest.param(lambda answer: answer.update(boxes=answer["boxes"][:, [1, 0, 3, 2]]), 10, id="x for y"),
        pytest.param(lambda answer: answer.update(boxes=answer["boxes"] * 1.02), 10, id="scaled by 2%"),
        pytest.param(lambda answer: answer["boxes"][3].__iadd__(1), 2, id="one box shifted"),
        pytest.param(lambda answer: drop(answer, 4), 1, id="a box dropped"),
        pytest.param(lambda answer: repeat(answer, 2), 1, id="a box twice"),
        pytest.param(lambda answer: answer.update(scores=answer["scores"] * 0.99), 10, id="scores a little lower"),
        pytest.param(lambda answer: answer["boxes"].fill(np.nan), 10, id="no numbers"),
    ],
)
def test_what_is_wrong_is_counted(mutation: Callable[[dict[str, Any]], Any], alone: int) -> None:
    result = against(changed(mutation), candidates=lambda: found(**BOXES))
    assert result.changed == alone
    assert result.error == alone / result.total


@pytest.mark.parametrize("seed", range(5))
def test_rounding_is_not_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answer = dict(found(**BOXES))
    answer["boxes"] = answer["boxes"] + rng.uniform(-0.19, 0.19, (5, 4)).astype(np.float32)
    answer["scores"] = answer["scores"] + rng.uniform(-9e-4, 9e-4, 5).astype(np.float32)
    order = rng.permutation(5)
    shuffled = {field: array[order] for field, array in answer.items()}
    assert against(shuffled, candidates=never) == Compared("a.jpg", 0, 10, 0.0)


def test_a_box_at_the_threshold_may_be_missing_on_either_side() -> None:
    more = found([*BOXES["boxes"], [0, 0, 50, 50]], [*BOXES["scores"], 0.3008], [*BOXES["labels"], 1])
    assert against(more).changed == 0
    assert against(found(**BOXES), reference=more).changed == 0
    assert against(more, threshold=0.29).changed == 1


@pytest.mark.parametrize("score", [0.29, 0.01, np.nan])
def test_a_box_far_below_the_threshold_may_not_be_there_at_all(score: float) -> None:
    more = found([*BOXES["boxes"], [0, 0, 50, 50]], [*BOXES["scores"], score], [*BOXES["labels"], 1])
    assert against(more).changed == 1
    assert against(found(**BOXES), reference=more).changed == 1
    assert against(more, max_det=5).changed == 1


def test_the_last_box_of_as_many_as_are_returned_may_be_another() -> None:
    other = found([*BOXES["boxes"][:4], [0, 0, 50, 50]], [*BOXES["scores"][:4], 0.5005], [*BOXES["labels"][:4], 1])
    assert against(other, max_det=5).changed == 0
    assert against(other, max_det=6).changed == 2


def test_the_last_candidate_that_nms_looks_at_may_be_another() -> None:
    more = found([*BOXES["boxes"], [0, 0, 50, 50]], [*BOXES["scores"], 0.45], [*BOXES["labels"], 1])
    every = found([*BOXES["boxes"], [0, 0, 50, 50]], [*BOXES["scores"], 0.4504], [*BOXES["labels"], 1])
    for top_k, counted in ((3, 1), (4, 0), (5, 1)):  # of four candidates of the first class
        assert against(more, candidates=lambda: every, top_k=top_k).changed == counted
        assert against(found(**BOXES), reference=more, candidates=lambda: every, top_k=top_k).changed == counted


def test_a_box_where_nms_decides_may_be_missing() -> None:
    # Beside the first box, of the same class: 60 by 60 shifted by d overlap with (60 - d) / (60 + d).
    for shift, counted in ((60 * 0.55 / 1.45, 0), (60 * 0.56 / 1.44, 1)):
        beside = [20 + shift, 10, 80 + shift, 70]
        more = found([*BOXES["boxes"], beside], [*BOXES["scores"], 0.7], [*BOXES["labels"], 1])
        assert against(more).changed == counted
        assert against(found(**BOXES), reference=more).changed == counted


def test_of_two_equal_candidates_nms_may_choose_the_other_if_the_reference_had_it() -> None:
    rival = [21, 12, 83, 71]
    other = found([rival, *BOXES["boxes"][1:]], BOXES["scores"], BOXES["labels"])
    before_nms = found([*BOXES["boxes"], rival], [*BOXES["scores"], 0.9899], [*BOXES["labels"], 1])
    assert against(other, candidates=lambda: before_nms).changed == 0
    assert against(other, candidates=lambda: found(**BOXES)).changed == 2
    less_sure = found([*BOXES["boxes"], rival], [*BOXES["scores"], 0.9], [*BOXES["labels"], 1])
    assert against(other, candidates=lambda: less_sure).changed == 2


@pytest.mark.parametrize(("precision", "shift", "same"), [("fp16", 1, True), ("fp16", 9, False), ("int8", 9, True)])
def test_lower_precision_may_move_boxes_further(precision: str, shift: int, same: bool) -> None:
    moved = changed(lambda answer: answer["boxes"][2].__iadd__(shift))
    assert (against(moved, precision=precision, candidates=never_found).changed == 0) == same


def test_nothing_found_on_both_sides_is_the_same() -> None:
    nothing = found([], [], [])
    assert against(nothing, reference=nothing) == Compared("a.jpg", 0, 0, 0.0)
    assert against(nothing).changed == 5
    assert against(found(**BOXES), reference=nothing).error == 1


def test_no_answer_is_never_the_same() -> None:
    nothing = found([], [], [])
    assert against(None, reference=nothing).error == np.inf
    assert against(None).error == np.inf


def test_a_localizer_may_name_either_of_two_equal_classes_and_no_third() -> None:
    fields = {"task": "localization", "labels": ["a", "b", "c"], "size": 100, "mean": 0, "std": 1}
    spec = Manifest.parse(fields | {"activation": "softmax"})
    boxes = [[20, 10, 80, 70]]
    both = found(boxes * 3, [0.4501, 0.4499, 0.1], [0, 1, 2])
    expected = Expected("a.jpg", SIZE, found(boxes, [0.4501], [0]), lambda: both)
    for label, counted in ((0, 0), (1, 0), (2, 2)):
        assert compare(found(boxes, [0.45], [label]), expected, spec, "fp32").changed == counted


def test_a_classifier_is_compared_by_its_probabilities() -> None:
    fields = {"task": "classification", "labels": ["a", "b"], "size": 100, "mean": 0, "std": 1}
    spec = Manifest.parse(fields | {"activation": "softmax"})
    expected = Expected("a.jpg", SIZE, {"probabilities": np.float32([0.5001, 0.4999])}, never)
    near = compare({"probabilities": np.float32([0.4999, 0.5001])}, expected, spec, "fp32")
    assert (near.changed, near.error) == (1, pytest.approx(2e-4, rel=1e-3))
    assert compare({"probabilities": np.float32([np.nan, 0.5])}, expected, spec, "fp32").error == np.inf
    assert compare({"probabilities": np.float32([1.0])}, expected, spec, "fp32").error == np.inf
    assert compare(None, expected, spec, "fp32").error == np.inf
