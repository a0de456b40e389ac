"""`torch.ops.visdeploy`: the native ops inside of scripted, traced, compiled and exported graphs.

Importing this registers them; a file that calls them loads only after that, and in C++ after loading `LIBRARY`. Each
answers exactly as the function of its name in `visdeploy.ops`, or in `visdeploy.mask`, and is documented there. Tensors
lie in CPU memory and may be strided. What an op refuses is a RuntimeError with the sentence that InputError has there.

- `nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor`: int64 (K,) indices.
- `batched_nms(Tensor boxes, Tensor scores, Tensor labels, float iou_threshold, str mode='exact') -> Tensor`.
- `decode_boxes(Tensor offsets, Tensor anchors, *, float[]? variances=None, float[]? weights=None, float[]? clip=None)
  -> Tensor`: float32 shaped as the offsets.
- `detect(Tensor logits, Tensor offsets, Tensor anchors, int[] image_size, float[] weights=[10, 10, 5, 5],
  float score_threshold=0.01, float iou_threshold=0.45, int top_k=400, int max_det=200, str mode='exact') ->
  (Tensor boxes, Tensor scores, Tensor labels, Tensor counts)`: float32 (B, max_det, 4) and (B, max_det), int64
  (B, max_det) and (B,). An image's first `counts` rows are its detections, best first; the others are zero.
- `multibox_detection(Tensor cls_probs, Tensor offsets, Tensor anchors, float nms_threshold=0.5,
  float pos_threshold=0.009999999) -> Tensor`: float32 (B, N, 6).
- `encode_logits(Tensor logits, int[]? size=None, float threshold=0) -> (Tensor bytes, Tensor offsets)`: COCO's
  compressed counts of N masks as uint8 (L,), mask i from offsets[i] to offsets[i + 1]; int64 (N + 1,).
- `semantic_map(Tensor logits, int[] size) -> (Tensor map, Tensor areas, Tensor bytes, Tensor offsets)`: uint8 (H, W),
  int64 (C,), and a mask for each class as in `encode_logits`.
- `letterbox(Tensor image, int[] valid, int[] size, str interpolation='bilinear', int pad_value=0) -> Tensor`: uint8
  (*size, 3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visdeploy.errors import MissingDependencyError, requires
from visdeploy.torch_library import built_with_torch

with requires("visdeploy.torch_ops needs torch", "torchscript"):
    import torch
    from torch import Tensor

OLDEST = (2, 11)
"""The oldest torch that the library is tested with."""


def _load(library: Path) -> None:
    version = torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise MissingDependencyError(
            f"visdeploy.torch_ops needs torch {oldest} or newer, got {version}: pip install --upgrade torch"
        )
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise MissingDependencyError(
            f"visdeploy.torch_ops: torch {version} does not load {library} ({error}): install another version of torch"
        ) from error


LIBRARY = built_with_torch("visdeploy_torch.so")
"""The shared library; a C++ program loads or links it, see `visdeploy --cmake-dir`."""

_load(LIBRARY)


def _fake(name: str) -> Any:
    """Say of an op which shapes it answers with, for graphs that are made without data."""
    return torch.library.register_fake(f"visdeploy::{name}")


def _some(like: Tensor) -> Any:
    """Return a size that depends on data."""
    return torch.library.get_ctx().new_dynamic_size()


@_fake("nms")
def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return scores.new_empty(_some(boxes), dtype=torch.int64)


@_fake("batched_nms")
def _batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, mode: str = "exact") -> Tensor:
    return scores.new_empty(_some(boxes), dtype=torch.int64)


@_fake("decode_boxes")
def _decode_boxes(
    offsets: Tensor,
    anchors: Tensor,
    *,
    variances: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    clip: Sequence[float] | None = None,
) -> Tensor:
    return offsets.new_empty(offsets.shape)


@_fake("detect")
def _detect(
    logits: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    image_size: Sequence[int],
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    score_threshold: float = 0.01,
    iou_threshold: float = 0.45,
    top_k: int = 400,
    max_det: int = 200,
    mode: str = "exact",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = (logits.shape[0], max_det)
    labels = logits.new_empty(rows, dtype=torch.int64)
    return logits.new_empty(*rows, 4), logits.new_empty(rows), labels, logits.new_empty(rows[0], dtype=torch.int64)


@_fake("multibox_detection")
def _multibox_detection(
    cls_probs: Tensor, offsets: Tensor, anchors: Tensor, nms_threshold: float = 0.5, pos_threshold: float = 0.009999999
) -> Tensor:
    return cls_probs.new_empty(cls_probs.shape[0], cls_probs.shape[2], 6)


@_fake("encode_logits")
def _encode_logits(logits: Tensor, size: Sequence[int] | None = None, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    masks = logits.shape[0] if logits.ndim == 3 else 1
    text = logits.new_empty(_some(logits), dtype=torch.uint8)
    return text, logits.new_empty(masks + 1, dtype=torch.int64)


@_fake("semantic_map")
def _semantic_map(logits: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    classes = logits.shape[0]
    text = logits.new_empty(_some(logits), dtype=torch.uint8)
    areas, offsets = (logits.new_empty(n, dtype=torch.int64) for n in (classes, classes + 1))
    return logits.new_empty(size, dtype=torch.uint8), areas, text, offsets


@_fake("letterbox")
def _letterbox(
    image: Tensor, valid: Sequence[int], size: Sequence[int], interpolation: str = "bilinear", pad_value: int = 0
) -> Tensor:
    return image.new_empty(*size, 3)
