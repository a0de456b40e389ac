"""How long do masks and logits take to become COCO RLE, against pycocotools and OpenCV on one thread?"""

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from timing import Row, compare, main
from visdeploy import mask, ops

SIZES = [(480, 640), (1280, 1918), (4000, 6000)]


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), min(height, width) / 20)
    return noise / noise.std()


def nearly_same_rle(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Pixels on the threshold may round either way."""
    return np.count_nonzero(mask.decode(a) != mask.decode(b)) <= 1e-5 * np.prod(a["size"])


def nearly_same_map(a: Any, b: Any) -> bool:
    return np.count_nonzero(a[0] != b[0]) <= 1e-5 * a[0].size


def encode_rivals(height: int, width: int, rng: np.random.Generator) -> list[Row]:
    m = (cv2.resize(smooth(rng, 200, 300), (width, height)) > 0).astype(np.uint8)
    fortran, rle, name = np.asfortranarray(m), mask.encode(m), f"{height}x{width}"
    ours, copying = lambda: mask.encode(m), lambda: coco.encode(np.asfortranarray(m))
    rows = compare(f"encode C order {name}", {"visdeploy": ours, "asfortranarray+pycocotools": copying})
    ours, copying = lambda: mask.encode(fortran), lambda: coco.encode(fortran)
    rows += compare(f"encode F order {name}", {"visdeploy": ours, "pycocotools": copying})
    noise = rng.integers(0, 2, m.shape, np.uint8)
    ours, copying = lambda: mask.encode(noise), lambda: coco.encode(np.asfortranarray(noise))
    rows += compare(f"encode noise {name}", {"visdeploy": ours, "asfortranarray+pycocotools": copying})
    return rows + compare(
        f"decode {name}", {"visdeploy": lambda: mask.decode(rle), "pycocotools": lambda: coco.decode(rle)}
    )


def logits_rivals(height: int, width: int, rng: np.random.Generator) -> list[Row]:
    rows = []
    for h, w in [(256, 256), (height // 4, width // 4), (height, width)]:
        logits = smooth(rng, h, w)

        def rival(logits: np.ndarray = logits) -> dict[str, Any]:
            large = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
            return coco.encode(np.asfortranarray((large > 0).view(np.uint8)))

        def ours(logits: np.ndarray = logits) -> dict[str, Any]:
            return mask.encode_logits(logits, (height, width))

        case = f"logits {h}x{w} to {height}x{width}"
        rows += compare(case, {"visdeploy": ours, "cv2+threshold+pycocotools": rival}, nearly_same_rle)
    return rows


def semantic_rivals(classes: int, h: int, w: int, scale: int, rng: np.random.Generator) -> list[Row]:
    logits = np.stack([smooth(rng, h, w) for _ in range(classes)])
    height, width = h * scale, w * scale

    def label_map() -> tuple[np.ndarray]:
        large = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in logits]
        return (np.argmax(np.stack(large), axis=0).astype(np.uint8),)

    def rival_with_rles() -> Any:
        labels = label_map()[0]
        masks = [np.asfortranarray((labels == c).view(np.uint8)) for c in range(classes)]
        return labels, np.bincount(labels.ravel(), minlength=classes), [coco.encode(m) for m in masks]

    return compare(
        f"semantic_map {classes}x{h}x{w} to {height}x{width}",
        {
            "visdeploy": lambda: ops.semantic_map(logits, (height, width)),
            "cv2+argmax, no RLE": label_map,
            "cv2+argmax+pycocotools": rival_with_rles,
        },
        nearly_same_map,
    )


def cases() -> list[Row]:
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    rows = []
    for height, width in SIZES:
        rows += encode_rivals(height, width, rng) + logits_rivals(height, width, rng)
    for classes, h, w, scale in [(12, 180, 240, 4), (21, 128, 128, 4), (19, 256, 512, 4)]:
        rows += semantic_rivals(classes, h, w, scale, rng)
    return rows


if __name__ == "__main__":
    main(cases, ["visdeploy", "numpy", "opencv-python", "pycocotools"])
