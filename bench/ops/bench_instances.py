"""The connected parts of a mask as RLEs, against OpenCV's components encoded one by one by pycocotools."""

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from timing import Row, compare, main
from visdeploy import mask
from visdeploy.instances import split


def nuclei(height: int, width: int) -> np.ndarray:
    """Ellipses that touch now and then, as in a micrograph, with specks between them."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((height, width), np.uint8)
    for _ in range(height * width // 2500):
        middle = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(8, 19)), int(rng.integers(8, 19)))
        cv2.ellipse(pixels, middle, axes, int(rng.integers(180)), 0, 360, 1, -1)
    pixels[rng.random(pixels.shape) < 1e-4] = 1
    return pixels


def by_pycocotools(pixels: np.ndarray) -> list[Any]:
    """As a careful user does it: every part is compared in its box alone, and drawn into one image for all."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    drawn = np.zeros(pixels.shape, np.uint8, order="F")
    rles = []
    for part in range(1, count):
        x, y, width, height = stats[part, :4]
        box = np.s_[y : y + height, x : x + width]
        drawn[box] = parts[box] == part
        rles.append(coco.encode(drawn))
        drawn[box] = 0
    return rles


def same_parts(ours: Any, theirs: Any) -> bool:
    return sorted(rle["counts"] for rle in ours) == sorted(rle["counts"] for rle in theirs)


def cases() -> list[Row]:
    rows = []
    for height, width in ((256, 256), (1024, 1360)):
        pixels = nuclei(height, width)
        rle = mask.encode(pixels)
        contenders = {
            "visdeploy": lambda rle=rle, size=pixels.shape: split([(1, rle)], size, None).rle,
            "pycocotools": lambda pixels=pixels: by_pycocotools(pixels),
        }
        parts = len(contenders["visdeploy"]())
        rows += compare(f"instances {height}x{width}, {parts} parts", contenders, same_parts)
    return rows


if __name__ == "__main__":
    main(cases, ["visdeploy", "numpy", "pycocotools", "opencv-python"])
