"""Anchors, their coding of boxes, and the functions of "Dive into Deep Learning" that train and read a detector.

https://d2l.ai/chapter_computer-vision/anchor.html is called the book here. Boxes are x1, y1, x2, y2.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError
from visdeploy.mask import Array, _core

Boxes = NDArray[np.float32]
Size = tuple[int, int]


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def _grid(x: NDArray[np.float32], y: NDArray[np.float32], cell: NDArray[np.floating[Any]]) -> Boxes:
    """Put the boxes of a cell, (k, 4) around zero, on every centre, row by row: (len(y) * len(x) * k, 4)."""
    out = np.empty((len(y), len(x), len(cell), 4), np.float32)
    out[..., 0::2] = x[None, :, None, None] + cell[:, 0::2]
    out[..., 1::2] = y[:, None, None, None] + cell[:, 1::2]
    return out.reshape(-1, 4)


def multibox_prior(feature_size: Size, sizes: Sequence[float], ratios: Sequence[float]) -> Boxes:
    """Put the book's anchors on every pixel of a feature map: each size with the first ratio, then the other ratios.

    A ratio is width to height in pixels; coordinates are shares of the image, and reach beyond it at the border. The
    arithmetic is the book's in float32, to the last bit but where torch's square root misses it.

    Args:
        feature_size: (h, w).
        sizes: n heights as shares of the image's, at ratio 1.
        ratios: m ratios of width to height.

    Returns:
        (1, h * w * (n + m - 1), 4) float32.

    Raises:
        InputError: A size or ratio is not positive, or there is none.

    Example:
        >>> multibox_prior((1, 1), [0.5], [1])
        array([[[0.25, 0.25, 0.75, 0.75]]], dtype=float32)
    """
    height, width = _feature_size("multibox_prior", feature_size)
    size, ratio = _positive("multibox_prior", "sizes", sizes), _positive("multibox_prior", "ratios", ratios)
    root = np.sqrt(ratio)
    w = np.concatenate([size * root[0], size[0] * root[1:]]) * np.float32(height) / np.float32(max(width, 1))
    h = np.concatenate([size / root[0], size[0] * (np.float32(1) / root[1:])])  # as torch divides a number by a tensor
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5)) * np.float32(1 / max(width, 1))
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5)) * np.float32(1 / max(height, 1))
    return _grid(x, y, np.stack([-w, -h, w, h], -1) / np.float32(2))[None]


def default_boxes(
    image_size: Size,
    feature_sizes: Sequence[Size],
    aspect_ratios: Sequence[Sequence[float]],
    *,
    min_ratio: float = 0.15,
    max_ratio: float = 0.9,
    scales: Sequence[float] | None = None,
    steps: Sequence[float] | None = None,
    clip: bool = True,
) -> Boxes:
    """Make SSD's default boxes, as torchvision's `DefaultBoxGenerator` does.

    Every cell gets, in this order, a square of the map's scale, one of the geometric mean with the next scale, and for
    every ratio a wide and a tall box.

    Args:
        image_size: (H, W) in pixels.
        feature_sizes: (h, w) of each of K feature maps.
        aspect_ratios: The ratios of each map, without 1.
        min_ratio: Scale of the first map, where `scales` does not say.
        max_ratio: Scale of the last map, where `scales` does not say.
        scales: K + 1 scales as shares of the image.
        steps: Pixels from cell to cell in each map; None divides the image evenly.
        clip: Cut widths and heights, not corners, to the image's.

    Returns:
        (N, 4) float32 in pixels, map by map and row by row.

    Raises:
        InputError: The numbers of maps, ratios, scales and steps do not fit, or a size, scale or step is not positive.

    Example:
        SSD300 with a VGG backbone:

        >>> maps = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
        >>> ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
        >>> scales, steps = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], [8, 16, 32, 64, 100, 300]
        >>> default_boxes((300, 300), maps, ratios, scales=scales, steps=steps).shape
        (8732, 4)
    """
    maps = len(feature_sizes)
    _expect(
        len(aspect_ratios) == maps,
        f"[default_boxes] aspect_ratios: expected one list per feature map, {maps}, got {len(aspect_ratios)}",
    )
    if scales is None and maps > 1:
        scales = [min_ratio + (max_ratio - min_ratio) * k / (maps - 1) for k in range(maps)] + [1.0]
    elif scales is None:
        scales = [min_ratio, max_ratio]
    _expect(len(scales) == maps + 1, f"[default_boxes] scales: expected {maps + 1}, got {len(scales)}")
    _expect(steps is None or len(steps) == maps, f"[default_boxes] steps: expected {maps}, got {len(steps or ())}")
    _positive("default_boxes", "scales", scales)
    if steps is not None and maps:
        _positive("default_boxes", "steps", steps)
    image_height, image_width = _feature_size("default_boxes", image_size, "image_size")
    half, pixels = np.float32(0.5), np.array([image_width, image_height] * 2, np.float32)
    boxes = [np.zeros((0, 4), np.float32)]
    for k, feature_size in enumerate(feature_sizes):
        height, width = _feature_size("default_boxes", feature_size, "feature_sizes")
        across, down = (image_width / steps[k], image_height / steps[k]) if steps is not None else (width, height)
        between = math.sqrt(scales[k] * scales[k + 1])
        sides = [[scales[k]] * 2, [between] * 2]
        for ratio in aspect_ratios[k]:
            _expect(0 < ratio < math.inf, f"[default_boxes] aspect_ratios: expected positive numbers, got {ratio}")
            wide, tall = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            sides += [[wide, tall], [tall, wide]]
        wh = np.array(sides, np.float32)
        if clip:
            wh = wh.clip(0, 1)
        x = (np.arange(width, dtype=np.float32) + half) / np.float32(across)
        y = (np.arange(height, dtype=np.float32) + half) / np.float32(down)
        boxes.append(_grid(x, y, np.concatenate([-half * wh, half * wh], 1)) * pixels)
    return np.concatenate(boxes)


def grid_anchors(
    feature_sizes: Sequence[Size],
    strides: Sequence[Size],
    sizes: Sequence[Sequence[float]],
    aspect_ratios: Sequence[Sequence[float]],
) -> Boxes:
    """Make anchors on a grid, as torchvision's `AnchorGenerator` does.

    Every cell gets all sizes of the first ratio, then of the next; corners are rounded to whole pixels around the
    cell's top left, halves to even.

    Args:
        feature_sizes: (h, w) of each of K feature maps.
        strides: (y, x) pixels from cell to cell in each map.
        sizes: Square roots of the areas, in pixels, for each map.
        aspect_ratios: Height to width, for each map.

    Returns:
        (N, 4) float32 in pixels, map by map and row by row.

    Raises:
        InputError: The numbers of maps differ, or a size or ratio is not positive.

    Example:
        >>> grid_anchors([(1, 2)], [(16, 16)], [[32]], [[1]])
        array([[-16., -16.,  16.,  16.],
               [  0., -16.,  32.,  16.]], dtype=float32)
    """
    maps = len(feature_sizes)
    for name, values in (("strides", strides), ("sizes", sizes), ("aspect_ratios", aspect_ratios)):
        _expect(
            len(values) == maps, f"[grid_anchors] {name}: expected one entry per feature map, {maps}, got {len(values)}"
        )
    boxes = [np.zeros((0, 4), np.float32)]
    for feature_size, stride, size, ratio in zip(feature_sizes, strides, sizes, aspect_ratios, strict=True):
        height, width = _feature_size("grid_anchors", feature_size, "feature_sizes")
        step_y, step_x = _feature_size("grid_anchors", stride, "strides")
        tall = np.sqrt(_positive("grid_anchors", "aspect_ratios", ratio))
        side = _positive("grid_anchors", "sizes", size)
        w = (np.float32(1) / tall)[:, None] * side
        h = tall[:, None] * side
        cell = np.round(np.stack([-w, -h, w, h], -1).reshape(-1, 4) / np.float32(2))
        x = np.arange(width, dtype=np.float32) * np.float32(step_x)
        y = np.arange(height, dtype=np.float32) * np.float32(step_y)
        boxes.append(_grid(x, y, cell))
    return np.concatenate(boxes)


def _feature_size(op: str, size: Size, argument: str = "feature_size") -> Size:
    try:
        height, width = size
        _expect(int(height) == height >= 0 and int(width) == width >= 0, "")
    except (TypeError, ValueError):
        raise InputError(f"[{op}] {argument}: expected two whole numbers, neither negative, got {size!r}") from None
    return int(height), int(width)


def _positive(op: str, argument: str, values: Sequence[float]) -> NDArray[np.float32]:
    numbers = np.asarray(values, np.float32)
    fine = numbers.ndim == 1 and numbers.size and np.all(numbers > 0) and np.all(np.isfinite(numbers))
    _expect(bool(fine), f"[{op}] {argument}: expected positive numbers, got {values!r}")
    return numbers


def decode_boxes(
    offsets: Array,
    anchors: Array,
    *,
    variances: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    clip: tuple[float, float] | None = None,
    num_threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Turn predicted offsets from anchors into boxes, by one of two rules.

    With `variances` it is the book's `offset_inverse` (which has 0.1 and 0.2), with `weights` torchvision's `BoxCoder`
    (SSD has 10, 10, 5, 5), which also holds the logarithm of a size ratio down to log(1000 / 16). Results are theirs
    but for the last bit of exp, which hardly ever misses correct rounding here and is the same on every machine.

    Args:
        offsets: (N, 4) or (B, N, 4) float32: dx, dy, dw, dh.
        anchors: (N, 4) or (1, N, 4) float32.
        variances: Two factors, of centre and of size offsets, or four.
        weights: Four divisors of the offsets. Exactly one of the two is given.
        clip: (H, W) to clip the boxes to, in the anchors' unit. NaN is kept.
        num_threads: None decides by the work.
        out: An array on the same CUDA device that takes the answer; then nothing is allocated for it.

    Returns:
        Boxes, float32 of the shape of `offsets`.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype, shape or number is wrong.

    Example:
        >>> anchor, offset = np.float32([[0, 0, 10, 20]]), np.float32([[1, 0, 0, 0]])
        >>> decode_boxes(offset, anchor, variances=(0.1, 0.2))
        array([[ 1.,  0., 11., 20.]], dtype=float32)
    """
    return _core.decode_boxes(offsets, anchors, variances, weights, clip, num_threads, out)


def encode_boxes(
    boxes: Array,
    anchors: Array,
    *,
    variances: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    num_threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Express boxes as offsets from their anchors, which `decode_boxes` turns back.

    With `variances` it is the book's `offset_boxes`, which adds 1e-6 to the size ratio before its logarithm, with
    `weights` torchvision's `BoxCoder`.

    Args:
        boxes: (N, 4) or (B, N, 4) float32, a box for every anchor.
        anchors: (N, 4) or (1, N, 4) float32.
        variances: Two factors, of centre and of size offsets, or four.
        weights: Four divisors of the offsets. Exactly one of the two is given.
        num_threads: None decides by the work.
        out: An array on the same CUDA device that takes the answer; then nothing is allocated for it.

    Returns:
        dx, dy, dw, dh, float32 of the shape of `boxes`.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype, shape or number is wrong.
    """
    return _core.encode_boxes(boxes, anchors, variances, weights, num_threads, out)


def multibox_target(
    anchors: Array, labels: Array, *, skip_padding: bool = True, num_threads: int | None = None
) -> tuple[Array, Array, Array]:
    """Label anchors with ground truth, as the book trains a detector.

    An anchor is assigned the box that it overlaps most if their IoU is at least 0.5. Then every box takes the anchor
    that it overlaps most, largest IoU first, each anchor once. Equal IoUs take the lower anchor, then the lower row; an
    IoU of 0/0 is NaN and counts as the largest, as in torch.

    Args:
        anchors: (N, 4) or (1, N, 4) float32.
        labels: (B, M, 5) float32 rows of class, x1, y1, x2, y2; a class below zero marks a row that pads.
        skip_padding: False treats padding as the book's code does: each such row takes an anchor too, with a mask of
            1 and class 0, and where rows outnumber anchors the first anchor gets the first row.
        num_threads: Images worked on at a time; None decides by the work.

    Returns:
        Offsets (B, 4 N) float32 with variances 0.1 and 0.2, zero where unassigned; their mask (B, 4 N) float32; classes
        (B, N) int64, 0 being background and c + 1 class c.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype or shape is wrong.
    """
    return _core.multibox_target(anchors, labels, skip_padding, num_threads)


def multibox_detection(
    cls_probs: Array,
    offsets: Array,
    anchors: Array,
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.009999999,
    *,
    num_threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Read the book's detector: decode every anchor, and drop what overlaps a better box of any class.

    The book's NMS keeps a box if its float32 IoU with every better kept one is at most the threshold as float32, so an
    IoU of NaN (two boxes without area) drops it. Equal confidences keep their order; NaN comes first.

    Args:
        cls_probs: (B, C + 1, N) float32 probabilities, the background first.
        offsets: (B, 4 N) float32, with variances 0.1 and 0.2.
        anchors: (N, 4) or (1, N, 4) float32.
        nms_threshold: Largest IoU of two kept boxes.
        pos_threshold: Confidence below which a box becomes background.
        num_threads: Images worked on at a time; None decides by the work.
        out: An array on the same CUDA device that takes the answer; then nothing is allocated for it.

    Returns:
        (B, N, 6) float32 rows of class, confidence, x1, y1, x2, y2: those kept, best first, then the others in the
        order of anchors with class -1. Below `pos_threshold` the class is -1 and the confidence one minus itself.

    Raises:
        TypeError: An argument is not an array.
        InputError: A dtype or shape is wrong, or a threshold is NaN.
    """
    return _core.multibox_detection(cls_probs, offsets, anchors, nms_threshold, pos_threshold, num_threads, out)
