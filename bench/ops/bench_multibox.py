"""How long do anchors and the coding of boxes take, on one thread, against the book's code and torchvision's?"""

from typing import Any

import numpy as np
import torch
from torchvision.models.detection._utils import BoxCoder, encode_boxes

import book
from timing import Row, compare, main, place
from visdeploy import ops, tolerance

VARIANCES, WEIGHTS = (0.1, 0.2), (10.0, 10.0, 5.0, 5.0)
# The book's TinySSD on 256 x 256.
MAPS = [
    ((32, 32), [0.2, 0.272]),
    ((16, 16), [0.37, 0.447]),
    ((8, 8), [0.54, 0.619]),
    ((4, 4), [0.71, 0.79]),
    ((1, 1), [0.88, 0.961]),
]
RATIOS = [1, 2, 0.5]


def close(a: Any, b: Any) -> bool:
    """Classes, masks and confidences exactly, floats but for the last bit of exp and log."""
    if isinstance(a, tuple):
        return torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) and close(a[0], b[0])
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return torch.allclose(a, b, rtol=tolerance.BOXES, atol=10 * tolerance.BOXES)


def random_boxes(n: int, rng: np.random.Generator) -> torch.Tensor:
    corner, side = rng.random((n, 2)), rng.uniform(0.05, 0.5, (n, 2))
    return place(torch.from_numpy(np.concatenate([corner, corner + side], 1).astype(np.float32)))


def coding(n: int, rng: np.random.Generator) -> list[Row]:
    anchors, boxes = random_boxes(n, rng), random_boxes(n, rng)
    offsets = place(torch.from_numpy(rng.normal(0, 1, (n, 4)).astype(np.float32)))
    coder, weights = BoxCoder(WEIGHTS), place(torch.tensor(WEIGHTS))
    rows = compare(
        f"decode_boxes ({n}, 4) variances",
        {
            "visdeploy": lambda: ops.decode_boxes(offsets, anchors, variances=VARIANCES, num_threads=1),
            "d2l": lambda: book.offset_inverse(anchors, offsets),
        },
        close,
    )
    rows += compare(
        f"decode_boxes ({n}, 4) weights",
        {
            "visdeploy": lambda: ops.decode_boxes(offsets, anchors, weights=WEIGHTS, num_threads=1),
            "torchvision": lambda: coder.decode_single(offsets, anchors),
        },
        close,
    )
    rows += compare(
        f"encode_boxes ({n}, 4) variances",
        {
            "visdeploy": lambda: ops.encode_boxes(boxes, anchors, variances=VARIANCES, num_threads=1),
            "d2l": lambda: book.offset_boxes(anchors, boxes),
        },
        close,
    )
    return rows + compare(
        f"encode_boxes ({n}, 4) weights",
        {
            "visdeploy": lambda: ops.encode_boxes(boxes, anchors, weights=WEIGHTS, num_threads=1),
            "torchvision": lambda: encode_boxes(boxes, anchors, weights),
        },
        close,
    )


def targets(anchors: torch.Tensor, images: int, boxes: int, rng: np.random.Generator) -> list[Row]:
    labels = torch.cat([random_boxes(boxes, rng) for _ in range(images)]).reshape(images, boxes, 4)
    labels = torch.cat([torch.zeros_like(labels[..., :1]), labels], 2)
    return compare(
        f"multibox_target {images}x{boxes} boxes, {len(anchors)} anchors",
        {
            "visdeploy": lambda: ops.multibox_target(anchors, labels, num_threads=1),
            "d2l": lambda: book.multibox_target(anchors[None], labels),
        },
        close,
    )


def detections(anchors: torch.Tensor, images: int, spread: float, rng: np.random.Generator) -> list[Row]:
    n = len(anchors)
    probs = place(torch.softmax(torch.from_numpy(rng.normal(0, 2, (images, 2, n)).astype(np.float32)), 1))
    offsets = place(torch.from_numpy(rng.normal(0, spread, (images, 4 * n)).astype(np.float32)))
    return compare(
        f"multibox_detection {images}x{n}, offsets of {spread}",
        {
            "visdeploy": lambda: ops.multibox_detection(probs, offsets, anchors, num_threads=1),
            "d2l": lambda: book.multibox_detection(probs, offsets, anchors[None]),
        },
        close,
    )


def cases() -> list[Row]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = []
    for n in (1, 100, 8732, 100_000):
        rows += coding(n, rng)
    for feature_size, sizes in (*MAPS[::4], ((561, 728), [0.75, 0.5, 0.25])):
        rows += compare(
            f"multibox_prior {feature_size[0]}x{feature_size[1]}",
            {
                "visdeploy": lambda f=feature_size, s=sizes: ops.multibox_prior(f, s, RATIOS),
                "d2l": lambda f=feature_size, s=sizes: book.multibox_prior(f, s, RATIOS),
            },
            lambda a, b: np.array_equal(a, b.numpy()),
        )
    anchors = place(torch.cat([torch.from_numpy(ops.multibox_prior(*of_map, RATIOS)[0]) for of_map in MAPS]))
    rows += targets(anchors[:1], 1, 1, rng) + targets(anchors, 1, 1, rng) + targets(anchors, 32, 5, rng)
    for n, images, spread in (
        (1, 1, 1.0),
        (100, 1, 1.0),
        (5444, 1, 0.5),
        (5444, 1, 1.0),
        (5444, 1, 2.0),
        (5444, 8, 1.0),
    ):
        rows += detections(anchors[:n], images, spread, rng)
    return rows


if __name__ == "__main__":
    main(cases, ["visdeploy", "torch", "torchvision"])
