"""From image file to COCO RLE: each engine against PyTorch as written by hand. Needs what `make demo` leaves."""

from pathlib import Path
from typing import Any

import numpy as np

from timing import Row, compare, main
from visdeploy import mask
from visdeploy.baseline import EagerBaseline
from visdeploy.bundle import Bundle
from visdeploy.engines import open_engine
from visdeploy.predictor import Predictor
from visdeploy.train import checkpoint
from visdeploy.verify import runnable

DEMO = Path("demo_out")
IMAGES = 8


def nearly_equal(a: list[Any], b: list[Any]) -> bool:
    """One answer but for pixels whose logit lies within rounding of the threshold."""
    return all(float((mask.decode(x) != mask.decode(y)).mean()) <= 1e-3 for x, y in zip(a, b, strict=True))


def cases() -> list[Row]:
    if not (DEMO / "car.vdz").is_file():
        raise SystemExit(f"{DEMO / 'car.vdz'} is missing: run `make demo` first")
    paths = sorted((DEMO / "scenes" / "images").iterdir())[:IMAGES]
    sources = [path.read_bytes() for path in paths]
    bundle = Bundle.open(DEMO / "car.vdz")
    contenders = {}
    for name in runnable(bundle):
        predictor = Predictor(bundle, open_engine(name, bundle))
        contenders[f"visdeploy {name}"] = lambda p=predictor: [foreground(p(source)) for source in sources]
    net, spec = checkpoint.load(DEMO / "run")
    rival = EagerBaseline(net, spec)
    contenders["PyTorch eager + pycocotools"] = lambda: [rival(source).rle for source in sources]
    height, width = spec.size
    return compare(f"serve {IMAGES} images, network {height}x{width}", contenders, same=nearly_equal, n=25)


def foreground(result: Any) -> dict[str, Any]:
    """The RLE of the one class, or an empty one."""
    empty = mask.encode(np.zeros(result.size, np.uint8))
    return result.masks.rle[0] if result.masks.rle else empty


if __name__ == "__main__":
    main(cases, ["visdeploy", "torch", "openvino", "onnxruntime", "pycocotools", "opencv-python"])
