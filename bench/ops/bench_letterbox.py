"""How long does an image take to network size, on one thread, against OpenCV, Pillow and torch?"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from timing import Row, compare, main, place
from visdeploy import ops, tolerance

# Height and width before and after: Carvana's, full HD and VGA into network sizes, a camera's photo. Pillow and torch
# weigh no parts of pixels, so that they are rivals only where sides are divided by whole numbers.
SHRINK = [
    ((1280, 1918), (512, 512)),
    ((1280, 1918), (342, 512)),
    ((1080, 1920), (512, 512)),
    ((360, 480), (192, 256)),
    ((4000, 6000), (1024, 1024)),
]
DIVIDE = [((1024, 1024), (512, 512)), ((2160, 3840), (540, 960))]
GROW = [((256, 256), (512, 512)), ((360, 480), (512, 512))]
OPENCV = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
PAD = ((1270, 1918), (1280, 1920))


def photo(height: int, width: int) -> np.ndarray:
    """Smooth shapes with the noise of a sensor."""
    rng = np.random.default_rng(height)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 80 * np.sin(x / a + y / b) for a, b in ((90, 300), (250, 70), (140, 500))]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def within_one_level(ours: Any, theirs: Any) -> bool:
    a, b = (np.asarray(x.cpu() if hasattr(x, "cpu") else x, np.int16) for x in (ours, theirs))
    return bool(np.abs(a - b).max() <= tolerance.LETTERBOX_LEVELS)


def cases() -> list[Row]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    for before, after in SHRINK:
        rows += resizing(before, after, "area")
    for before, after in DIVIDE:
        rows += resizing(before, after, "area", Image.Resampling.BOX)
    for before, after in GROW:
        rows += resizing(before, after, "bilinear", Image.Resampling.BILINEAR)
    rows += resizing(*SHRINK[0], "bilinear") + resizing(*SHRINK[0], "nearest")
    return rows + padding(*PAD)


def resizing(before: tuple[int, int], after: tuple[int, int], way: Any, pillow: Any = None) -> list[Row]:
    image = photo(*before)
    placed, picture = place(image), Image.fromarray(image)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]

    def with_torch() -> Any:
        floats = torch.nn.functional.interpolate(planes.float(), after, mode=way)
        return floats.round_().to(torch.uint8)[0].permute(1, 2, 0)

    contenders: dict[str, Callable[[], Any]] = {
        "visdeploy": lambda: ops.letterbox(placed, after, interpolation=way),
        "OpenCV": lambda: cv2.resize(image, after[::-1], interpolation=OPENCV[way]),
    }
    if pillow is not None:
        contenders |= {"Pillow": lambda: picture.resize(after[::-1], pillow), "torch": with_torch}
    return compare(f"letterbox {way} {size(before)} to {size(after)}", contenders, within_one_level)


def padding(before: tuple[int, int], after: tuple[int, int]) -> list[Row]:
    image = photo(*before)
    placed, (bottom, right) = place(image), (after[0] - before[0], after[1] - before[1])
    contenders = {
        "visdeploy": lambda: ops.letterbox(placed, before, after),
        "OpenCV": lambda: cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT),
        "NumPy": lambda: np.pad(image, ((0, bottom), (0, right), (0, 0))),
    }
    return compare(f"letterbox pad {size(before)} to {size(after)}", contenders, within_one_level)


def size(sides: tuple[int, int]) -> str:
    return f"{sides[0]}x{sides[1]}"


if __name__ == "__main__":
    main(cases, ["visdeploy", "opencv-python", "pillow", "torch"])
