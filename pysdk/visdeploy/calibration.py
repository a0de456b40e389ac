"""The images that int8 takes its ranges from."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visdeploy import golden as goldens
from visdeploy import tiling
from visdeploy.bundle import Bundle
from visdeploy.data import Dataset
from visdeploy.errors import InputError
from visdeploy.image import ImageSource, decode
from visdeploy.preprocess import prepare
from visdeploy.spec import Manifest

# With fewer, a range is what one picture happens to hold.
FEWEST = 8
# Of pixels held at once; a network of the largest size is calibrated on fewer images.
_MAX_BYTES = 1 << 29


@dataclass(frozen=True)
class Calibration:
    """Network inputs.

    Attributes:
        pixels: (h, w, 3) uint8 each, as the network sees them.
        sha256: Over their shapes and samples, in order.
    """

    pixels: Sequence[NDArray[np.uint8]]
    sha256: str


def prepare_images(data: Dataset | Sequence[ImageSource], spec: Manifest, count: int) -> Calibration:
    """Prepare images spread evenly over the training part of a data set, or over unlabelled images.

    Args:
        data: What `visdeploy.data.open` returns, or images.
        spec: How the network is fed.
        count: Number of images; all there are, if that is fewer.

    Raises:
        InputError: An image cannot be decoded, or there are fewer than `FEWEST`.
    """
    if isinstance(data, Dataset):
        loads = [item.load_image for item in data.train]
    else:
        loads = [_loader(source) for source in data]
    if min(count, len(loads)) < FEWEST:
        raise InputError(f"[export] data: calibration takes at least {FEWEST} images, got {min(count, len(loads))}")
    count = min(count, len(loads))
    images = (prepare(loads[i * len(loads) // count](), spec).pixels for i in range(count))
    return _hashed(_one_window(pixels, spec, index) for index, pixels in enumerate(images))


def golden_images(bundle: Bundle) -> Calibration:
    """Return the inputs that the bundle holds answers for.

    Raises:
        BundleError: It holds none.
    """
    recorded = goldens.read(bundle)
    return _hashed(_one_window(entry.pixels, bundle.manifest, index) for index, entry in enumerate(recorded))


def _one_window(pixels: NDArray[np.uint8], spec: Manifest, index: int) -> NDArray[np.uint8]:
    """Return what the network sees of one image: of an image in tiles one, from another place each time."""
    windows = list(tiling.windows(pixels, spec))
    return windows[int(index * 0.618 % 1 * len(windows))]


def _loader(source: ImageSource) -> Callable[[], NDArray[np.uint8]]:
    return lambda: decode(source)


def _hashed(images: Iterator[NDArray[np.uint8]]) -> Calibration:
    digest = hashlib.sha256()
    kept: list[NDArray[np.uint8]] = []
    size = 0
    for pixels in images:
        size += pixels.nbytes
        if kept and size > _MAX_BYTES:
            break
        digest.update(repr(pixels.shape).encode())
        digest.update(pixels.tobytes())
        kept.append(pixels)
    return Calibration(kept, digest.hexdigest())
