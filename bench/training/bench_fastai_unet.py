"""fastai's DynamicUnet and ours, with the same weights: a training step, and an answer, each in fastai's best setting.

    python bench/training/bench_fastai_unet.py --json bench/results/bench_fastai_unet.json

Needs `pip install fastai`, which nothing else here does. The logits must agree, on even and odd sizes, and so must the
losses of the first steps. Of fastai's four settings (float32 or bfloat16 autocast, channels first or last) the fastest
is the rival that counts; fastai by itself runs float32, channels first. Ours runs bfloat16, channels last, as
visdeploy trains, and beside it float32. Set OMP_NUM_THREADS to compare on so many threads.
"""

import copy
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from fastai.vision.models.unet import DynamicUnet
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet34

from timing import Row, compare, main
from visdeploy import models
from visdeploy.bundle import Bundle
from visdeploy.engines import open_engine
from visdeploy.export import export

CLASSES, BATCH, SIZE = 12, 4, (192, 256)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDS = 7
FIRST_LOSSES = 0.02  # how much those of bfloat16 may differ from those of float32, relatively
ROUNDED = 0.1  # the same for logits, by their largest
SETTINGS = [(dtype, layout) for dtype in ("bf16", "fp32") for layout in ("channels last", "channels first")]


def theirs() -> DynamicUnet:
    """Over a ResNet34 without pooling and classifier, which is how fastai cuts it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return DynamicUnet(nn.Sequential(*list(resnet34().children())[:-2]), CLASSES, SIZE)


def ours(state: dict[str, Tensor]) -> nn.Module:
    net = models.create("dynamic_unet", encoder="resnet34", num_classes=CLASSES)
    with TemporaryDirectory() as folder:
        torch.save(state, path := Path(folder) / "model.pth")
        models.load_weights(net, path, layout="fastai")
    return net


@torch.inference_mode()
def require_equal_logits(a: nn.Module, b: nn.Module) -> None:
    for size in (SIZE, (SIZE[0] - 21, SIZE[1] - 3)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(a.eval()(x), b.eval()(x), rtol=1e-5, atol=1e-5)


def placed(net: nn.Module, x: Tensor, layout: str) -> tuple[nn.Module, Tensor]:
    if layout == "channels first":
        return net, x.contiguous()
    return net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)


def training(net: nn.Module, x: Tensor, target: Tensor, dtype: str, layout: str) -> Callable[[], float]:
    """Return a training step: forward, loss, backward, AdamW."""
    net, x = placed(net.train(), x, layout)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            logits = net(x)
        loss = functional.cross_entropy(logits.float().as_subclass(Tensor), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(net: nn.Module, x: Tensor, dtype: str, layout: str) -> Callable[[], np.ndarray]:
    net, x = placed(net.eval(), x, layout)

    def answer() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            return net(x).float().numpy()

    return answer


def exported(net: nn.Module, images: np.ndarray, folder: Path) -> dict[str, Callable[[], Any]]:
    spec = {"task": "segmentation", "labels": [f"class {i}" for i in range(CLASSES)], "size": SIZE}
    export(net, path := folder / "net.vdz", spec=spec | {"mean": MEAN, "std": STD}, golden=list(images[:1]))
    threads = torch.get_num_threads()
    engines = {
        precision: open_engine("openvino", Bundle.open(path), precision=precision, num_threads=threads)
        for precision in ("fp32", "bf16")
    }
    return {f"visdeploy, OpenVINO {name}": partial(engine.infer, images) for name, engine in engines.items()}


def near(tolerance: float, a: Any, b: Any) -> bool:
    return bool(np.abs(np.subtract(a, b)).max() <= tolerance * np.abs(a).max())


def cases() -> list[Row]:
    torch.manual_seed(0)
    original = theirs()
    state = original.state_dict()
    net = ours(state)
    require_equal_logits(net, original)

    def twin() -> DynamicUnet:
        # Not a copy: its hooks would still listen to the first one.
        again = theirs()
        again.load_state_dict(state)
        return again

    images = np.random.default_rng(0).integers(0, 256, (BATCH, *SIZE, 3), np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    x = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    target = torch.randint(0, CLASSES, (BATCH, *SIZE))
    shape = f"resnet34, {BATCH}x3x{SIZE[0]}x{SIZE[1]}, {torch.get_num_threads()} threads"
    steps: dict[str, Callable[[], Any]] = {
        f"visdeploy {dtype}": training(copy.deepcopy(net), x, target, dtype, "channels last")
        for dtype in ("bf16", "fp32")
    }
    steps |= {f"fastai {a}, {b}": training(twin(), x, target, a, b) for a, b in SETTINGS}
    rows = compare(f"training step, {shape}", steps, same=partial(near, FIRST_LOSSES), n=ROUNDS)
    steps.clear()
    with TemporaryDirectory() as folder:
        answers: dict[str, Callable[[], Any]] = {
            f"visdeploy {dtype}": inference(copy.deepcopy(net), x, dtype, "channels last") for dtype in ("bf16", "fp32")
        }
        answers |= {f"fastai {a}, {b}": inference(twin(), x, a, b) for a, b in SETTINGS}
        answers |= exported(net, images, Path(folder))
        rows += compare(f"answer, {shape}", answers, same=partial(near, ROUNDED), n=ROUNDS)
    return rows


if __name__ == "__main__":
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    main(cases, ["visdeploy", "fastai", "torch", "torchvision", "openvino"])
