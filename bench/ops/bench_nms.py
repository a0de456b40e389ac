"""How long does non-maximum suppression take, on one thread, against what users have today?"""

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import powerboxes
import torch
import torchvision
from onnx import TensorProto, helper

from timing import Row, compare, main, place
from visdeploy import ops

THRESHOLD = 0.5


def uniform(n: int, rng: np.random.Generator) -> np.ndarray:
    """Sides of 1 to 101 anywhere in 1000 x 1000: of 1000 boxes about 950 are kept, of 100,000 40 %."""
    corner, side = rng.random((n, 2)) * 1000, rng.random((n, 2)) * 100 + 1
    return np.concatenate([corner, corner + side], 1).astype(np.float32)


def clustered(n: int, rng: np.random.Generator) -> np.ndarray:
    """Twenty boxes around each of n / 20 objects, as a detector gives them: about one in twenty is kept."""
    objects = n // 20
    corner = rng.random((objects, 2)) * 1000 * max(1, n / 1000) ** 0.5
    side = rng.random((objects, 2)) * 80 + 20
    boxes = np.repeat(np.concatenate([corner, corner + side], 1), 20, axis=0)
    boxes += rng.normal(0, 0.05, boxes.shape) * np.repeat(np.concatenate([side, side], 1), 20, axis=0)
    return boxes.astype(np.float32)


def onnx_model(n: int) -> bytes:
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, n, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, n]),
    ]
    constants = [
        helper.make_tensor("most", TensorProto.INT64, [1], [n]),
        helper.make_tensor("threshold", TensorProto.FLOAT, [1], [THRESHOLD]),
    ]
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "threshold"], ["kept"])
    outputs = [helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])]
    graph = helper.make_graph([node], "nms", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnxruntime_nms(boxes: np.ndarray, scores: np.ndarray) -> Callable[[], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(len(boxes)), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"boxes": boxes[None], "scores": scores[None, None]})[0][:, 2]


def openvino_nms(boxes: np.ndarray, scores: np.ndarray) -> Callable[[], np.ndarray]:
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(onnx_model(len(boxes))), "CPU", settings).create_infer_request()

    def call() -> np.ndarray:
        rows = request.infer([boxes[None], scores[None, None]], share_inputs=True)[0]
        return rows[rows[:, 0] >= 0, 2]

    return call


def rivals(boxes: np.ndarray, scores: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Each gets its arrays as it likes them, made before the clock starts."""
    arrays = place(boxes), place(scores)
    tensors = [torch.as_tensor(x) for x in arrays]
    found = {
        "visdeploy": lambda: ops.nms(*arrays, THRESHOLD),
        "torchvision": lambda: torchvision.ops.nms(*tensors, THRESHOLD),
    }
    if len(boxes) in (1000, 10_000):
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        for_powerboxes = boxes, scores.astype(np.float64)  # it takes no other scores
        found |= {
            "OpenVINO": openvino_nms(boxes, scores),
            "ONNX Runtime": onnxruntime_nms(boxes, scores),
            "cv2.dnn.NMSBoxes": lambda: np.array(cv2.dnn.NMSBoxes(xywh, scores, 0.0, THRESHOLD)),
            "powerboxes": lambda: powerboxes.nms(*for_powerboxes, THRESHOLD, 0.0),
            "powerboxes rtree": lambda: powerboxes.rtree_nms(*for_powerboxes, THRESHOLD, 0.0),
        }
    return found


def nearly_same(a: np.ndarray, b: np.ndarray) -> bool:
    """For rivals that compute in another precision, or compare with another rounding of the threshold."""
    a = a.cpu().numpy() if isinstance(a, torch.Tensor) else a
    return len(np.setxor1d(a, b)) <= 0.005 * len(a) + 1


def single(n: int, make: Callable[[int, np.random.Generator], np.ndarray], rng: np.random.Generator) -> list[Row]:
    boxes, scores = make(n, rng), rng.random(n).astype(np.float32)
    contenders = rivals(boxes, scores)
    case = f"nms {make.__name__} {n}"
    pair = {"visdeploy": contenders["visdeploy"], "torchvision": contenders.pop("torchvision")}
    rows = compare(case, pair, n=3 if n > 50_000 else None)
    return rows + (compare(f"{case}, more rivals", contenders, nearly_same) if len(contenders) > 1 else [])


def batched(n: int, classes: int, rng: np.random.Generator) -> list[Row]:
    # Distinct scores: of equal ones torchvision's second sort may exchange the order.
    boxes, scores = clustered(n, rng), (rng.permutation(n) / n).astype(np.float32)
    labels = rng.integers(0, classes, n)
    arrays = [place(x) for x in (boxes, scores, labels)]
    tensors = [torch.as_tensor(x) for x in arrays]
    return compare(
        f"batched_nms {n}, {classes} classes",
        {
            "visdeploy": lambda: ops.batched_nms(*arrays, THRESHOLD, num_threads=1),
            "torchvision": lambda: torchvision.ops.batched_nms(*tensors, THRESHOLD),
        },
    )


def iou(n: int, m: int, rng: np.random.Generator) -> list[Row]:
    a, b = uniform(n, rng), uniform(m, rng)
    arrays = place(a), place(b)
    tensors = [torch.as_tensor(x) for x in arrays]
    return compare(
        f"box_iou {n} x {m}",
        {
            "visdeploy": lambda: ops.box_iou(*arrays, num_threads=1),
            "torchvision": lambda: torchvision.ops.box_iou(*tensors),
        },
    )


def growth(rng: np.random.Generator) -> list[Row]:
    """Alone: torchvision would need half an hour for the last."""
    rows = []
    for n in (1000, 10_000, 100_000, 1_000_000):
        boxes, scores = place(uniform(n, rng)), place(rng.random(n).astype(np.float32))
        ours = partial(ops.nms, boxes, scores, THRESHOLD)
        rows += compare(f"nms growth {n}", {"visdeploy": ours}, n=9)
    return rows


def cases() -> list[Row]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    rows = []
    for make in (uniform, clustered):
        for n in (100, 1000, 10_000, 100_000):
            rows += single(n, make, rng)
    rows += batched(20_000, 80, rng) + iou(1, 1, rng) + iou(1000, 1000, rng)
    return rows + growth(rng)


if __name__ == "__main__":
    main(cases, ["visdeploy", "numpy", "torchvision", "onnxruntime", "openvino", "opencv-python", "powerboxes"])
