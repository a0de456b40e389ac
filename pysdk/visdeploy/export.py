"""From any network to a bundle that has proved itself on every engine installed here."""

import copy
import io
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from visdeploy import bundle as bundles
from visdeploy import golden as goldens
from visdeploy import image, postprocess, tiling, tolerance
from visdeploy.bundle import Bundle, Manifest, Spec
from visdeploy.comparison import relative_error
from visdeploy.engines import Engine, cpu_quota, installed, open_engine, reason
from visdeploy.engines import torchscript as torchscript_engine
from visdeploy.errors import InputError, VisdeployError, requires
from visdeploy.image import ImageSource
from visdeploy.preprocess import prepare
from visdeploy.report import Report
from visdeploy.sources import refuse_single
from visdeploy.verify import verify
from visdeploy.whole_file import whole_file

if TYPE_CHECKING:
    from visdeploy.precision import PrecisionOptions

with requires("visdeploy.export needs torch and onnx", "train"):
    import onnx
    import torch
    from torch import Tensor, nn

    from visdeploy.adapt import as_network, completed, single_output
    from visdeploy.onnx_graph import wrap_graph

OPSET = 18
# Tasks whose networks take images of any size, and answer with a map.
_OF_ANY_SIZE = ("segmentation", "restoration")
Conversion = Literal["script", "trace", "absent"]


class Deployable(nn.Module):
    """A network with its normalisation: uint8 (B, h, w, 3) RGB in, float32 logits out."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        """Cast first, then transpose: TensorRT reads no uint8 through a transpose."""
        x = images.float().permute(0, 3, 1, 2)
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits


def export(
    net: "nn.Module | str | Path",
    path: str | Path,
    *,
    spec: Spec | Mapping[str, Any],
    golden: Sequence[ImageSource],
    precision: "PrecisionOptions | None" = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Make a bundle and prove it: the file appears only when every engine installed here answers the same.

    Args:
        net: Any module that maps normalised float32 (B, 3, h, w) to what `Spec.task` says (a tensor, or a dict or
            tuple whose `spec.output_name`, "out" or first entry is one; a detector may answer logits (B, N, C) and
            offsets (B, N, 4) apart, in this order where C is 4 and their names are no known ones), whoever wrote it; a
            torchvision SSD; or the path of an ONNX file, taking either
            that or uint8 (B, h, w, 3).
        path: Target, usually `*.vdz`.
        spec: A `Spec` or a dict of its fields: task, labels, size, mean and std are enough. A detector's `anchors` may
            be left out where the network has a method `anchors(size)`, and all but the labels of a torchvision SSD's.
        golden: Images to record: paths, bytes of image files, (H, W, 3) uint8 RGB arrays or PIL images.
        precision: Variants of lower precision to make; default, none. See `visdeploy.precision`.
        progress: Called with one line per step.

    Returns:
        The report of the verification.

    Raises:
        InputError: The spec, the golden images or the network do not fit each other.
        CheckFailedError: An engine's answers differ beyond the tolerance, or a precision loses more than its budget;
            nothing is written.
        MissingDependencyError: A precision needs a package that is not installed.
        EngineError: An engine refuses the model.
    """
    say = progress or (lambda line: None)
    path = _target(path)
    refuse_single(golden, "[export] golden")
    sources = [_golden_source(source) for source in golden]
    if not sources:
        raise InputError("[export] golden: expected at least one image to record answers for, got none")
    if isinstance(net, nn.Module):
        net = as_network(net)
        spec = completed(spec, net)
    parsed = Spec.parse(spec)
    example = next(tiling.windows(prepare(sources[0][1], parsed).pixels, parsed))
    if isinstance(net, nn.Module):
        manifest, files, reference = _convert_module(net, parsed, example, say)
    elif isinstance(net, str | os.PathLike):
        say("completing the ONNX graph")
        manifest, files, reference = _convert_onnx(Path(net), parsed, example)
    else:
        raise InputError(f"[export] net: expected a torch module or the path of an ONNX file, got {type(net).__name__}")
    say(f"recording {len(sources)} golden images")
    recorded = goldens.record(sources, manifest, reference.infer)
    if manifest.task == "detection" and not any(len(entry.answer["scores"]) for entry in recorded):
        say(f"no golden image has a box above the threshold of {manifest.threshold:g}, so that none is compared")
    files[bundles.GOLDEN] = goldens.pack(recorded)
    files[bundles.LABELS] = "".join(f"{label}\n" for label in manifest.labels).encode()
    bundle = Bundle(path, manifest, files)
    return _write_proven(bundle if precision is None else _with_variants(bundle, precision, say), path, say)


def add_variants(
    source: str | Path,
    path: str | Path,
    *,
    precision: "PrecisionOptions",
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Write a bundle again with variants of lower precision, and prove it as `export` does.

    Args:
        source: The bundle; it may be `path` itself.
        path: Target, usually `*.vdz`.
        precision: What to make; see `visdeploy.precision`.
        progress: Called with one line per step.

    Returns:
        The report of the verification.

    Raises:
        BundleError: The source is damaged.
        InputError, CheckFailedError, MissingDependencyError, EngineError: As in `export`; nothing is written.
    """
    say = progress or (lambda line: None)
    path = _target(path)
    return _write_proven(_with_variants(Bundle.open(source), precision, say), path, say)


def _target(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"[export] path: expected a file in a folder that can be written to, got {path}")
    return path


def _with_variants(bundle: Bundle, options: "PrecisionOptions", say: Callable[[str], None]) -> Bundle:
    from visdeploy import precision  # not before it is asked for: it needs packages that fp32 does not

    return precision.add_variants(bundle, options, progress=say)


def _write_proven(bundle: Bundle, path: Path, say: Callable[[str], None]) -> Report:
    try:
        with whole_file(path) as unproven:
            bundles.write(unproven, bundle.manifest, bundle.files)
            say(f"verifying on {', '.join(installed())}")
            report = replace(verify(unproven), bundle=str(path))
            report.require()
    except OSError as error:
        raise InputError(f"[export] path: cannot write {path} ({error.strerror})") from error
    return report


def _golden_source(source: ImageSource) -> tuple[bytes, NDArray[np.uint8]]:
    decoded = image.decode(source)
    if isinstance(source, str | os.PathLike):
        return Path(source).read_bytes(), decoded
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), decoded
    return image.encode_png(decoded), decoded


def _convert_module(
    net: nn.Module, spec: Spec, example: NDArray[np.uint8], say: Callable[[str], None]
) -> tuple[Manifest, dict[str, bytes], Engine]:
    try:
        # A copy, because the caller's module keeps its device, mode and gradients.
        own = copy.deepcopy(net).cpu().eval().requires_grad_(False)
        deployable = Deployable(single_output(own, spec, example), spec).eval()
        logits = deployable(torch.from_numpy(example[None].copy())).float().numpy()
    except VisdeployError:
        raise
    except Exception as error:  # someone else's network fails in its own ways
        shape = (1, 3, *example.shape[:2])
        raise InputError(f"[export] net: cannot answer a float32 batch of shape {shape} ({reason(error)})") from error
    manifest = _complete(spec, logits, example)
    say("converting to TorchScript")
    script, conversion = _to_torchscript(deployable, manifest)
    manifest = manifest.model_copy(update={"torchscript": conversion})
    say("converting to ONNX")
    files = {bundles.TORCHSCRIPT: script, bundles.ONNX: _to_onnx(deployable, manifest)}
    opened = torchscript_engine.open_engine(
        Bundle(Path(bundles.TORCHSCRIPT), manifest, files), precision="fp32", threads=cpu_quota()
    )
    drift = relative_error(opened.infer(example[None]), logits)
    if drift > tolerance.LOGITS["fp32"]:
        raise InputError(f"[export] net: its TorchScript form answers differently (relative error {drift:.2g})")
    return manifest, files, opened


def _convert_onnx(path: Path, spec: Spec, example: NDArray[np.uint8]) -> tuple[Manifest, dict[str, bytes], Engine]:
    graph, decided = wrap_graph(path, spec)
    spec = spec.model_copy(update=decided)
    usual = "none" if spec.task in _OF_ANY_SIZE else "softmax"
    draft = Manifest.parse(spec.model_copy(update={"activation": spec.activation or usual}))
    engine = open_engine("auto", Bundle(path, draft, {bundles.ONNX: graph.SerializeToString()}))
    manifest = _complete(spec, engine.infer(example[None]), example).model_copy(update={"torchscript": "absent"})
    return manifest, {bundles.ONNX: _with_metadata(graph, manifest)}, engine


def _complete(spec: Spec, logits: NDArray[np.float32], example: NDArray[np.uint8]) -> Manifest:
    """Fill in what only the network's answer to an example tells, and refuse a spec that contradicts it."""
    if problem := postprocess.contradiction(logits.shape, spec, example.shape[:2]):
        raise InputError(f"[export] {problem}")
    if not np.isfinite(logits).all():
        raise InputError("[export] net: its logits for golden image 0 are not all finite")
    data = spec.model_dump()
    if spec.task == "segmentation":
        data |= _read_as_masks(spec, logits.shape[1])
    else:
        data["activation"] = "none" if spec.task == "restoration" else "softmax"
    data["producer"] = {name: metadata.version(name) for name in ("visdeploy", "torch", "onnx")}
    return Manifest.parse(data)


def _read_as_masks(spec: Spec, channels: int) -> dict[str, Any]:
    """Return the fields of the spec that the number of channels decides."""
    activation = spec.activation or ("sigmoid" if channels == 1 else "softmax")
    if activation == ("softmax" if channels == 1 else "sigmoid"):
        raise InputError(f"[export] activation: {activation} does not go with {channels} output channels")
    if activation == "none" and channels == len(spec.labels) == 2:
        raise InputError("[export] activation: none with two labels means one channel of probabilities, got 2 channels")
    return {"activation": activation, "background": 0 if channels == 1 and spec.background is None else spec.background}


def _to_torchscript(deployable: nn.Module, manifest: Manifest) -> tuple[bytes, Conversion]:
    conversion: Conversion = "script"
    # Notes of deprecation, and of what a trace cannot see; a module that came out wrong is caught by verify.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module: Any = torch.jit.script(deployable)
        except Exception:  # the compiler raises whatever it stumbles over; a trace needs none of it
            module = _trace(deployable, manifest)
            conversion = "trace"
        buffer = io.BytesIO()
        torch.jit.save(module, buffer, _extra_files={"visdeploy.json": _metadata(manifest)})
    return buffer.getvalue(), conversion


def _trace(deployable: nn.Module, manifest: Manifest) -> Any:
    try:
        return torch.jit.trace(deployable, _example_batch(manifest), check_trace=False)
    except Exception as error:  # someone else's network fails in its own ways
        raise InputError(f"[export] net: torch can neither script nor trace this network ({reason(error)})") from error


def _to_onnx(deployable: nn.Module, manifest: Manifest) -> bytes:
    """Note [the tracing exporter].

    torch's newer exporter proves every symbolic size, which takes minutes on networks whose padding depends on the
    size (TensorFlow's "same" of many timm models). The tracing one takes under a second and gives the same graphs.
    """
    axes = {0: "batch"}, {0: "batch"}
    if manifest.task in _OF_ANY_SIZE:
        axes = {**axes[0], 1: "height", 2: "width"}, {**axes[1], 2: "out_height", 3: "out_width"}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Notes of deprecation, and of what a trace cannot see; a graph that came out wrong is caught by verify.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                deployable,
                (_example_batch(manifest),),
                buffer,  # type: ignore[arg-type]  # what the other exporter does not take
                dynamo=False,
                opset_version=OPSET,
                input_names=[manifest.input_name],
                output_names=[manifest.output_name],
                dynamic_axes={manifest.input_name: axes[0], manifest.output_name: axes[1]},
            )
        except Exception as error:  # someone else's network fails in its own ways
            raise InputError(f"[export] net: torch cannot export this network to ONNX ({reason(error)})") from error
    graph = onnx.load_from_string(buffer.getvalue())
    for node in graph.graph.node:  # the exporter notes on each where it came from, with the paths of this machine
        node.doc_string = ""
    return _with_metadata(graph, manifest)


def _example_batch(manifest: Manifest) -> Tensor:
    # Two of everything, and no side of one step: the exporter takes a dimension of size one for a constant.
    if manifest.task not in _OF_ANY_SIZE:
        return torch.zeros(2, *manifest.size, 3, dtype=torch.uint8)
    step = manifest.divisor
    sides = [max(2, -(-side // step)) * step for side in manifest.size]
    return torch.zeros(2, *sides, 3, dtype=torch.uint8)


def _with_metadata(graph: "onnx.ModelProto", manifest: Manifest) -> bytes:
    onnx.helper.set_model_props(graph, {"visdeploy": _metadata(manifest)})
    data: bytes = graph.SerializeToString()
    return data


def _metadata(manifest: Manifest) -> str:
    return json.dumps(manifest.model_dump(mode="json", exclude={"files"}))
