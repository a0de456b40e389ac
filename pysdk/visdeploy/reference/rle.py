"""Masks as run-length encodings."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rle = dict[str, Any]


def counts_to_bytes(counts: list[int]) -> bytes:
    """Compress run lengths as COCO does: differences to two places before, five bits at a time, lowest first."""
    text = bytearray()
    for i, count in enumerate(counts):
        x = count - (counts[i - 2] if i > 2 else 0)
        while True:
            group, x = x & 31, x >> 5
            done = x == (-1 if group & 16 else 0)
            text.append(48 + (group if done else group | 32))
            if done:
                break
    return bytes(text)


def counts_from_bytes(text: bytes) -> list[int]:
    """Undo `counts_to_bytes`."""
    counts: list[int] = []
    x = shift = 0
    for byte in text:
        group = byte - 48
        x |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            x -= 1 << shift
        counts.append(x + (counts[-2] if len(counts) > 2 else 0))
        x = shift = 0
    return counts


def encode(mask: NDArray[Any]) -> Rle:
    """Encode an (H, W) uint8 or bool mask; a run ends where the byte changes."""
    pixels = mask.ravel(order="F").view(np.uint8)
    changes = np.flatnonzero(np.diff(pixels, prepend=np.uint8(0)))
    counts = np.diff(changes, prepend=0, append=pixels.size).tolist()
    return {"size": list(mask.shape), "counts": counts_to_bytes(counts)}


def decode(rle: Rle) -> NDArray[np.uint8]:
    """Decode into (H, W) uint8; what the counts leave out is background."""
    height, width = rle["size"]
    counts = counts_from_bytes(rle["counts"])
    pixels = np.zeros(height * width, np.uint8)
    runs = np.repeat(np.arange(len(counts)) % 2, counts)
    pixels[: runs.size] = runs
    return pixels.reshape(height, width, order="F")


def area(rle: Rle) -> int:
    """Count foreground pixels."""
    return int(decode(rle).sum())


def toBbox(rle: Rle) -> NDArray[np.float64]:
    """Find the tightest x, y, width, height in pixels."""
    y, x = np.nonzero(decode(rle))
    if not x.size:
        return np.zeros(4)
    return np.array([x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1], np.float64)


def upsample(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (..., h, w) bilinearly with half-pixel centres and clamped edges; a weight of zero hides its sample."""

    def along_last(values: NDArray[np.float32], target: int) -> NDArray[np.float32]:
        source = values.shape[-1]
        at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
        low = np.floor(at).astype(np.int64)
        weight = (at - low).astype(np.float32)
        high = low + (weight > 0)
        stretched: NDArray[np.float32] = values[..., low] * (1 - weight) + values[..., high] * weight
        return stretched

    finite = np.clip(logits, -np.finfo(np.float32).max / 2, np.finfo(np.float32).max / 2)
    wide = along_last(finite, size[1])
    return along_last(wide.swapaxes(-1, -2), size[0]).swapaxes(-1, -2)


def encode_logits(logits: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.0) -> Rle:
    """Upsample (h, w) logits and encode where they are strictly above the threshold; NaN is background."""
    return encode(upsample(logits, size) > np.float32(threshold))


def semantic_map(
    logits: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Rle]]:
    """Upsample (C, h, w) logits and keep the best class: ties take the lower one, NaN never wins."""
    values = upsample(logits, size)
    labels = np.where(np.isnan(values), -np.inf, values).argmax(0).astype(np.uint8)
    masks = [labels == c for c in range(len(logits))]
    return labels, np.array([m.sum() for m in masks], np.int64), [encode(m) for m in masks]


def to_kaggle(mask: NDArray[Any], *, order: str = "row", base: int = 1) -> str:
    """Write an (H, W) mask as Kaggle's pairs of start and length."""
    padded = np.pad(mask.ravel(order="C" if order == "row" else "F") != 0, 1)
    edges = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    return " ".join(f"{a + base} {b - a}" for a, b in list(pairwise(edges))[::2])
