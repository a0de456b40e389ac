"""What serving is compared with. Each contender is called with JPEG files as bytes and answers with their COCO RLE."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import sched_getaffinity
from typing import Any

import cv2
import numpy as np
import openvino
import rlemasklib
import torch
from model_api.adapters import OpenvinoAdapter
from model_api.models import SegmentationModel
from model_api.pipelines import AsyncPipeline
from pycocotools import mask as coco_mask
from torch.nn import functional

from visdeploy.spec import Spec

Files = Sequence[bytes]
Rles = list[dict[str, Any]]
CORES = len(sched_getaffinity(0))
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def todays_script(module: torch.jit.ScriptModule, spec: Spec) -> Callable[[Files], Rles]:
    """OpenCV, TorchScript, NumPy and pycocotools, one image after the other, as the tutorials of each have it."""
    mean = np.array(spec.mean, np.float32)
    std = np.array(spec.std, np.float32)

    def serve(files: Files) -> Rles:
        answers = []
        for file in files:
            pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            small = cv2.resize(pixels, spec.size[::-1], interpolation=cv2.INTER_AREA)
            batch = ((small.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]
            with torch.inference_mode():
                logits = module(torch.from_numpy(np.ascontiguousarray(batch)))
                full = functional.interpolate(logits, pixels.shape[:2], mode="bilinear", align_corners=False)
            mask = (full[0, 0].numpy() > 0).astype(np.uint8)
            answers.append(coco_mask.encode(np.asfortranarray(mask)))
        return answers

    return serve


def model_api(core: openvino.Core, xml: str, weights: str, precision: str) -> Callable[[Files], Rles]:
    """OpenVINO Model API: its pipeline with resize in the graph, and masks of its own nearest-pixel resize.

    Its masks differ a little from the others' along every edge, as its pipeline has no other resize than those.
    """
    adapter = OpenvinoAdapter(
        core,
        xml,
        weights,
        plugin_config={"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": HINTS[precision]},
    )
    two_channels(adapter.model)
    settings = {"resize_type": "standard", "reverse_input_channels": True, "blur_strength": -1}
    model = SegmentationModel(adapter, {**settings, "return_soft_prediction": False})
    pipeline = AsyncPipeline(model)

    def serve(files: Files) -> Rles:
        answers: Rles = []

        def take(index: int) -> bool:
            found = pipeline.get_result(index)
            if found is not None:
                mask = found[0].astype(np.uint8)
                answers.append(coco_mask.encode(np.asfortranarray(mask)))
            return found is not None

        for index, file in enumerate(files):
            while not pipeline.is_ready():
                if not take(len(answers)):
                    pipeline.await_any()
            pipeline.submit_data(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), index)
        pipeline.await_all()
        while len(answers) < len(files):
            take(len(answers))
        return answers

    return serve


def two_channels(model: openvino.Model) -> None:
    """Answer background and foreground, whose argmax is the threshold: Model API has no binary models."""
    from openvino import opset13 as ops

    logits = model.output(0).get_node().input_value(0)
    both = ops.concat([ops.multiply(logits, np.float32(-1)), logits], 1)
    both.output(0).get_tensor().set_names({"both"})
    model.remove_result(model.get_results()[0])
    model.add_results([ops.result(both.output(0))])
    model.validate_nodes_and_infer_types()


def handwritten(model: openvino.CompiledModel, size: tuple[int, int]) -> Callable[[Files], Rles]:
    """The best we know to write in forty lines: OpenVINO's queue of requests, OpenCV, the fastest RLE encoder on PyPI.

    Decoding runs ahead in a pool, what follows the network in the queue's callback.
    """
    queue = openvino.AsyncInferQueue(model)
    pool = ThreadPoolExecutor(CORES)

    def prepare(file: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
        return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)[None], pixels.shape[:2]

    def serve(files: Files) -> Rles:
        answers: list[Any] = [None] * len(files)

        def finish(request: openvino.InferRequest, job: tuple[int, tuple[int, int]]) -> None:
            index, (height, width) = job
            full = cv2.resize(request.get_output_tensor(0).data[0, 0], (width, height), interpolation=cv2.INTER_LINEAR)
            answers[index] = rlemasklib.encode(full > 0)

        queue.set_callback(finish)
        waiting = [pool.submit(prepare, file) for file in files[: 2 * CORES]]
        for index in range(len(files)):
            batch, shape = waiting.pop(0).result()
            if index + 2 * CORES < len(files):
                waiting.append(pool.submit(prepare, files[index + 2 * CORES]))
            queue.start_async({0: batch}, (index, shape))
        queue.wait_all()
        return answers

    return serve


def engine_alone(model: openvino.CompiledModel, count: int, size: tuple[int, int]) -> Callable[[], None]:
    """OpenVINO's own benchmark: requests kept busy with one image that is there already."""
    queue = openvino.AsyncInferQueue(model)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    for request in queue:
        request.set_input_tensor(openvino.Tensor(pixels))

    def infer() -> None:
        for _ in range(count):
            queue.start_async()
        queue.wait_all()

    return infer
