"""What every op takes as an array, and gives back; shown on the template op."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from visdeploy import mask, ops
from visdeploy.errors import InputError, UnsupportedError

torch = pytest.importorskip("torch")


class Foreign:
    """An array of a framework that has only the slow half of DLPack."""

    def __init__(self, array: Any, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


@pytest.mark.parametrize("step", [1, 3])
def test_torch_in_torch_out(step: int) -> None:
    x = torch.arange(12, dtype=torch.float32)[::step]
    out = ops.null(x)
    assert type(out) is torch.Tensor
    assert torch.equal(out, x)


def test_torch_empty_transposed_and_tracked() -> None:
    assert ops.null(torch.zeros(0)).shape == (0,)
    pixels = torch.rand(5, 7) > 0.5
    assert mask.encode(pixels.T) == mask.encode(pixels.T.numpy())
    assert ops.null(torch.ones(3, requires_grad=True)).tolist() == [1, 1, 1]


def test_torch_of_another_dtype_is_refused() -> None:
    for dtype, name in ((torch.float64, "float64"), (torch.int32, "int32"), (torch.bfloat16, "another dtype")):
        with pytest.raises(InputError, match=f"expected float32, got {name}"):
            ops.null(torch.zeros(3, dtype=dtype))


def test_anything_that_speaks_dlpack() -> None:
    rle = mask.encode(Foreign(np.eye(4, dtype=np.uint8)), num_threads=np.int64(5000))
    assert rle == mask.encode(np.eye(4, dtype=np.uint8))
    assert type(ops.null(Foreign(np.ones(3, np.float32)))) is np.ndarray


def test_tensors_without_data_are_refused() -> None:
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    with pytest.raises(InputError, match=r"^\[null\] x: expected an array with data, got a .*FakeTensor.* \(3,\)"):
        ops.null(fake.FakeTensorMode().from_tensor(torch.ones(3)))


def test_other_devices_are_refused() -> None:
    with pytest.raises(InputError, match=r"^\[encode\] mask: expected an array in CPU or CUDA memory"):
        mask.encode(Foreign(np.eye(4, dtype=np.uint8), device=8))
    with pytest.raises(InputError, match=r"^\[null\] x: expected an array in CPU or CUDA memory"):
        ops.null(torch.zeros(3, device="meta"))


@pytest.mark.skipif(bool(mask._core.cuda_version()), reason="the native module has CUDA kernels")
def test_a_build_without_cuda_says_what_to_install() -> None:
    message = r"^\[encode\] mask: .* this build has no CUDA kernels, .* pip install visdeploy-cuda13"
    with pytest.raises(UnsupportedError, match=message):
        mask.encode(Foreign(np.eye(4, dtype=np.uint8), device=2))


def test_byte_order_is_seen() -> None:
    with pytest.raises(InputError, match="another dtype"):
        ops.null(np.zeros(3, ">f4"))


@pytest.mark.parametrize("threads", [0, -1, 2.5, "2", 2**70])
def test_threads_are_checked(threads: Any) -> None:
    message = r"^\[encode\] num_threads: expected (None or at least 1|a whole number), got "
    with pytest.raises(InputError, match=message):
        mask.encode(np.eye(4, dtype=np.uint8), num_threads=threads)


def test_isa_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import numpy as np; from visdeploy import _core, mask; mask.encode(np.eye(4, dtype=np.uint8)); _core.isa()"
    monkeypatch.setenv("VISDEPLOY_ISA", "scalar")
    subprocess.run([sys.executable, "-c", f"{code}; assert _core.isa() == 'scalar'"], check=True)
    monkeypatch.setenv("VISDEPLOY_ISA", "sse9")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "InputError: [isa] VISDEPLOY_ISA: expected scalar, avx2 or avx512" in done.stderr


B, S = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
L, D = np.zeros((1, 3, 2), np.float32), np.zeros((1, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.nms(B, S, None), r"^\[nms\] iou_threshold: expected a number, got None$"),
        (lambda: ops.nms(B, S, 0.5, max_output=1.5), r"^\[nms\] max_output: expected a whole number, got 1.5$"),
        (lambda: ops.nms(B, S, 0.5, max_output=2**70), r"max_output: expected a whole number, got 1180"),
        (lambda: ops.batched_nms(B, S, S, 0.5, mode=None), r"^\[batched_nms\] mode: expected .*, got None$"),
        (lambda: ops.detect(L, D, B, image_size=10), r"^\[detect\] image_size: expected numbers, got 10$"),
        (lambda: ops.detect(L, D, B, image_size=(1,)), r"^\[detect\] image_size: expected \(H, W\), got 1 num"),
        (lambda: ops.decode_boxes(B, B, variances=0.1), r"^\[decode_boxes\] variances: expected numbers, got 0.1$"),
        (lambda: ops.decode_boxes(B, B, weights=(1e-60, 1, 1, 1)), r"weights: expected numbers that float32 holds"),
        (lambda: ops.decode_boxes(B, B, weights=(1, 1, 1, 1), clip=5), r"clip: expected numbers, got 5$"),
        (lambda: mask.encode_logits(B, size=(10.9, 5)), r"^\[encode_logits\] size: expected \(height, width\), got"),
        (lambda: mask.encode_logits(B, threshold=float("nan")), r"threshold: expected a number, got NaN$"),
        (lambda: mask.to_kaggle(mask.encode(np.eye(4, dtype=np.uint8)), base=2**62), r"^\[to_kaggle\] base: expected"),
    ],
)
def test_numbers_are_named_when_they_are_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
