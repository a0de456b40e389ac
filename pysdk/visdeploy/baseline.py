"""What a PyTorch user runs today, written by hand with well-known libraries: the rival in every end-to-end table."""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from visdeploy.errors import InputError, requires
from visdeploy.spec import Spec
from visdeploy.types import Timings

with requires("the PyTorch baseline needs torch and pycocotools", "train"):
    import torch
    from pycocotools import mask as coco_mask
    from torch import nn
    from torch.nn import functional


@dataclass(frozen=True)
class BaselineAnswer:
    """The RLE of the foreground, and how long each stage took."""

    rle: dict[str, Any]
    timings: Timings


class EagerBaseline:
    """cv2.imread, cv2.resize, the eager network, torch's interpolate at full size, pycocotools' encode.

    It can stand in for a predictor in `benchmark.measure`.
    """

    def __init__(self, net: nn.Module, spec: Spec) -> None:
        if not spec.binary or spec.resize != "stretch":
            raise InputError("[baseline] spec: only a binary model with resize 'stretch' is written out here")
        self.net, self.spec = net.eval(), spec
        self.engine = SimpleNamespace(name="PyTorch eager + pycocotools", version=torch.__version__, precision="fp32")
        self._mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std).view(1, 3, 1, 1)

    def __call__(self, image: Any) -> BaselineAnswer:
        """Predict one image file (a path, or its bytes)."""
        marks = [time.perf_counter()]
        data = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else np.fromfile(image, np.uint8)
        pixels = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        marks.append(time.perf_counter())
        height, width = self.spec.size
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        marks.append(time.perf_counter())
        with torch.inference_mode():
            batch = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
            logits = self.net((batch - self._mean) / self._std)
            marks.append(time.perf_counter())
            full = functional.interpolate(logits, pixels.shape[:2], mode="bilinear", align_corners=False)
            mask = (torch.sigmoid(full)[0, 0] > self.spec.threshold).to(torch.uint8).numpy()
        rle = coco_mask.encode(np.asfortranarray(mask))
        marks.append(time.perf_counter())
        return BaselineAnswer(rle, Timings(*(1e3 * taken for taken in np.diff(marks))))
