"""The forms of a bundle's graph in lower precision, made by the libraries that the engines' own projects offer.

Note [sizes become constants]
Padding as TensorFlow does it is arithmetic on sizes inside the graph. Where the network sees one size only, a copy of
fixed size is folded by ONNX Runtime, so that no quantiser, no half precision and no parser meets that arithmetic; then
the batch is made free again, which holds only if the copy still answers a batch of two as the original does.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy import tolerance
from visdeploy.bundle import Bundle
from visdeploy.comparison import relative_error
from visdeploy.engines import open_engine, reason
from visdeploy.errors import EngineError, UnsupportedError, VisdeployError, requires

with requires("lower precision needs onnx and onnxruntime", "quantize"):
    import onnx
    from onnxruntime import quantization as ort_quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.transformers.float16 import convert_float_to_float16

Target = Literal["onnxruntime", "tensorrt"]
Files = dict[str, bytes]
Made = TypeVar("Made")

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# ONNX Runtime has no integer kernels for these on a CPU: quantised, they would only convert back and forth.
_FLOAT_IN_ONNXRUNTIME = ("ConvTranspose", "BatchNormalization", "InstanceNormalization", "LayerNormalization")
# TensorRT fuses from the inputs of these; whatever lies between them follows.
_QUANTISED_IN_TENSORRT = (*_LAYERS, "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
# Images that a layer's cost is estimated on.
_RANKED_ON = 2


class Quantizer:
    """Makes graphs of one bundle; calibrates once.

    Attributes:
        layers: Names of the layers with weights, in the graph's order.
        ends: The first of them, and the last: those that the answer is read from, of which a detector has many.
    """

    def __init__(self, bundle: Bundle, pixels: Sequence[NDArray[np.uint8]]) -> None:
        self._bundle, self._pixels = bundle, pixels
        self._graph = _making("a graph of fixed size", lambda: _fixed_size(bundle))
        self._sizes = _computing_sizes(self._graph.graph)
        self._folder = tempfile.TemporaryDirectory(prefix="visdeploy-quantize-")
        self._rankings: dict[Target, tuple[str, ...]] = {}
        self.layers = tuple(node.name for node in self._graph.graph.node if node.op_type in _LAYERS)
        last, self._tail = _end(self._graph.graph)
        self.ends = tuple(dict.fromkeys((*self.layers[:1], *last)))

    def __enter__(self) -> "Quantizer":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def fp16(self) -> bytes:
        """Return the graph in half precision, its input and output as they were.

        Raises:
            UnsupportedError: The graph computes with sizes in floats.
            EngineError: The graph cannot be converted.
        """

        def make() -> bytes:
            graph = convert_float_to_float16(_copy(self._graph), keep_io_types=True)
            return bytes(graph.SerializeToString())

        casts = [node for node in self._graph.graph.node if node.op_type == "Cast" and node.name in self._sizes]
        if any(attribute.i == onnx.TensorProto.FLOAT for node in casts for attribute in node.attribute):
            raise UnsupportedError(
                "[export] precision: no fp16 for this graph: it computes with sizes of images in floats, which half "
                "precision would round; a spec that resizes to one size makes them constants"
            )
        return _making("fp16", make)

    def int8_onnx(self, target: Target, excluded: Sequence[str] = ()) -> bytes:
        """Return the graph with pairs of QuantizeLinear and DequantizeLinear, as `target` reads them.

        Args:
            target: ONNX Runtime computes fastest with unsigned activations; TensorRT takes none but symmetric signed
                ones, and floats for biases.
            excluded: Names of `layers` left in fp32.

        Raises:
            EngineError: The graph cannot be quantised.
        """
        return _making(f"int8 for {target}", lambda: self._int8_onnx(target, excluded, None))

    def int8_openvino(self, excluded: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """Return OpenVINO's form of the graph in int8: its XML, and its weights.

        Raises:
            MissingDependencyError: nncf or openvino is not installed.
            EngineError: The graph cannot be quantised.
        """
        with _silence():
            with requires("int8 for openvino needs nncf and openvino", "quantize,openvino"):
                import nncf
                import openvino

        def make() -> tuple[bytes, bytes]:
            model = openvino.Core().read_model(self._graph.SerializeToString())
            kept = self._name_in_openvino(model, excluded)
            quantized = nncf.quantize(
                model,
                nncf.Dataset(self._pixels, lambda pixels: pixels[None]),
                subset_size=len(self._pixels),
                ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
            )
            path = Path(self._folder.name) / "int8.xml"
            openvino.save_model(quantized, path, compress_to_fp16=False)
            return path.read_bytes(), path.with_suffix(".bin").read_bytes()

        return _making("int8 for openvino", make)

    def ranking(self, target: Target) -> tuple[str, ...]:
        """Return `layers` by what each alone costs in int8, the costliest first; takes seconds to minutes.

        Raises:
            EngineError: A layer cannot be quantised or run.
        """
        if target not in self._rankings:
            images = [pixels[None] for pixels in self._pixels[:_RANKED_ON]]
            exact = _answers(self._bundle, self._graph.SerializeToString(), images)
            costs = {}
            for name in self.layers:
                graph = _making(f"int8 of {name}", lambda: self._int8_onnx(target, (), name))  # noqa: B023
                costs[name] = max(map(relative_error, _answers(self._bundle, graph, images), exact))
            self._rankings[target] = tuple(sorted(costs, key=lambda name: -costs[name]))
        return self._rankings[target]

    def _int8_onnx(self, target: Target, excluded: Sequence[str], only: str | None) -> bytes:
        folder = Path(self._folder.name)
        tensorrt = target == "tensorrt"
        floats = [
            node.name
            for node in self._graph.graph.node
            if (node.op_type not in _QUANTISED_IN_TENSORRT if tensorrt else node.op_type in _FLOAT_IN_ONNXRUNTIME)
        ]
        for_tensorrt = {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(_QUANTISED_IN_TENSORRT),
        }
        kinds = ort_quantization.QuantType
        ort_quantization.quantize_static(
            _copy(self._graph),
            folder / "int8.onnx",
            _Reader(self._bundle.manifest.input_name, self._pixels),
            quant_format=ort_quantization.QuantFormat.QDQ,
            activation_type=kinds.QInt8 if tensorrt else kinds.QUInt8,
            weight_type=kinds.QInt8,
            per_channel=True,
            nodes_to_quantize=None if only is None else [only],
            nodes_to_exclude=[*self._sizes, *self._floating_tail, *floats, *excluded],
            # The ranges of all tensors, whichever nodes are then quantised, and for whom.
            calibration_cache_path=folder / "ranges.json",
            extra_options=for_tensorrt if tensorrt else {},
        )
        return (folder / "int8.onnx").read_bytes()

    @property
    def _floating_tail(self) -> list[str]:
        """What only moves the answer about: one range for logits and offsets together would round both twice."""
        return [] if self._bundle.manifest.task == "segmentation" else self._tail

    def _name_in_openvino(self, model: Any, layers: Sequence[str]) -> list[str]:
        """Name the operations of `model` that stand for `layers`, which share only names of tensors with them."""
        producers = {name: op for op in model.get_ops() for output in op.outputs() for name in output.get_names()}
        results = {node.name: node.output[0] for node in self._graph.graph.node}
        names = []
        for layer in layers:
            op = producers[results[layer]]
            if op.get_type_name() == "Add":  # of the bias
                op = op.input_value(0).get_node()
            op.set_friendly_name(f"{layer}/layer")
            names.append(op.get_friendly_name())
        return names


class _Reader(ort_quantization.CalibrationDataReader):
    def __init__(self, name: str, pixels: Sequence[NDArray[np.uint8]]) -> None:
        self._feeds = iter({name: image[None]} for image in pixels)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._feeds, None)


def as_model(bundle: Bundle, graph: bytes) -> Bundle:
    """Return the bundle with another graph in the place of its own, for engines to run as it is."""
    return Bundle(bundle.path, bundle.manifest, {**bundle.files, bundles.ONNX: graph})


def _answers(bundle: Bundle, graph: bytes, batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    engine = open_engine("onnxruntime", as_model(bundle, graph), precision="fp32")
    try:
        return [engine.infer(batch) for batch in batches]
    finally:
        engine.close()


def _fixed_size(bundle: Bundle) -> "onnx.ModelProto":
    """See Note [sizes become constants]."""
    spec = bundle.manifest
    original = bundle.read(bundles.ONNX)
    graph = onnx.load_from_string(original)
    if spec.resize == "native":
        return _preprocessed(graph)
    # Old files list their weights among the inputs.
    (dims,) = (value.type.tensor_type.shape.dim for value in graph.graph.input if value.name == spec.input_name)
    any_batch = not dims[0].HasField("dim_value")
    for dim, size in zip(dims, (1, *spec.size), strict=False):
        dim.dim_value = size
    folded = _preprocessed(graph)
    if not any_batch:
        return folded
    images = [value for value in folded.graph.input if value.name == spec.input_name]
    for value in (*images, *folded.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del folded.graph.value_info[:]
    two = np.random.default_rng(0).integers(0, 256, (2, *spec.size, 3), np.uint8)
    try:
        answers = [_answers(bundle, data, [two])[0] for data in (original, folded.SerializeToString())]
        if relative_error(answers[1], answers[0]) <= tolerance.LOGITS["fp32"]:
            return folded
    except EngineError:  # a batch of one is folded into the graph
        pass
    return _preprocessed(onnx.load_from_string(original))


def _preprocessed(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    with tempfile.TemporaryDirectory(prefix="visdeploy-quantize-") as folder:
        path = Path(folder) / "graph.onnx"
        quant_pre_process(graph, path, skip_symbolic_shape=True)
        prepared = onnx.load(path)
    for index, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    # ONNX Runtime declares every domain it knows, which other parsers may not.
    used = {node.domain for node in prepared.graph.node}
    domains = [entry for entry in prepared.opset_import if entry.domain in used]
    del prepared.opset_import[:]
    prepared.opset_import.extend(domains)
    return prepared


def _computing_sizes(graph: "onnx.GraphProto") -> list[str]:
    """Return the names of nodes that compute with sizes only, which must stay exact."""
    constant = {tensor.name for tensor in graph.initializer} | {""}
    sizes: set[str] = set()
    names = []
    for node in graph.node:
        inputs = set(node.input)
        if node.op_type == "Constant":
            constant.update(node.output)
        elif node.op_type in ("Shape", "Size"):
            sizes.update(node.output)
        elif inputs & sizes and inputs <= sizes | constant:
            sizes.update(node.output)
            names.append(node.name)
    return names


def _end(graph: "onnx.GraphProto") -> tuple[list[str], list[str]]:
    """Return the names of the layers that the output is read from, and of the nodes between them and the output."""
    producers = {name: node for node in graph.node for name in node.output}
    waiting, seen = [value.name for value in graph.output], set[str]()
    layers, between = [], []
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in _LAYERS:
            layers.append(node.name)
        else:
            between.append(node.name)
            waiting += node.input
    return layers, between


def _copy(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    return copied


def _making(what: str, make: Callable[[], Made]) -> Made:
    try:
        with _silence():
            return make()
    except (VisdeployError, OSError):  # a full disk is not the graph's fault
        raise
    except Exception as error:  # the libraries raise whatever they stumble over
        raise EngineError(f"[export] precision: cannot make {what} of this graph ({reason(error)})") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the libraries print and log to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
