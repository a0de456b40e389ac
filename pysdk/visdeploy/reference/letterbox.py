"""Resizing as a product of matrices."""

import numpy as np
from numpy.typing import NDArray


def weights(interpolation: str, before: int, after: int) -> NDArray[np.float64]:
    """What each of `before` pixels gives to each of `after`, (after, before)."""
    if interpolation == "nearest":
        at = np.floor(np.arange(after) * (1 / (after / before))).astype(int)
        chosen: NDArray[np.float64] = np.eye(before)[np.minimum(at, before - 1)]
        return chosen
    if interpolation == "area":
        edges = np.arange(after + 1)[:, None] * before / after
        pixels = np.arange(before)
        overlap: NDArray[np.float64] = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
        return overlap.clip(0) * after / before
    centres = np.clip((np.arange(after)[:, None] + 0.5) * before / after - 0.5, 0, before - 1)
    near: NDArray[np.float64] = 1 - np.abs(centres - np.arange(before))
    return near.clip(0)


def letterbox(
    image: NDArray[np.uint8],
    valid: tuple[int, int],
    size: tuple[int, int] | None = None,
    *,
    interpolation: str = "bilinear",
    pad_value: int = 0,
) -> NDArray[np.uint8]:
    """See `visdeploy.ops.letterbox`."""
    rows, columns = (weights(interpolation, *sides) for sides in zip(image.shape, valid, strict=False))
    exact = np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)
    result = np.full((*(size or valid), 3), pad_value, np.uint8)
    result[: valid[0], : valid[1]] = np.floor(exact + 0.5 + 1e-9)  # a half comes out a little less
    return result
