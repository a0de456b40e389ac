"""JPEG files to COCO RLE at full size, streamed: each precision against the scripts people write, and the ceiling.

The ceiling is what the engine answers alone, fed from memory, and then the decoding on all cores: whatever serves these
files has to do both.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import torch

import model
import rivals
import visdeploy
from timing import Row, compare, main
from visdeploy import mask
from visdeploy.bundle import Bundle
from visdeploy.engines.torchscript import accepting_deprecation
from visdeploy.train import checkpoint
from visdeploy.types import Result

ROUNDS = 5
# How often the photographs are served in a round: so that starting and ending a stream weighs little.
REPEATS = {"fp32": 1, "bf16": 2, "int8": 4}
# Masks of another precision, or of Model API's resize, which does not average, are not the same; they must be alike to
# be compared, and how alike is printed.
ALIKE = 0.05
# Of ours in fp32 against today's script.
CHANGED = 1e-4


def cases() -> list[Row]:
    model.prepare()
    photographs = [path.read_bytes() for path in model.photographs()]
    bundle = Bundle.open(model.BUNDLE)
    net, spec = checkpoint.load(model.RUN)
    spec = spec.model_copy(update={"size": model.SIZE})
    with accepting_deprecation():
        module = torch.jit.freeze(torch.jit.trace(net.eval(), torch.zeros(1, 3, *model.SIZE)))
    today = rivals.todays_script(module, spec)
    core = openvino.Core()
    rows: list[Row] = []
    for precision, repeats in REPEATS.items():
        files = photographs * repeats
        graph = write_graph(bundle, precision)
        hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": rivals.HINTS[precision]}
        compiled = core.compile_model(graph, "CPU", hints)
        predictor = visdeploy.load(model.BUNDLE, engine="openvino", precision=precision)

        def ours(predictor: visdeploy.Predictor = predictor, files: rivals.Files = files) -> rivals.Rles:
            return [foreground(result) for result in predictor.stream(files)]

        contenders: dict[str, Callable[[], Any]] = {
            f"visdeploy {precision}": ours,
            "today's script, fp32": bind(today, files),
            "OpenVINO Model API": bind(rivals.model_api(core, *map(str, model_api_files(graph)), precision), files),
            "handwritten, OpenVINO queue": bind(rivals.handwritten(compiled, model.SIZE), files),
            "ceiling": ceiling(rivals.engine_alone(compiled, len(files), model.SIZE), files),
        }
        reference, *answers = ((name, serve()) for name, serve in contenders.items())
        for name, answer in answers[:-1]:
            share = float(np.mean([changed(a, b) for a, b in zip(reference[1], answer, strict=True)]))
            print(f"{name}: {share:.2g} of the pixels differ from ours in {precision}")
            if precision == "fp32" and name.startswith("today") and share > CHANGED:
                raise SystemExit(f"more than {CHANGED} of the pixels changed against today's script")
        case = f"{len(files)} JPEG of 1918x1280 to RLE, {precision}"
        rows += compare(case, contenders, same=alike, n=ROUNDS)
        predictor.close()
    return rows


def write_graph(bundle: Bundle, precision: str) -> Path:
    """Leave the bundle's graph of a precision as IR, with the static shape that it runs fastest with."""
    core = openvino.Core()
    if precision == "int8":
        xml, weights = bundle.read("variants/int8-openvino.xml"), bundle.read("variants/int8-openvino.bin")
        graph = core.read_model(xml, weights)
    else:
        graph = core.read_model(bundle.read("model.onnx"))
    graph.reshape([1, *model.SIZE, 3])
    path = model.FOLDER / f"{precision}.xml"
    openvino.save_model(graph, path, compress_to_fp16=False)
    return path


def model_api_files(path: Path) -> tuple[Path, Path]:
    return path, path.with_suffix(".bin")


def bind(serve: Callable[[rivals.Files], rivals.Rles], files: rivals.Files) -> Callable[[], rivals.Rles]:
    return lambda: serve(files)


def ceiling(infer: Callable[[], None], files: rivals.Files) -> Callable[[], None]:
    pool = ThreadPoolExecutor(rivals.CORES)

    def decode(file: bytes) -> None:
        cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)

    def run() -> None:
        infer()
        list(pool.map(decode, files))

    return run


def foreground(result: Result) -> dict[str, Any]:
    """The RLE of the one class, or an empty one."""
    if result.error is not None or result.masks is None:
        raise SystemExit(f"{result.source}: {result.error}")
    return result.masks.rle[0] if result.masks.rle else mask.encode(np.zeros(result.size, np.uint8))


def changed(a: dict[str, Any], b: dict[str, Any]) -> float:
    return float((mask.decode(a) != mask.decode(b)).mean())


def alike(a: Any, b: Any) -> bool:
    return b is None or all(changed(x, y) <= ALIKE for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    main(cases, ["visdeploy", "openvino", "openvino-model-api", "torch", "opencv-python", "pycocotools", "rlemasklib"])
