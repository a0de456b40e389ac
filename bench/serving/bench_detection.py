"""JPEG files to boxes, streamed, against torchvision's own SSD pipeline and the ceiling; and post-processing alone.

The ceiling is what the engine answers alone, fed from memory, and then the decoding on all cores: whatever serves these
files has to do both. Post-processing is softmax, decoding of boxes and NMS of a batch of 8, beside the time that the
engine takes for it, and torchvision's `postprocess_detections`, which is given the same logits.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openvino
import torch

import detector
import visdeploy
from rivals import CORES, Files, engine_alone
from timing import Row, compare, main
from visdeploy import ops, tolerance
from visdeploy.asked import Asked
from visdeploy.bundle import Bundle
from visdeploy.image import decode
from visdeploy.postprocess import find
from visdeploy.preprocess import prepare
from visdeploy.types import Result

ROUNDS = 5
BATCH = 8
# Torchvision resizes after it normalised, so that boxes near the threshold come and go; of the others this share must
# be the same.
ALIKE = 0.9
CONFIDENT = 0.05

Found = Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Of each image boxes, scores and labels."""


def cases() -> list[Row]:
    torch.set_num_threads(CORES)
    ssd = detector.prepare()
    files = [path.read_bytes() for path in detector.photographs()]
    predictor = visdeploy.load(detector.BUNDLE, engine="openvino", precision="fp32")
    rows = streamed(predictor, ssd, files) + postprocessing(predictor, ssd, files)
    predictor.close()
    return rows


def streamed(predictor: visdeploy.Predictor, ssd: Any, files: Files) -> list[Row]:
    graph = openvino.Core().read_model(Bundle.open(detector.BUNDLE).read("model.onnx"))
    size = predictor.spec.size
    graph.reshape([1, *size, 3])
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(graph, "CPU", hints)
    pool = ThreadPoolExecutor(CORES)
    alone = engine_alone(compiled, len(files), size)

    def ours() -> Found:
        return [boxes_of(result) for result in predictor.stream(files)]

    def ceiling() -> None:
        alone()
        list(pool.map(detector.decode, files))

    def channels_last() -> Found:
        ssd.to(memory_format=torch.channels_last)
        found = torchvision_pipeline(ssd, files)
        ssd.to(memory_format=torch.contiguous_format)
        return found

    contenders: dict[str, Callable[[], Any]] = {
        "visdeploy": ours,
        "torchvision": lambda: torchvision_pipeline(ssd, files),
        "torchvision, channels_last": channels_last,
        "ceiling": ceiling,
    }
    return compare(f"{len(files)} JPEG of 640x480 to boxes, SSD300", contenders, same=alike, n=ROUNDS)


def postprocessing(predictor: visdeploy.Predictor, ssd: Any, files: Files) -> list[Row]:
    spec = predictor.spec
    assert spec.anchors is not None
    anchors = spec.anchors.boxes(spec.size)
    prepared = [prepare(decode(file), spec) for file in files[:BATCH]]
    batch = np.stack([image.pixels for image in prepared])
    outputs = predictor.engine.infer(batch)
    candidates = int((softmax(outputs[..., :-4])[..., 1:] > spec.threshold).sum()) / BATCH
    print(f"{candidates:.0f} candidates an image over {spec.threshold}")
    tensors = torch.from_numpy(outputs)
    heads = {"cls_logits": tensors[..., :-4], "bbox_regression": tensors[..., -4:]}

    def ours() -> Found:
        found = find(outputs, prepared, spec, anchors, Asked())
        return [(boxes.xyxy, boxes.scores, boxes.labels) for boxes in found]  # type: ignore[union-attr]

    @torch.inference_mode()
    def torchvisions() -> Found:
        found = ssd.postprocess_detections(heads, [torch.from_numpy(anchors)] * BATCH, [spec.size] * BATCH)
        sizes = [image.source_size for image in prepared]
        return as_arrays(ssd.transform.postprocess(found, [spec.size] * BATCH, sizes))

    def op() -> None:
        ops.detect(outputs[..., :-4], outputs[..., -4:], anchors, image_size=spec.size, mode=spec.nms)

    def engine() -> None:
        predictor.engine.infer(batch)

    contenders: dict[str, Callable[[], Any]] = {
        "visdeploy": ours,
        "visdeploy, ops.detect alone": op,
        "torchvision": torchvisions,
        "the engine, which comes before": engine,
    }
    return compare(f"post-processing of {BATCH} x {len(anchors)} x {len(spec.labels)}", contenders, same=equal_boxes)


@torch.inference_mode()
def torchvision_pipeline(ssd: Any, files: Files) -> Found:
    """Decode, and let torchvision do the rest, by batches."""
    answers: list[Any] = []
    for first in range(0, len(files), BATCH):
        images = [detector.decode(file) for file in files[first : first + BATCH]]
        answers += as_arrays(ssd([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images]))
    return answers


def as_arrays(found: Sequence[dict[str, torch.Tensor]]) -> Found:
    return [(x["boxes"].numpy(), x["scores"].numpy(), x["labels"].numpy()) for x in found]


def boxes_of(result: Result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if result.error is not None or result.boxes is None:
        raise SystemExit(f"{result.source}: {result.error}")
    return result.boxes.xyxy, result.boxes.scores, result.boxes.labels


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def equal_boxes(ours: Found, theirs: Found | None) -> bool:
    """Whether both found the same in the same order, but for boxes without area, which ours leaves out."""
    if theirs is None:
        return True
    for (boxes, scores, labels), (others, other_scores, other_labels) in zip(ours, theirs, strict=True):
        keep = (others[:, 2] > others[:, 0]) & (others[:, 3] > others[:, 1])
        if not np.array_equal(labels, other_labels[keep]):
            return False
        close = np.allclose(scores, other_scores[keep], rtol=0, atol=tolerance.SCORES)
        if not close or not np.allclose(boxes, others[keep], rtol=0, atol=tolerance.BOXES * 640):
            return False
    return True


def alike(ours: Found, theirs: Found | None) -> bool:
    """Whether nearly all confident boxes of either have a counterpart of the same label in the other."""
    if theirs is None:
        return True
    shares = [counterparts(*both) for pair in zip(ours, theirs, strict=True) for both in (pair, pair[::-1])]
    print(f"{min(shares):.2f} of the boxes in the worst image, {np.mean(shares):.3f} of all have a counterpart")
    return float(np.mean(shares)) >= ALIKE


def counterparts(found: Any, others: Any) -> float:
    boxes, scores, labels = found
    sure = scores > CONFIDENT
    if not sure.any() or not len(others[0]):
        return float(not sure.any())
    same = (ops.box_iou(boxes[sure], others[0]) > 0.8) & (labels[sure][:, None] == others[2])
    return float(same.any(1).mean())


if __name__ == "__main__":
    main(cases, ["visdeploy", "openvino", "torch", "torchvision", "opencv-python"])
