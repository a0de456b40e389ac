"""From a decoded image to what the network sees; training, export and serving call the same function."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy import ops
from visdeploy.errors import InputError
from visdeploy.mask import Array
from visdeploy.spec import Spec

Pixels = NDArray[np.uint8]

MAX_ENLARGED = 1 << 30
"""Pixels of the largest enlarged image: 3 GiB of RGB."""


@dataclass(frozen=True)
class Prepared:
    """One image as the network needs it.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, NumPy's, or on the device of an image that lies on one; of the whole image where
            `tiling.windows` cuts what the network sees.
        valid: Height and width of the top-left part that is image; the rest is padding.
        source_size: Height and width of the image before it was enlarged or resized.
    """

    pixels: Array
    valid: tuple[int, int]
    source_size: tuple[int, int]


def prepare(image: Array, spec: Spec) -> Prepared:
    """Enlarge, resize and pad a decoded (H, W, 3) uint8 RGB image as the spec says.

    One that lies on a CUDA device stays there, and becomes the same to the last bit; only bilinear samples, which
    OpenCV rounds its own way, may differ by `tolerance.LETTERBOX_LEVELS`.

    Raises:
        InputError: The image is to be restored, and lies on a CUDA device or would be too large.
    """
    if spec.task == "restoration":
        return _prepare_picture(image, spec)
    source = image.shape[0], image.shape[1]
    valid, padded = extent(source, spec)
    interpolation = _interpolation(source, valid, spec)
    if isinstance(image, np.ndarray) and resampled_by_opencv(source, spec):
        # Models trained elsewhere have seen OpenCV's rounding.
        image = np.asarray(cv2.resize(image, valid[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    if tuple(image.shape[:2]) == padded:
        return Prepared(image, valid, source)
    pixels = ops.letterbox(image, valid, padded, interpolation=interpolation, pad_value=spec.pad_value)
    return Prepared(pixels, valid, source)


def enlarge(image: Pixels, times: int) -> Pixels:
    """Return a uint8 (H, W, 3) image as (H * times, W * times, 3), bicubically; itself where `times` is 1.

    Raises:
        InputError: It would have more than `MAX_ENLARGED` pixels.
    """
    if times == 1:
        return image
    height, width = (side * times for side in image.shape[:2])
    if height * width > MAX_ENLARGED:
        raise InputError(
            f"[prepare] image: expected at most {MAX_ENLARGED} pixels once it is {times} times as large, "
            f"got {width} x {height}; restore it in parts"
        )
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _prepare_picture(image: Array, spec: Spec) -> Prepared:
    """Enlarge, and pad by repeating the last row and column: black would shine into what is restored beside it."""
    if not isinstance(image, np.ndarray):
        raise InputError(
            "[prepare] image: expected one on the host, where those to restore are prepared; copy it first"
        )
    source = image.shape[0], image.shape[1]
    valid, padded = extent(source, spec)
    pixels = enlarge(image, spec.enlarge)
    if valid != padded:
        below, right = padded[0] - valid[0], padded[1] - valid[1]
        pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    return Prepared(pixels, valid, source)


def resampled_by_opencv(source: tuple[int, int], spec: Spec) -> bool:
    """Whether `prepare` leaves an image of this height and width to OpenCV, and not to `ops.letterbox`."""
    valid, _ = extent(source, spec)
    return spec.enlarge > 1 or (valid != source and _interpolation(source, valid, spec) == "bilinear")


def extent(source: tuple[int, int], spec: Spec) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the height and width that an image is enlarged or resized to, and those after padding."""
    source = source[0] * spec.enlarge, source[1] * spec.enlarge
    if spec.resize == "stretch":
        return spec.size, spec.size
    if spec.resize == "letterbox":
        scale = min(spec.size[0] / source[0], spec.size[1] / source[1])
        return (max(1, round(source[0] * scale)), max(1, round(source[1] * scale))), spec.size
    if spec.resize == "tile":
        return source, (max(source[0], spec.size[0]), max(source[1], spec.size[1]))
    return source, (-(-source[0] // spec.divisor) * spec.divisor, -(-source[1] // spec.divisor) * spec.divisor)


def _interpolation(
    source: tuple[int, int], size: tuple[int, int], spec: Spec
) -> Literal["nearest", "bilinear", "area"]:
    if spec.interpolation == "bilinear" and spec.antialias and size[0] <= source[0] and size[1] <= source[1]:
        return "area"
    return spec.interpolation
