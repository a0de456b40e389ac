"""The connected parts of masks, one by one.

Note [runs]
A part is found in the mask of its class, and written from the runs of that: each run of a column belongs to one part,
so all parts are encoded in one pass over the runs, and no mask of a single part is ever made. A run that goes on at the
top of the next column is one run in COCO's counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from visdeploy import mask
from visdeploy.kinds import in_kind
from visdeploy.outlines import Points, as_polygon, trace

Turned = NDArray[np.float32]
_Distance = Annotated[float, Field(ge=0, le=1e6, description="a distance of 0 to 1e6 pixels")]


@dataclass(frozen=True)
class Instances:
    """The connected parts of every class in one image, by class and then the largest first.

    Pixels of a class that touch by a side or a corner are one part: things of one class that touch are not told apart.

    Attributes:
        rle: COCO RLE dicts (`size` [H, W], `counts` bytes) at the source image's size, one per part.
        labels: (N,) int64 class index.
        areas: (N,) int64 pixels.
        boxes: (N, 4) float32 corners x1, y1, x2, y2 in pixels; the last column of the part is x2 - 1.
        scores: (N,) float32 mean probability of the class over the part; None where `Masks.logits` is None.
    """

    rle: list[mask.Rle] = field(repr=False)
    labels: NDArray[np.int64]
    areas: NDArray[np.int64] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)
    scores: NDArray[np.float32] | None = field(repr=False)

    def __len__(self) -> int:
        return len(self.rle)

    def contours(self, epsilon: float = 0.0) -> list[list[Points]]:
        """Return the outline of each part, followed by those of its holes, along the edges of pixels.

        Args:
            epsilon: How far, in pixels, a simplified outline may be from the exact one (Douglas and Peucker); 0 gives
                that. One of which less than a triangle would be left stays exact.

        Returns:
            (P, 2) int32 corners x, y of each: pixel (x, y) is the square from there to (x + 1, y + 1).

        Raises:
            InputError: `epsilon` is no number of 0 to 1e6.
        """
        epsilon = in_kind("contours", "epsilon", _Distance, epsilon)
        found: list[list[Points]] = [[] for _ in self.rle]
        for label in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == label)
            starts, pixels = _paint([self.rle[row] for row in rows])
            for row, outlines in zip(rows[np.argsort(starts)], trace(pixels, epsilon), strict=True):
                found[row] = outlines
        return found

    def to_coco(self, image_id: int, *, epsilon: float | None = None) -> list[dict[str, Any]]:
        """Return a COCO annotation of each part; `category_id` is the class index, `score` is there where scores are.

        Args:
            image_id: Of the image in the document.
            epsilon: Write `polygons(epsilon)` instead of RLEs. `area` and `bbox` stay those of the pixels.

        Raises:
            InputError: `epsilon` is no number of 0 to 1e6.
        """
        segmentations = [as_text(rle) for rle in self.rle] if epsilon is None else self.polygons(epsilon)
        scores = [{}] * len(self) if self.scores is None else [{"score": score} for score in self.scores.tolist()]
        each = zip(segmentations, self.labels.tolist(), self.areas.tolist(), self.boxes.tolist(), scores, strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "segmentation": segmentation,
                "area": area,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
                **score,
            }
            for segmentation, label, area, (x1, y1, x2, y2), score in each
        ]

    def polygons(self, epsilon: float = 0.0) -> list[list[list[float]]]:
        """Return each part as COCO writes its `segmentation`: a list of one polygon x, y, x, y, ...

        `mask.frPyObjects` makes of it the same mask again, to the pixel, unless it is simplified. A hole is reached
        from the outline by a line that is gone along twice, which by COCO's even-odd rule is nothing; what paints edges
        too (`cv2.fillPoly`) shows it. After `fill_holes` there are none.

        Args:
            epsilon: As in `contours`.

        Raises:
            InputError: `epsilon` is no number of 0 to 1e6.
        """
        return [[as_polygon(outlines)] for outlines in self.contours(epsilon)]


def as_text(rle: mask.Rle) -> mask.Rle:
    """Return an RLE as JSON holds it."""
    return {"size": [int(side) for side in rle["size"]], "counts": bytes(rle["counts"]).decode()}


class Probabilities:
    """How sure the network is of a class at chosen pixels, without an image of every class.

    Args:
        logits: (C, h, w) float32, as `Masks` keeps them.
        size: Height and width of the source image.
        activation: How logits become probabilities, see `Spec.activation`.
    """

    def __init__(self, logits: NDArray[np.float32], size: tuple[int, int], activation: str) -> None:
        finite = np.clip(logits, -1e30, 1e30)
        if activation == "softmax":
            finite -= finite.max(0)  # which no probability depends on, and no exp overflows
        self._planes = [cv2.transpose(plane) for plane in finite]
        self._size, self._activation = size, activation

    def at(self, label: int, area: tuple[slice, slice], pixels: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the probability of a class at the pixels of a part of the turned image (W, H), row by row."""
        values: NDArray[np.float32] = self._enlarged(label if len(self._planes) > 1 else 0)[area][pixels]
        if self._activation == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-np.clip(values, -80, 80))), np.float32)
        return values / self._total[area][pixels] if self._activation == "softmax" else values

    @cached_property
    def _total(self) -> Turned:
        total = np.zeros(self._size[::-1], np.float32)
        for channel in range(len(self._planes)):
            total += self._enlarged(channel)
        return total

    def _enlarged(self, channel: int) -> Turned:
        """Return one plane at source size; of softmax, its exponentials."""
        enlarged = np.asarray(cv2.resize(self._planes[channel], self._size, interpolation=cv2.INTER_LINEAR), np.float32)
        if self._activation == "softmax":
            np.exp(np.maximum(enlarged, -80, out=enlarged), out=enlarged)
        return enlarged


def split(
    found: Sequence[tuple[int, mask.Rle]], size: tuple[int, int], probabilities: Probabilities | None
) -> Instances:
    """Return the parts of classes that do not overlap.

    Args:
        found: Class index and RLE of each class.
        size: Height and width of the image.
        probabilities: Of the classes in it; None gives no scores.
    """
    found = sorted(((label, rle) for label, rle in found if mask.area(rle)), key=lambda entry: entry[0])
    parts = [_split(label, rle, size, probabilities) for label, rle in found]
    none = _Parts([], np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    rles = [rle for part in parts for rle in part.rle]
    labels = np.repeat(np.array([label for label, _ in found], np.int64), [len(part.rle) for part in parts])
    areas, boxes, scores = (
        np.concatenate([getattr(part, name) for part in [none, *parts]]) for name in ("areas", "boxes", "scores")
    )
    return Instances(rles, labels, areas, boxes, None if probabilities is None else scores)


@dataclass(frozen=True)
class _Parts:
    """Those of one class."""

    rle: list[mask.Rle]
    areas: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


def _split(label: int, rle: mask.Rle, size: tuple[int, int], probabilities: Probabilities | None) -> _Parts:
    left, top, width, height = mask.toBbox(rle).astype(int).tolist()
    area = slice(left, left + width), slice(top, top + height)
    # Columns as rows, between which a pixel ends every run.
    padded = np.zeros((width + 1, height + 1), np.uint8)
    padded[:width, 1:] = mask.decode(rle).T[area]
    flat = padded.reshape(-1)
    starts, ends = (np.flatnonzero(flat[1:] != flat[:-1]) + 1).reshape(-1, 2).T
    lengths = ends - starts
    count, parts = cv2.connectedComponents(padded, connectivity=8)
    part = parts.reshape(-1)[starts] - 1
    del parts

    areas = np.bincount(part, lengths, count - 1).astype(np.int64)
    _, first = np.unique(part, return_index=True)
    by_area = np.lexsort((first, -areas))
    rank = np.empty_like(by_area)
    rank[by_area] = np.arange(count - 1)
    part = rank[part]
    order = np.argsort(part, kind="stable")
    part, column, row, length = (values[order] for values in (part, *np.divmod(starts, height + 1), lengths))
    column, row = column + left, row - 1 + top
    begin = np.flatnonzero(np.diff(part, prepend=-1))
    low, high = np.minimum.reduceat(row, begin), np.maximum.reduceat(row + length, begin)
    last = np.append(begin[1:], len(part)) - 1
    boxes = np.stack([column[begin], low, column[last] + 1, high], 1).astype(np.float32)

    scores = np.zeros(0, np.float32)
    if probabilities is not None:
        values = probabilities.at(label, area, padded[:width, 1:].view(bool))
        sums = np.add.reduceat(values, np.cumsum(lengths) - lengths, dtype=np.float64)[order]
        scores = (np.bincount(part, sums) / areas[by_area]).astype(np.float32)
    return _Parts(_encode(part, column * size[0] + row, length, size), areas[by_area], boxes, scores)


def _encode(
    part: NDArray[np.int64], start: NDArray[np.int64], length: NDArray[np.int64], size: tuple[int, int]
) -> list[mask.Rle]:
    """Encode the runs of every part, in their order; see Note [runs]."""
    end = start + length
    new = np.diff(part, prepend=-1) != 0
    before = np.where(new, 0, np.roll(end, 1))
    begins = new | (start != before)
    start, before, end = start[begins], before[begins], end[np.append(begins[1:], True)]
    counts = np.stack([start - before, end - start], 1).reshape(-1).tolist()
    borders = np.append(np.flatnonzero(new[begins]), len(start))
    tails = (size[0] * size[1] - end[borders[1:] - 1]).tolist()
    texts = [
        {"size": [*size], "counts": counts[2 * one : 2 * other] + ([tail] if tail else [])}
        for one, other, tail in zip(borders[:-1], borders[1:], tails, strict=True)
    ]
    return mask.frUncompressedRLE(texts, *size)


def _paint(rles: list[mask.Rle]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the first pixel of each of some masks that do not overlap, and (H, W) zeros and ones of all."""
    height, width = rles[0]["size"]
    texts = [mask.to_kaggle(rle, order="column", base=0).split() for rle in rles]
    runs = np.array([number for text in texts for number in text], np.int64).reshape(-1, 2)
    edges = np.zeros(height * width + 1, np.uint8)
    edges[runs[:, 0]] += 1
    edges[runs.sum(1)] -= 1  # which may be where another begins
    firsts = np.array([text[0] for text in texts], np.int64)
    return firsts, cv2.transpose(np.cumsum(edges[:-1], dtype=np.uint8).reshape(width, height))
