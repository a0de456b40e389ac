"""Giving anyone's ONNX file the input that every bundle has: uint8 (B, h, w, 3), normalised inside."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from visdeploy.adapt import heads_by_shape
from visdeploy.engines import reason
from visdeploy.errors import InputError
from visdeploy.spec import Spec

_PREFIX = "visdeploy_"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def wrap_graph(path: Path, spec: Spec) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Load an ONNX file and put cast, transpose and normalisation in front where it takes floats.

    Args:
        path: The file. Its graph takes float (B, 3, h, w), or uint8 (B, h, w, 3) which is left alone.
        spec: Gives mean and std, the input's name, and the size that a fixed graph must have.

    Returns:
        The completed model, and the fields of the spec that the file decides.

    Raises:
        InputError: The file is not ONNX, or its input or outputs are not those of the spec's task.
    """
    model = _load(path)
    graph = model.graph
    given = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in given]
    if len(inputs) != 1:
        raise InputError(f"[export] net: expected one input, {path} has {[value.name for value in inputs]}")
    output = _keep_one_output(model, spec, path)
    dims = [_size(dim) for dim in inputs[0].type.tensor_type.shape.dim]
    kind = inputs[0].type.tensor_type.elem_type
    name = inputs[0].name
    if kind == TensorProto.UINT8 and len(dims) == 4 and dims[3] == 3:
        height_width = dims[1:3]
    elif kind in _FLOATS and len(dims) == 4 and dims[1] in (3, None):
        height_width = dims[2:4]
        name = _prepend_normalisation(model, inputs[0], dims, kind, spec)
    else:
        shape = [dim or "?" for dim in dims]
        takes = TensorProto.DataType.Name(kind)
        raise InputError(
            f"[export] net: expected float (B, 3, h, w) or uint8 (B, h, w, 3), {path} takes {takes} {shape}"
        )
    if dims[0] not in (1, None):
        raise InputError(f"[export] net: {path} has a fixed batch of {dims[0]}; export it with a batch of 1 or any")
    for axis, fixed, wanted in zip(("height", "width"), height_width, spec.size, strict=True):
        if fixed is not None and (fixed != wanted or spec.resize == "native"):
            raise InputError(f"[export] size: {path} has a fixed {axis} of {fixed}, the spec says {wanted}")
    return model, {"input_name": name, "output_name": output, "max_batch": dims[0] or spec.max_batch}


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise InputError(f"[export] net: no such file: {path}")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker raise unrelated types
        raise InputError(f"[export] net: {path} is not a valid ONNX file ({reason(error, 0)})") from error
    return model


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _keep_one_output(model: onnx.ModelProto, spec: Spec, path: Path) -> str:
    graph = model.graph
    names = [value.name for value in graph.output]
    if len(names) == 1 or spec.output_name in names:
        return _keep(graph, spec.output_name if spec.output_name in names else names[0])
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    shapes = {value.name: tuple(_size(dim) or 0 for dim in value.type.tensor_type.shape.dim) for value in inferred}
    heads = heads_by_shape(shapes, spec) if spec.task == "detection" else None
    if heads is None:
        raise InputError(f"[export] output_name: {path} has the outputs {names}; the spec must name the one to serve")
    return _join(graph, heads, spec.output_name)


def _keep(graph: onnx.GraphProto, name: str) -> str:
    kept = next(value for value in graph.output if value.name == name)
    del graph.output[:]
    graph.output.append(kept)
    return name


def _join(graph: onnx.GraphProto, heads: tuple[str, str], name: str) -> str:
    """Put the logits and offsets of a detector side by side."""
    taken = {output for node in graph.node for output in node.output}
    name = f"{_PREFIX}{name}" if name in taken else name
    graph.node.append(helper.make_node("Concat", list(heads), [name], name=f"{_PREFIX}heads", axis=2))
    kind = next(value.type.tensor_type.elem_type for value in graph.output if value.name == heads[0])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, kind, [f"{_PREFIX}batch", None, None]))
    return name


def _prepend_normalisation(
    model: onnx.ModelProto, old: onnx.ValueInfoProto, dims: list[int | None], kind: int, spec: Spec
) -> str:
    graph = model.graph
    prefix = _PREFIX
    name = spec.input_name if spec.input_name != old.name else prefix + spec.input_name
    batch, height, width = (dims[i] or f"{prefix}{axis}" for i, axis in ((0, "batch"), (2, "height"), (3, "width")))
    new = helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, height, width, 3])
    for field, values in (("mean", spec.mean), ("std", spec.std)):
        scaled = np.array(values, np.float32).reshape(3, 1, 1) * np.float32(255)
        graph.initializer.append(numpy_helper.from_array(scaled, prefix + field))
    steps = [
        helper.make_node("Cast", [name], [prefix + "float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [prefix + "float"], [prefix + "nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", [prefix + "nchw", prefix + "mean"], [prefix + "centred"]),
    ]
    last = old.name if kind == TensorProto.FLOAT else prefix + "normalised"
    steps.append(helper.make_node("Div", [prefix + "centred", prefix + "std"], [last]))
    if kind != TensorProto.FLOAT:
        steps.append(helper.make_node("Cast", [last], [old.name], to=kind))
    position = next(i for i, value in enumerate(graph.input) if value.name == old.name)
    del graph.input[position]
    graph.input.insert(position, new)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*steps, *body])
    return name
