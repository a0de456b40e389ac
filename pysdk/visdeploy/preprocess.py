"""From a decoded image to what the network sees; training, export and serving call the same function."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy.spec import Spec


@dataclass(frozen=True)
class Prepared:
    """One image at network size.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        valid: Height and width of the top-left part that is image; the rest is padding.
        source_size: Height and width of the image before resizing.
    """

    pixels: NDArray[np.uint8]
    valid: tuple[int, int]
    source_size: tuple[int, int]


def prepare(image: NDArray[np.uint8], spec: Spec) -> Prepared:
    """Resize and pad a decoded (H, W, 3) uint8 RGB image as the spec says."""
    source = image.shape[0], image.shape[1]
    if spec.resize == "stretch":
        valid, padded = spec.size, spec.size
    elif spec.resize == "letterbox":
        scale = min(spec.size[0] / source[0], spec.size[1] / source[1])
        valid = max(1, round(source[0] * scale)), max(1, round(source[1] * scale))
        padded = spec.size
    else:
        valid = source
        padded = -(-source[0] // spec.divisor) * spec.divisor, -(-source[1] // spec.divisor) * spec.divisor
    pixels = resize(image, valid, spec)
    if padded != valid:
        bottom, right = padded[0] - valid[0], padded[1] - valid[1]
        pixels = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), constant_values=spec.pad_value)
    return Prepared(pixels, valid, source)


def resize(image: NDArray[np.uint8], size: tuple[int, int], spec: Spec) -> NDArray[np.uint8]:
    """Resample (H, W, 3) to `size` (height, width) with the spec's interpolation."""
    if image.shape[:2] == size:
        return image
    if spec.interpolation == "nearest":
        method = cv2.INTER_NEAREST
    elif spec.antialias and size[0] <= image.shape[0] and size[1] <= image.shape[1]:
        method = cv2.INTER_AREA
    else:
        method = cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), np.uint8)
