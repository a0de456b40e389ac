"""How long do masks and logits take to become COCO RLE and back, against every public implementation, on one thread?"""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import faster_coco_eval.core.mask as faster
import numpy as np
import rlemasklib
import torch
import ultrafast_pycocotools.mask as ultrafast
from pycocotools import mask as coco

import timing
from timing import Row, compare, equal, main, place
from visdeploy import mask, ops

SIZES = [(480, 640), (1280, 1918), (4000, 6000)]
RNG = np.random.default_rng(0)
# What only takes Fortran order; their users copy.
COLUMNS_ONLY = {"pycocotools": coco, "ultrafast-pycocotools": ultrafast, "faster-coco-eval": faster}


def smooth(height: int, width: int) -> np.ndarray:
    noise = cv2.GaussianBlur(RNG.normal(size=(height, width)).astype(np.float32), (0, 0), min(height, width) / 20)
    return noise / noise.std()


def objects(height: int, width: int) -> np.ndarray:
    return (cv2.resize(smooth(200, 300), (width, height)) > 0).astype(np.uint8)


def dense(height: int, width: int) -> dict[str, np.ndarray]:
    y, x = np.mgrid[:height, :width]
    masks = {"noise": RNG.integers(0, 2, (height, width), np.uint8), "checkerboard": ((x + y) % 2).astype(np.uint8)}
    for percent in (1, 3, 10, 30):
        salt = RNG.random((height, width)) < percent / 100
        masks[f"{percent}% salt and pepper"] = objects(height, width) ^ salt
    return masks


def nearly_same_rle(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Pixels on the threshold may round either way."""
    return np.count_nonzero(mask.decode(a) != mask.decode(b)) <= 1e-5 * np.prod(a["size"])


def nearly_same_map(a: Any, b: np.ndarray) -> bool:
    a = np.asarray(a.cpu() if isinstance(a, torch.Tensor) else a)
    return np.count_nonzero(a != b) <= 1e-5 * a.size


def encode(name: str, m: np.ndarray, *, axis: int = -1, num_threads: int | None = None) -> list[Row]:
    """Time `m` as it lies in memory."""
    columns = np.moveaxis(m, 0, -1) if axis == 0 else m
    placed = place(m)
    contenders: dict[str, Callable[[], Any]] = {
        "visdeploy": lambda: mask.encode(placed, axis=axis, num_threads=num_threads),  # type: ignore[arg-type]
    }
    for rival, module in COLUMNS_ONLY.items():
        contenders[rival] = lambda module=module: module.encode(np.asfortranarray(columns))
    contenders["rlemasklib"] = lambda: rlemasklib.encode(m, batch_first=axis == 0)

    def same(a: Any, b: Any) -> bool:
        return [(r["size"], r["counts"]) for r in np.atleast_1d(a)] == [
            (list(r["size"]), r["counts"]) for r in np.atleast_1d(b)
        ]

    return compare(f"encode {name}", contenders, same)


def decode(name: str, rle: Any) -> list[Row]:
    columns = {"visdeploy": lambda: mask.decode(rle, num_threads=1)}
    columns |= {rival: lambda module=module: module.decode(rle) for rival, module in COLUMNS_ONLY.items()}
    if isinstance(rle, list):
        return compare(f"decode F order {name}", columns)
    columns["rlemasklib"] = lambda: rlemasklib.decode(rle)
    rows: dict[str, Callable[[], Any]] = {
        "visdeploy": lambda: mask.decode(rle, order="C"),
        "rlemasklib": lambda: rlemasklib.RLEMask.from_dict(rle).to_array(order="C"),
    }
    for rival, module in COLUMNS_ONLY.items():
        rows[rival] = lambda module=module: np.ascontiguousarray(module.decode(rle))
    return compare(f"decode F order {name}", columns) + compare(f"decode C order {name}", rows)


def single_masks() -> list[Row]:
    rows = []
    for height, width in [(1, 1), (16, 16), (64, 64), *SIZES]:
        m, size = objects(height, width), f"{height}x{width}"
        rows += encode(f"C order {size}", m) + encode(f"F order {size}", np.asfortranarray(m))
        rows += decode(size, mask.encode(m))
    for kind, m in dense(480, 640).items():
        name = f"480x640 {kind}"
        rows += encode(f"C order {name}", m) + encode(f"F order {name}", np.asfortranarray(m))
        rows += decode(name, mask.encode(m))
    return rows


def batches() -> list[Row]:
    masks = np.stack([objects(640, 640) for _ in range(100)])
    last = np.ascontiguousarray(np.moveaxis(masks, 0, -1))
    rows = encode("100 of 640x640, (N, H, W)", masks, axis=0, num_threads=1)
    rows += encode("100 of 640x640, (N, H, W), threads", masks, axis=0)
    rows += encode("100 of 640x640, (H, W, N)", last, num_threads=1)
    return rows + decode("100 of 640x640", mask.encode(masks, axis=0))


def vector_sum() -> Callable[[np.ndarray], float]:
    source = Path(__file__).parent / "vector_sum.cpp"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "vector_sum.so"
        flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
        subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
        function = ctypes.CDLL(str(library)).vector_sum
    function.restype = ctypes.c_float
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return lambda values: function(values.ctypes.data, values.size)


def logits() -> list[Row]:
    rows = []
    for (h, w), (height, width) in [
        ((1280, 1918), (1280, 1918)),
        ((256, 256), (1080, 1920)),
        ((512, 512), (1280, 1918)),
    ]:
        values = cv2.resize(smooth(200, 300), (w, h))

        def rival(values: np.ndarray = values, size: tuple[int, int] = (width, height)) -> dict[str, Any]:
            large = values if values.shape[::-1] == size else cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)
            return coco.encode(np.asfortranarray((large > 0).view(np.uint8)))

        ours = partial(mask.encode_logits, place(values), (height, width))

        case = f"encode_logits {h}x{w} to {height}x{width}"
        rows += compare(case, {"visdeploy": ours, "cv2+threshold+pycocotools": rival}, nearly_same_rle)
    full, total = cv2.resize(smooth(200, 300), (1918, 1280)), vector_sum()
    placed = place(full)
    floor = {"visdeploy": lambda: mask.encode_logits(placed), "vectorised sum, C++": lambda: total(full)}
    return rows + compare("encode_logits 1280x1918, same size", floor, lambda a, b: equal(a, mask.encode(full > 0)))


def semantic_maps() -> list[Row]:
    rows = []
    for classes, h, w, scale in [(21, 128, 128, 4), (19, 256, 512, 4)]:
        values = np.stack([smooth(h, w) for _ in range(classes)])
        tensor, size, placed = torch.from_numpy(values)[None], (h * scale, w * scale), place(values)

        def rival(tensor: torch.Tensor = tensor, size: tuple[int, int] = size) -> np.ndarray:
            large = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
            return large.argmax(1)[0].to(torch.uint8).numpy()

        def ours(values: Any = placed, size: tuple[int, int] = size) -> Any:
            return ops.semantic_map(values, size)[0]

        case = f"semantic_map {classes}x{h}x{w} to {size[0]}x{size[1]}"
        rows += compare(case, {"visdeploy": ours, "torch interpolate+argmax, no RLE": rival}, nearly_same_map)
    return rows


def cases() -> list[Row]:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    timing.BUDGET_S = 0.1  # there are many cases
    return single_masks() + batches() + logits() + semantic_maps()


if __name__ == "__main__":
    rivals = ["pycocotools", "ultrafast-pycocotools", "rlemasklib", "faster-coco-eval", "opencv-python", "torch"]
    main(cases, ["visdeploy", "numpy", *rivals])
