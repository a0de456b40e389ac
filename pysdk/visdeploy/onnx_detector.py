"""A detector in one ONNX file that answers boxes: decoding and `NonMaxSuppression` of the standard operators inside.

Note [What the graph decides as ops.detect does]
Scores are compared as float32, strictly. An IoU in float32 exceeds the threshold, a double, if and only if it exceeds
the greatest float32 that is not above that. Equal scores take the lower anchor first, then the lower class: TopK has
the lower index first among equals, and its input is laid out by anchor, then class. NMS leaves alone what has no area.
What may differ is rounding: of softmax and exp, which engines compute their own way, and of the IoU, where they fuse a
multiply and an add.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from visdeploy import bundle as bundles
from visdeploy.bundle import Bundle
from visdeploy.engines.answering_file import OUTPUTS
from visdeploy.errors import InputError, requires
from visdeploy.replayed import write_replayed
from visdeploy.report import Report
from visdeploy.spec import Manifest

with requires("[export] --format onnx needs onnx", "train"):
    import onnx
    import onnx.compose
    from onnx import TensorProto, helper, numpy_helper

_PREFIX = "visdeploy_nms_"
_LARGEST_SIZE = np.float32(np.log(1000 / 16))  # as ops.decode_boxes holds it down
_LEAST_OPSET = 13


def export_onnx(bundle: Bundle, path: str | Path, *, progress: Callable[[str], None] | None = None) -> Report:
    """Write the network as ONNX, a detector with NMS inside; the file appears only when it answers as recorded.

    A detector takes uint8 (B, h, w, 3) RGB of the network's size and answers boxes (B, k, 4) float32 in pixels of that
    size, scores (B, k), labels (B, k) int64 and counts (B,) int64, where k is `max_det`, or all boxes that there can
    be if these are fewer. An image's first `counts` rows are its detections, best first; the others are zero. It
    answers as the bundle does but for rounding: see the Note above; `Spec.nms` is always "exact". For other tasks the
    file is the bundle's own graph.

    Args:
        bundle: An opened bundle.
        path: Target, `*.onnx`.
        progress: Called with one line per step.

    Raises:
        InputError: The target is named otherwise, or the bundle's graph is older than operator set 13.
        CheckFailedError: The file answers differently; nothing is written.
    """
    say = progress or (lambda line: None)
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"[export] out: expected a file named *.onnx, got {path}")
    graph = bundle.read(bundles.ONNX)
    if bundle.manifest.task == "detection":
        say("adding NMS to the graph")
        graph = with_nms(onnx.load_from_string(graph), bundle.manifest).SerializeToString()

    def write(unproven: Path) -> None:
        unproven.write_bytes(graph)

    return write_replayed(bundle, path, write, say)


def with_nms(model: onnx.ModelProto, spec: Manifest) -> onnx.ModelProto:
    """Return a detector's graph that answers `OUTPUTS`, from one that answers (B, N, C + 4) as in `Spec.task`.

    Raises:
        InputError: It is older than operator set 13, or its input has the name of an answer.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _LEAST_OPSET:
        raise InputError(f"[export] model.onnx: expected operator set {_LEAST_OPSET} or newer, got {opset}")
    if spec.input_name in OUTPUTS:
        raise InputError(
            f"[export] model.onnx: expected an input that is not named as an answer, got {spec.input_name}"
        )
    named, prefix = {name for node in model.graph.node for name in node.output}, ""
    named |= {tensor.name for tensor in model.graph.initializer}
    if not named.isdisjoint(OUTPUTS):
        prefix = "network_"
        model = onnx.compose.add_prefix(model, prefix, rename_inputs=False)
    steps = _Steps(model.graph)
    output = next(value for value in model.graph.output if value.name == prefix + spec.output_name)
    answer = output.name
    if output.type.tensor_type.elem_type != TensorProto.FLOAT:
        answer = steps("Cast", answer, to=TensorProto.FLOAT)
    assert spec.anchors is not None
    anchors, classes = spec.anchors.boxes(spec.size), len(spec.labels)
    logits, offsets = steps.split(answer, [classes, 4])
    boxes = _decoded(steps, offsets, anchors, spec)
    # The background is left out: what is label 1 has the index 0 here.
    _, scores = steps.split(steps("Softmax", logits, axis=-1), [1, classes - 1])
    found = _select(steps, boxes, scores, len(anchors), classes - 1, spec)
    for name, value in zip(OUTPUTS, found, strict=True):
        model.graph.node.append(helper.make_node("Identity", [value], [name]))
    del model.graph.output[:]
    k = min(spec.max_det, len(anchors) * (classes - 1))
    rows: list[int | str] = ["batch", k]
    kinds = (TensorProto.FLOAT, [*rows, 4]), (TensorProto.FLOAT, rows), (TensorProto.INT64, rows)
    for name, (kind, shape) in zip(OUTPUTS, (*kinds, (TensorProto.INT64, rows[:1])), strict=True):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    onnx.checker.check_model(model)
    return model


class _Steps:
    """Appends nodes to a graph, each with one output unless it is a split; arguments are names, or arrays."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._count = 0

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        return self._add(operator, inputs, 1, attributes)[0]

    def split(self, value: str, lengths: list[int]) -> list[str]:
        """Cut the last axis."""
        return self._add("Split", (value, np.array(lengths)), len(lengths), {"axis": -1})

    def best(self, value: str, k: int) -> list[str]:
        """Return the k greatest along the last axis, and their indices."""
        return self._add("TopK", (value, np.array([k])), 2, {"axis": -1})

    def _add(self, operator: str, inputs: tuple[Any, ...], outputs: int, attributes: dict[str, Any]) -> list[str]:
        names = [value if isinstance(value, str) else self._constant(np.asarray(value)) for value in inputs]
        made = [self._name() for _ in range(outputs)]
        self._graph.node.append(helper.make_node(operator, names, made, **attributes))
        return made

    def _constant(self, array: Any) -> str:
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"{_PREFIX}{self._count}"


def _decoded(steps: _Steps, offsets: str, anchors: Any, spec: Manifest) -> str:
    """Return (B, N, 4) boxes inside the image, in the arithmetic of `ops.decode_boxes`."""
    half = np.float32(0.5)
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + half * sides
    shift, growth = steps.split(steps("Div", offsets, np.array(spec.box_weights, np.float32)), [2, 2])
    centre = steps("Add", steps("Mul", shift, sides), centres)
    reach = steps("Mul", steps("Mul", steps("Exp", steps("Min", growth, _LARGEST_SIZE)), sides), half)
    corners = steps("Concat", steps("Sub", centre, reach), steps("Add", centre, reach), axis=-1)
    height, width = spec.size
    limits = np.array([width, height, width, height], np.float32)
    return steps("Max", steps("Min", corners, limits), np.float32(0))


def _select(steps: _Steps, boxes: str, scores: str, anchors: int, classes: int, spec: Manifest) -> tuple[str, ...]:
    """Return boxes, scores, labels and counts, from boxes (B, N, 4) and scores (B, N, C) without the background."""
    threshold = np.float32(spec.threshold)
    # NaN is not greater, and must not meet TopK, nor a product with zero.
    scores = steps("Where", steps("Greater", scores, threshold), scores, np.float32(0))
    by_class = steps("Transpose", scores, perm=[0, 2, 1])
    if spec.top_k < anchors:
        best, places = steps.best(by_class, spec.top_k)
        nothing = steps("Mul", by_class, np.float32(0))
        by_class = steps("ScatterElements", nothing, places, best, axis=2)
    selected = steps(
        "NonMaxSuppression",
        boxes,
        by_class,
        np.array([spec.max_det]),
        np.array([_not_above(spec.iou_threshold)]),
        np.array([threshold]),
    )
    # Rows of image, class and anchor, to places by image, anchor and class.
    places = steps("Gather", selected, np.array([0, 2, 1]), axis=1)
    kept = steps("ScatterND", steps("Mul", scores, np.float32(0)), places, steps("GatherND", scores, places))
    flat = steps("Reshape", kept, np.array([0, anchors * classes]))
    best, index = steps.best(flat, min(spec.max_det, anchors * classes))
    is_found = steps("Greater", best, threshold)
    counts = steps("ReduceSum", steps("Cast", is_found, to=TensorProto.INT64), np.array([1]), keepdims=0)
    labels = steps("Add", steps("Mod", index, np.array(classes)), np.array(1))
    rows = steps("Unsqueeze", steps("Div", index, np.array(classes)), np.array([2]))
    found = steps("GatherND", boxes, rows, batch_dims=1)
    inside = steps("Unsqueeze", is_found, np.array([2]))
    return (
        steps("Where", inside, found, np.float32(0)),
        steps("Where", is_found, best, np.float32(0)),
        steps("Where", is_found, labels, np.array(0)),
        counts,
    )


def _not_above(value: float) -> np.float32:
    """Return the greatest float32 that is not above a double."""
    nearest = np.float32(value)
    return nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf))
