"""On a real GPU: run where visdeploy-cuda13 finds one, and nowhere else.

`VISDEPLOY_REQUIRE_CUDA=1` makes failures of the skips, for machines that have one.
"""

import os
from importlib import import_module

import numpy as np
import pytest

from visdeploy import gpu_check, mask, ops
from visdeploy.native import cuda_status

REQUIRED = os.environ.get("VISDEPLOY_REQUIRE_CUDA")
need = import_module if REQUIRED else pytest.importorskip
torch = need("torch")


@pytest.fixture(autouse=True)
def _gpu() -> None:
    version, sentence = cuda_status()
    if version is None and REQUIRED:
        pytest.fail(f"VISDEPLOY_REQUIRE_CUDA is set, and there is no GPU to use: {sentence}")
    if version is None:
        pytest.skip(sentence)


@pytest.mark.parametrize("op", gpu_check.OPS)
def test_ops_answer_as_on_the_cpu(op: str) -> None:
    assert gpu_check.compare(op).different == ()


def test_torch_tensors_stay_on_their_device_and_stream() -> None:
    rng = np.random.default_rng(0)
    boxes, scores = rng.random((5000, 4), np.float32), rng.random(5000, np.float32)
    boxes[:, 2:] += boxes[:, :2]
    expected = ops.nms(boxes, scores, 0.5)
    there = torch.zeros(5000, 4, device="cuda"), torch.zeros(5000, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # on another stream the op would see the zeros
        for tensor, values in zip(there, (boxes, scores), strict=True):
            tensor.copy_(torch.from_numpy(values))
        kept = ops.nms(*there, 0.5)
        assert kept.is_cuda
        np.testing.assert_array_equal(kept.cpu().numpy(), expected)


def test_nms_is_captured_in_a_graph() -> None:
    boxes = torch.rand(3000, 4, device="cuda")
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.rand(3000, device="cuda")
    out = torch.zeros(3000, dtype=torch.int64, device="cuda"), torch.zeros(1, dtype=torch.int64, device="cuda")
    ops.nms(boxes, scores, 0.5, out=out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.nms(boxes, scores, 0.5, out=out)
    for _ in range(3):
        scores.copy_(torch.rand_like(scores))
        graph.replay()
        expected = ops.nms(boxes.cpu(), scores.cpu(), 0.5)
        assert out[0][: int(out[1])].cpu().tolist() == expected.tolist()


def test_cupy_arrays_answer_in_kind() -> None:
    cupy = need("cupy")
    image = cupy.zeros((40, 50), cupy.uint8)
    image[3:9, 4:30] = 1
    assert mask.encode(image) == mask.encode(image.get())
    kept = ops.nms(cupy.zeros((1, 4), cupy.float32), cupy.zeros(1, cupy.float32), 0.5)
    assert isinstance(kept, cupy.ndarray)
