"""Arguments held against annotations: what passes, and the sentence on what does not."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from visdeploy.errors import InputError
from visdeploy.kinds import Count, Positive, Sides, Whole, check_arguments, in_kind


class Chosen:
    """Arguments of all kinds."""

    def __init__(
        self,
        count: Count,
        offset: int = -1,
        extras: Whole = 1,
        share: float = 0.5,
        flag: bool = False,
        mode: Literal["fast", "exact"] = "fast",
        size: Sides = 64,
        scales: Sequence[float] | None = None,
        strides: Sequence[Count] = (8, 16),
        path: str | Path | None = None,
        activation: type[torch.nn.Module] = torch.nn.ReLU,
        other=None,
    ) -> None: ...


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": "3"}, "count: expected a whole number, got '3'"),
        ({"count": None}, "count: expected a whole number, got None"),
        ({"count": True}, "count: expected a whole number, got True"),
        ({"count": 2.0}, "count: expected a whole number, got 2.0"),
        ({"count": 0}, "count: expected a number of at least 1, got 0"),
        ({"count": np.int64(0)}, "count: expected a number of at least 1, got 0"),
        ({"extras": -1}, "extras: expected a number of at least 0, got -1"),
        ({"share": float("nan")}, "share: expected a finite number, got nan"),
        ({"share": float("-inf")}, "share: expected a finite number, got -inf"),
        ({"share": False}, "share: expected a number, got False"),
        ({"flag": 1}, "flag: expected true or false, got 1"),
        ({"mode": []}, "mode: expected 'fast' or 'exact', got []"),
        ({"size": [64, 0]}, "size: expected a side in pixels, or height and width, of 1 to 4096, got "),
        ({"size": (1, 2, 3)}, "size: expected a side in pixels, or height and width, of 1 to 4096, got "),
        ({"size": {}}, "size: expected a side in pixels, or height and width, of 1 to 4096, got "),
        ({"scales": "abc"}, "scales: expected Sequence[float] | None, got 'abc'"),
        ({"scales": [1, [2]]}, "scales: expected Sequence[float] | None, got [1, [2]]"),
        ({"strides": [8, 0]}, "strides: expected Sequence[int], got [8, 0]"),
        ({"path": 5}, "path: expected str | Path | None, got 5"),
        ({"activation": 5}, "activation: expected "),
    ],
)
def test_what_is_of_another_kind_is_named(given, expected):
    with pytest.raises(InputError, match=re.escape(f"[toy] {expected}")) as caught:
        check_arguments("toy", Chosen, {"count": 1, **given})
    assert "FieldInfo" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"count": 3, "offset": -1, "extras": 0, "share": 1, "flag": True, "mode": "exact", "size": [64, 96]},
        {"count": np.int64(3), "size": 5, "scales": (1, 2.5), "path": Path("a")},
        {"scales": None, "activation": torch.nn.GELU, "other": object(), "unknown": 1},
    ],
)
def test_what_is_of_its_kind_passes(given):
    check_arguments("toy", Chosen, given)


def test_numbers_become_pythons():
    assert type(in_kind("toy", "lr", Positive, np.float32(0.5))) is float
