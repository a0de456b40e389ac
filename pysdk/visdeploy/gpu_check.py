"""Runs every op on a CUDA device and on the CPU, and compares the answers bit by bit: what `check --gpu` does."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from visdeploy import mask, ops
from visdeploy.errors import MissingDependencyError
from visdeploy.native import _core, cuda_status

# Around the widths of a warp, a word and a block, and beyond what one block of NMS takes at once.
SIZES = (1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097, 9000)
SEEDS = (0, 1)

Case = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """What came of one op.

    Attributes:
        op: Its name.
        cases: How many inputs both sides were given.
        different: What was told apart, as "n=33 seed=1"; empty when all is well.
        seconds: Time of all cases on both sides.
    """

    op: str
    cases: int
    different: tuple[str, ...]
    seconds: float


def run(device: int = 0) -> list[Row]:
    """Compare every op on a device with the CPU.

    Raises:
        MissingDependencyError: No kernels, driver or device; the message says which and what to install.
        CudaError: A CUDA call failed.
    """
    version, sentence = cuda_status()
    if version is None:
        raise MissingDependencyError(f"[check] no op can run on a GPU here: {sentence}")
    return [compare(op, device) for op in OPS]


def compare(op: str, device: int = 0) -> Row:
    """Compare one op; what a machine without a GPU says is `cuda_status`'s."""
    function, cases = OPS[op]
    start = time.perf_counter()
    different = []
    for n in SIZES:
        for seed in SEEDS:
            arguments, options = cases(n, seed)
            there = function(*(_to_device(argument, device) for argument in arguments), **options)
            if not equal(plain(function(*arguments, **options)), plain(there)):
                different.append(f"n={n} seed={seed}")
    return Row(op, len(SIZES) * len(SEEDS), tuple(different), time.perf_counter() - start)


def _to_device(argument: Any, device: int) -> Any:
    return _core.DeviceArray(argument, device) if isinstance(argument, np.ndarray) else argument


def plain(answer: Any) -> Any:
    """Return an op's answer with its arrays in NumPy and without its dataclasses, wherever they are."""
    if is_dataclass(answer):
        return [plain(getattr(answer, field.name)) for field in fields(answer)]
    if isinstance(answer, (list, tuple)):
        return [plain(part) for part in answer]
    return answer.numpy() if hasattr(answer, "numpy") else answer


def equal(here: Any, there: Any) -> bool:
    """Whether two plain answers are the same, bit for bit but for NaN."""
    if isinstance(here, np.ndarray):
        if here.dtype.kind == "f":  # a GPU has one NaN, and it is not the one that x86 makes
            here, there = np.where(here != here, np.nan, here), np.where(there != there, np.nan, there)
        return bool(here.dtype == there.dtype and here.shape == there.shape and here.tobytes() == there.tobytes())
    if isinstance(here, list):
        return len(here) == len(there) and all(map(equal, here, there))
    return bool(here == there)


def _boxes(n: int, rng: np.random.Generator) -> Any:
    """Boxes on a grid, so that equal ones and IoUs at the threshold abound."""
    corner = rng.integers(0, 40 + n // 20, (n, 2))
    return np.concatenate([corner, corner + rng.integers(0, 12, (n, 2))], 1).astype(np.float32)


def _scores(n: int, rng: np.random.Generator) -> Any:
    return (rng.integers(0, 50, n) / 50).astype(np.float32)


def _nms(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return (_boxes(n, rng), _scores(n, rng), 0.5), {}


def _batched_nms(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return (_boxes(n, rng), _scores(n, rng), rng.integers(-2, 8, n), 0.5), {"score_threshold": 0.1}


def _box_iou(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return (_boxes(n, rng), _boxes(33, rng)), {}


def _anchors(n: int, rng: np.random.Generator) -> Any:
    corner = rng.random((n, 2), np.float32)
    return np.concatenate([corner, corner + rng.random((n, 2), np.float32) / 4 + np.float32(0.01)], 1)


def _decode_boxes(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 2, (2, n, 4)).astype(np.float32), _anchors(n, rng)), {"weights": (10, 10, 5, 5)}


def _encode_boxes(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return (_anchors(n, rng), _anchors(n, rng)), {"variances": (0.1, 0.2)}


def _detect(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 4, (2, n, 5)).astype(np.float32)
    offsets = rng.normal(0, 1, (2, n, 4)).astype(np.float32)
    return (logits, offsets, 300 * _anchors(n, rng)), {"image_size": (300, 300), "score_threshold": 0.3}


def _multibox_detection(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    probabilities = (rng.integers(0, 20, (2, 3, n)) / 20).astype(np.float32)
    return (probabilities, rng.normal(0, 1, (2, 4 * n)).astype(np.float32), _anchors(n, rng)), {}


def _multibox_target(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    boxes = np.stack([_anchors(7, rng) for _ in range(2)])
    classes = rng.integers(-1, 3, (2, 7, 1)).astype(np.float32)
    return (_anchors(n, rng), np.concatenate([classes, boxes], 2)), {}


def waves(height: int, width: int, rng: np.random.Generator) -> Any:
    """Smooth values around zero."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    sum_of_two = np.sin(x / (2 + 9 * rng.random()) + y / 7) + np.cos(y / (2 + 9 * rng.random()) - x / 11)
    return sum_of_two.astype(np.float32)


def _blobs(height: int, width: int, rng: np.random.Generator) -> Any:
    values = waves(height, width, rng)
    values[rng.random(values.shape) < 0.01] = np.nan
    return values


def _side(n: int) -> tuple[int, int]:
    """A height and a width whose product is about n squared for small n, and never huge."""
    return n % 700 + 1, min(n, 700)


def _encode(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return ((np.stack([_blobs(*_side(n), rng) > level for level in (-1, 0, 1)])),), {"axis": 0}


def _encode_logits(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    height, width = _side(n)
    return (_blobs(height // 3 + 1, width // 2 + 1, rng), (height, width)), {"threshold": 0.25}


def _semantic_map(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    height, width = _side(n)
    return (np.stack([_blobs(height // 3 + 1, width // 2 + 1, rng) for _ in range(4)]), (height, width)), {}


def _letterbox(n: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    height, width = _side(n)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    ways = ("nearest", "bilinear", "area")
    return (image, (height // 2 + 1, width // 3 + 1), (height + 1, width + 1)), {"interpolation": ways[n % 3]}


def _null(n: int, seed: int) -> Case:
    return (np.random.default_rng(seed).random(n, np.float32),), {}


OPS: dict[str, tuple[Callable[..., Any], Callable[[int, int], Case]]] = {
    "null": (ops.null, _null),
    "nms": (ops.nms, _nms),
    "batched_nms": (ops.batched_nms, _batched_nms),
    "box_iou": (ops.box_iou, _box_iou),
    "decode_boxes": (ops.decode_boxes, _decode_boxes),
    "encode_boxes": (ops.encode_boxes, _encode_boxes),
    "detect": (ops.detect, _detect),
    "multibox_detection": (ops.multibox_detection, _multibox_detection),
    "multibox_target": (ops.multibox_target, _multibox_target),
    "encode": (mask.encode, _encode),
    "encode_logits": (mask.encode_logits, _encode_logits),
    "letterbox": (ops.letterbox, _letterbox),
    "semantic_map": (ops.semantic_map, _semantic_map),
}
