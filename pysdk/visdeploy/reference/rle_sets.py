"""What masks have in common, and outlines as masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.reference.rle import Rle, area, counts_to_bytes, decode, encode, toBbox


def box_iou(dt: NDArray[np.float64], gt: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compare (M, 4) with (N, 4) boxes of x, y, width, height; only zero or less is no overlap, so NaN is one."""
    d, g = dt[:, None], gt[None]
    sides = [
        np.fmin(d[..., 2 + k] + d[..., k], g[..., 2 + k] + g[..., k]) - np.fmax(d[..., k], g[..., k]) for k in (0, 1)
    ]
    common = sides[0] * sides[1]
    own = d[..., 2] * d[..., 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        values: NDArray[np.float64] = common / np.where(crowd, own, own + g[..., 2] * g[..., 3] - common)
    values[(sides[0] <= 0) | (sides[1] <= 0)] = 0
    return values


def iou(dt: Any, gt: Any, pyiscrowd: Any) -> Any:
    """Compare every detection with every object."""
    if len(dt) == 0 or len(gt) == 0:
        return []
    crowd = np.array(pyiscrowd, bool)
    if not isinstance(dt[0], dict):
        return box_iou(np.array(dt, np.float64), np.array(gt, np.float64), crowd)
    values = box_iou(np.stack([toBbox(r) for r in dt]), np.stack([toBbox(r) for r in gt]), crowd)
    for i, j in np.argwhere(values > 0):
        if dt[i]["size"] != gt[j]["size"]:
            values[i, j] = -1
            continue
        a, b = decode(dt[i]).astype(bool), decode(gt[j]).astype(bool)
        common, union = (a & b).sum(), area(dt[i]) if crowd[j] else (a | b).sum()
        values[i, j] = common / union if common else 0
    return values


def merge(rleObjs: list[Rle], intersect: bool = False) -> Rle:
    """Unite masks, or intersect them."""
    if not rleObjs or any(r["size"] != rleObjs[0]["size"] for r in rleObjs):
        return {"size": [0, 0], "counts": b""}
    masks = np.stack([decode(r) for r in rleObjs])
    return encode(np.logical_and.reduce(masks) if intersect else np.logical_or.reduce(masks))


def frPyObjects(pyobj: Any, h: int, w: int) -> Any:
    """Encode boxes, polygons or uncompressed RLEs."""
    if isinstance(pyobj, np.ndarray):
        return frBbox(pyobj, h, w)
    if isinstance(pyobj, dict):
        return frUncompressedRLE([pyobj], h, w)[0]
    return frUncompressedRLE(pyobj, h, w) if isinstance(pyobj[0], dict) else frPoly(pyobj, h, w)


def frUncompressedRLE(ucRles: list[Rle], h: int, w: int) -> list[Rle]:
    """Compress RLEs, which have their own size."""
    return [{"size": list(r["size"]), "counts": counts_to_bytes([int(c) for c in r["counts"]])} for r in ucRles]


def frBbox(bb: NDArray[np.float64], h: int, w: int) -> list[Rle]:
    """Draw boxes as polygons of four corners."""
    left, top, right, bottom = bb[:, 0], bb[:, 1], bb[:, 0] + bb[:, 2], bb[:, 1] + bb[:, 3]
    return frPoly(list(np.stack([left, top, left, bottom, right, bottom, right, top], 1)), h, w)


def frPoly(poly: list[Any], h: int, w: int) -> list[Rle]:
    """Draw polygons: walk the outlines in fifths of a pixel, toggle pixels where the middle of a column is crossed."""
    rles = []
    for polygon in poly:
        corners = np.array(polygon, np.float64)
        points = np.trunc(5 * corners[: len(corners) // 2 * 2] + 0.5).astype(np.int64).reshape(-1, 2)
        toggles = np.zeros(h * w + 1, np.int64)
        for start, stop in zip(points, np.roll(points, -1, axis=0), strict=True):
            x, y = _walk(start, stop)
            left, upper = np.minimum(x[1:], x[:-1]), np.minimum(y[1:], y[:-1])
            column, row = left // 5, np.clip((upper + 2) // 5, 0, h)
            crossed = (x[1:] != x[:-1]) & (left % 5 == 2) & (column >= 0) & (column < w)
            np.add.at(toggles, (column * h + row)[crossed], 1)
        inside = toggles[:-1].cumsum() % 2
        rles.append(encode(inside.astype(np.uint8).reshape(h, w, order="F")))
    return rles


def _walk(start: NDArray[np.int64], stop: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Step from one point to another along the longer side, always in the direction in which that grows."""
    steps = int(abs(stop - start).max())
    along = int(abs(stop - start).argmax())
    if steps == 0:
        return start[:1], start[1:]
    if start[along] > stop[along]:
        start, stop = stop, start
    t = np.arange(steps + 1)
    across = start[1 - along] + (stop[1 - along] - start[1 - along]) / steps * t + 0.5
    walked = [start[along] + t, np.trunc(across).astype(np.int64)]
    return (walked[0], walked[1]) if along == 0 else (walked[1], walked[0])
