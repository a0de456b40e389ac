"""A bundle's network as OpenVINO IR: `car.xml` with `car.bin` beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from visdeploy.bundle import ONNX, Bundle
from visdeploy.engines import graph_files, reason
from visdeploy.errors import EngineError, InputError, UnsupportedError, requires
from visdeploy.replayed import write_replayed
from visdeploy.report import Report


def export_openvino(
    bundle: Bundle, path: str | Path, *, precision: str = "fp32", progress: Callable[[str], None] | None = None
) -> Report:
    """Write the network as IR; the files appear only when they answer as the bundle recorded.

    The graph takes uint8 (B, h, w, 3) RGB of any B, and of any height and width where `resize` is "native". Weights are
    kept as they are, not halved. Under `visdeploy` in its rt_info are the precision and the manifest. bf16 is no file:
    it is how OpenVINO runs the fp32 graph when told to (`INFERENCE_PRECISION_HINT`).

    Args:
        bundle: An opened bundle.
        path: Target, `*.xml`; the weights go into the `.bin` of the same name.
        precision: "fp32", that of a variant that the bundle holds for OpenVINO, or "auto" for the variant if accepted.
        progress: Called with one line per step.

    Raises:
        InputError: The target cannot be written.
        MissingDependencyError: openvino is not installed.
        UnsupportedError: The bundle holds no graph of this precision.
        CheckFailedError: The file answers differently; nothing is written.
    """
    with requires("[export] format openvino needs it", "openvino"):
        import openvino
    say = progress or (lambda line: None)
    path = Path(path)
    if path.suffix != ".xml":
        raise InputError(f"[export] out: expected a file named *.xml, got {path}")
    spec = bundle.manifest
    if precision == "auto":
        held = [form for form in spec.variants if form.engine == "openvino" and form.accepted and form.files]
        precision = held[0].precision if held else "fp32"
    if precision in ("bf16", "fp16"):
        raise UnsupportedError(
            f"[export] precision: {precision} is no file but how OpenVINO runs the fp32 graph; export fp32 and set "
            f"INFERENCE_PRECISION_HINT where it is compiled"
        )
    graph = [bundle.read(name) for name in graph_files(bundle, "openvino", precision, {"fp32": ONNX}, ("int8",))]
    say(f"converting the {precision} graph to IR")
    try:
        model: Any = openvino.Core().read_model(*graph)
        if model.inputs[0].partial_shape.is_dynamic and spec.resize != "native":
            model.reshape({0: openvino.PartialShape([-1, *spec.size, 3])})
    except Exception as error:  # its message may not even be UTF-8
        raise EngineError(f"openvino: refused {bundle.path} ({reason(error)})") from error
    model.set_rt_info(precision, ["visdeploy", "precision"])
    model.set_rt_info(spec.model_dump_json(exclude={"files"}), ["visdeploy", "manifest"])

    def write(unproven: Path) -> None:
        try:
            openvino.save_model(model, unproven, compress_to_fp16=False)
        except RuntimeError as error:
            raise InputError(f"[export] out: cannot write {path} ({reason(error)})") from error

    return write_replayed(bundle, path, write, say)
