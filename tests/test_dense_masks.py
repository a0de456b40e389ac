"""Masks whose sizes, layouts and densities meet every path between pixels and runs."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from visdeploy import mask, reference
from visdeploy.errors import InputError

# pycocotools' own, on NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("implementation"),
]

Pattern = Callable[[int, int], np.ndarray]
PATTERNS: dict[str, Pattern] = {
    "noise": lambda h, w: np.random.default_rng(h * w).integers(0, 2, (h, w), np.uint8),
    "one in a hundred": lambda h, w: (np.random.default_rng(h * w).random((h, w)) < 0.01).astype(np.uint8),
    "checkerboard": lambda h, w: (np.add.outer(np.arange(h), np.arange(w)) % 2).astype(np.uint8),
    "squares": lambda h, w: (np.add.outer(np.arange(h) // 9, np.arange(w) // 9) % 2).astype(np.uint8),
    "rows": lambda h, w: np.repeat(np.arange(h, dtype=np.uint8)[:, None] % 2, w, axis=1),
    "columns": lambda h, w: np.repeat(np.arange(w, dtype=np.uint8)[None] % 2, h, axis=0),
    "many values": lambda h, w: np.random.default_rng(h * w).integers(0, 256, (h, w), np.uint8),
}


def assert_round_trip(m: np.ndarray) -> None:
    columns = np.asfortranarray(m)
    expected = coco.encode(columns)
    assert mask.encode(np.ascontiguousarray(m)) == expected
    assert mask.encode(columns) == expected
    uniform = coco.decode(expected)
    np.testing.assert_array_equal(mask.decode(expected), uniform)
    np.testing.assert_array_equal(mask.decode(expected, order="C"), uniform)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("height", [1, 63, 64, 65, 127, 128, 129, 511, 512, 513])
@pytest.mark.parametrize("width", [1, 2, 56, 57, 63, 64, 65, 127, 128, 129, 513])
def test_sizes_around_words(pattern: str, height: int, width: int) -> None:
    assert_round_trip(PATTERNS[pattern](height, width))


@pytest.mark.parametrize("pattern", ["noise", "one in a hundred", "rows", "many values"])
@pytest.mark.parametrize(
    "shape", [(3, 4095), (3, 4096), (2, 4097), (70, 4160), (2, 8193), (4095, 2), (4096, 3), (4097, 70), (8193, 2)]
)
def test_sizes_around_strips_of_columns_and_groups_of_bands(pattern: str, shape: tuple[int, int]) -> None:
    assert_round_trip(PATTERNS[pattern](*shape))


@pytest.mark.parametrize("shape", [(130, 67), (64, 64), (200, 31), (3, 500)])
@pytest.mark.parametrize("where", [(0, 0), (0, -1), (-1, 0), (-1, -1), (-1, 1), (1, -1)])
def test_a_late_byte_of_another_value(shape: tuple[int, int], where: tuple[int, int]) -> None:
    for background, other in [(1, 2), (0, 2), (255, 1), (1, 0)]:
        m = np.full(shape, background, np.uint8)
        m[where] = other
        assert_round_trip(m)


@given(st.integers(1, 150), st.integers(1, 150), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_density(height: int, width: int, density: float, seed: int) -> None:
    assert_round_trip((np.random.default_rng(seed).random((height, width)) < density).astype(np.uint8))


STACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "masks first": lambda s: np.moveaxis(np.ascontiguousarray(np.moveaxis(s, -1, 0)), 0, -1),
    "columns between": lambda s: np.ascontiguousarray(s.transpose(1, 0, 2)).transpose(1, 0, 2),
    "flipped": lambda s: np.ascontiguousarray(s[::-1, ::-1])[::-1, ::-1],
    "masks flipped": lambda s: np.ascontiguousarray(s[..., ::-1])[..., ::-1],
    "window": lambda s: np.pad(s, 3, constant_values=1)[3:-3, 3:-3, 3:-3],
    "every second": lambda s: np.repeat(s, 2, axis=2)[..., ::2],
}


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 31, 32, 33, 70])
@pytest.mark.parametrize("layout", STACKS)
def test_stacks_of_any_layout(n: int, layout: str) -> None:
    stack = np.random.default_rng(n).integers(0, 3, (21, 18, n), np.uint8)
    expected = coco.encode(np.asfortranarray(stack))
    laid = STACKS[layout](stack)
    laid.flags.writeable = False
    np.testing.assert_array_equal(laid, stack)
    for threads in (None, 1, 3):
        assert mask.encode(laid, num_threads=threads) == expected
        assert mask.encode(np.moveaxis(laid, -1, 0), axis=0, num_threads=threads) == expected


def test_stacks_of_narrow_masks() -> None:
    for shape in [(1, 1, 40), (1, 9, 40), (9, 1, 40), (0, 5, 40), (5, 0, 40)]:
        stack = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
        assert mask.encode(stack) == [mask.encode(np.ascontiguousarray(stack[..., i])) for i in range(shape[-1])]


@pytest.mark.parametrize("threshold", [0.0, 0.7, -np.inf, np.inf])
@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (64, 65), (130, 129), (5, 4100)])
def test_logits_at_their_own_size(shape: tuple[int, int], threshold: float, implementation: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.choice(np.float32([-np.inf, -1, -0.0, 0, 1e-30, 0.7, 1, np.inf, np.nan]), shape)
    expected = coco.encode(np.asfortranarray((logits > np.float32(threshold)).astype(np.uint8)))
    shifted = np.empty(logits.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(shape)
    shifted[...] = logits
    layouts = [logits, np.asfortranarray(logits), np.repeat(logits, 2, axis=1)[:, ::2], logits[::-1][::-1], shifted]
    if implementation == "cuda":
        with pytest.raises(InputError, match="expected device memory aligned to its float32"):
            mask.encode_logits(layouts.pop(), threshold=threshold)
    for laid in layouts:
        assert mask.encode_logits(laid, threshold=threshold) == expected


def text_of(counts: list[int]) -> bytes:
    text: bytes = reference.counts_to_bytes(counts)
    return text


@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 3000), st.integers(0, 2**21)), max_size=200))
def test_counts_of_every_length(counts: list[int]) -> None:
    height = max(sum(counts), 1)
    runs = {"size": [height, 1], "counts": counts}
    text = {"size": [height, 1], "counts": text_of(counts)}
    expected = np.repeat(np.arange(len(counts), dtype=np.uint8) % 2, counts)[:, None]
    for rle in (runs, text):
        assert mask.area(rle) == expected.sum()
        if height < 10**6:
            np.testing.assert_array_equal(mask.decode(rle)[: len(expected)], expected)
            np.testing.assert_array_equal(mask.decode(rle, order="C")[: len(expected)], expected)


@pytest.mark.parametrize("n", [1, 2, 1023, 1024, 1025, 2048, 5001])
def test_runs_of_blocks(n: int) -> None:
    counts = np.random.default_rng(n).integers(0, 5, n).tolist()
    size = [17, -(-sum(counts) // 17) + 3]
    for rle in ({"size": size, "counts": counts}, {"size": size, "counts": text_of(counts)}):
        expected = np.zeros(size[0] * size[1], np.uint8)
        expected[: sum(counts)] = np.repeat(np.arange(n) % 2, counts)
        for order in ("F", "C"):
            np.testing.assert_array_equal(mask.decode(rle, order=order), expected.reshape(size[::-1]).T)


@pytest.mark.parametrize("at", [0, 1, 7, 8, 31, 63, 64, 65, 127, 150, 199])
@pytest.mark.parametrize("character", [b"/", b"p", b"\x00", b"\xff", b" "])
def test_a_bad_character_anywhere(at: int, character: bytes) -> None:
    text = text_of(list(np.random.default_rng(0).integers(1, 40, 200)))
    text = text[:at] + character + text[at + 1 :]
    with pytest.raises(InputError, match=r"is not one of COCO's|expected 0 to|at most"):
        mask.decode({"size": [10000, 10], "counts": text})


@pytest.mark.parametrize("value", [2**19 - 1, 2**19, 2**19 + 1, 2**24, 2**31, 2**32 - 2])
def test_long_runs_beside_short_ones(value: int) -> None:
    counts = [3, 1] * 20 + [value // 2, 1, 2, value // 2] + [1, 1] * 40
    counts.append(-sum(counts) % 65536 + 1)
    counts[0] -= 1
    rle = {"size": [65536, sum(counts) // 65536], "counts": text_of(counts)}
    assert mask.area(rle) == sum(counts[1::2])
    if value <= 2**24:
        assert mask.encode(mask.decode(rle)) == mask.encode(mask.decode(rle, order="C")) == rle
