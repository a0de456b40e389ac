"""`golden.npz`: real inputs, and what every stage answered when the bundle was made."""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import tiling
from visdeploy.errors import BundleError, InputError
from visdeploy.postprocess import find_masks
from visdeploy.preprocess import Prepared, prepare
from visdeploy.spec import Manifest

_MAX_BYTES = 1 << 30
_FIELDS = ("source", "decoded", "pixels", "valid", "logits", "classes")


@dataclass(frozen=True)
class Golden:
    """One recorded image.

    Attributes:
        source: The image file's bytes, as they were given.
        decoded: (H, W, 3) uint8 RGB.
        pixels: (h, w, 3) uint8, resized and padded.
        valid: Height and width of the part of `pixels` that is image.
        logits: (C, h', w') float32 that the reference answered, blended where the image is tiled.
        classes: (H, W) uint8 class map.
    """

    source: bytes
    decoded: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    valid: tuple[int, int]
    logits: NDArray[np.float32]
    classes: NDArray[np.uint8]

    @property
    def prepared(self) -> Prepared:
        """The network's input with its geometry."""
        return Prepared(self.pixels, self.valid, self.decoded.shape[:2])


def record(
    sources: Sequence[tuple[bytes, NDArray[np.uint8]]],
    spec: Manifest,
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
) -> list[Golden]:
    """Run (file bytes, decoded image) pairs through every stage and keep what came out.

    Raises:
        InputError: The network answers an image with NaN or infinity.
    """
    recorded = []
    for index, (source, decoded) in enumerate(sources):
        prepared = prepare(decoded, spec)
        logits = tiling.answer(infer, prepared.pixels, spec)
        if not np.isfinite(logits).all():
            raise InputError(f"[export] net: its logits for golden image {index} are not all finite")
        classes = find_masks(logits, prepared, spec).to_numpy()
        recorded.append(Golden(source, decoded, prepared.pixels, prepared.valid, logits, classes))
    return recorded


def pack(goldens: Sequence[Golden]) -> bytes:
    """Return the content of `golden.npz`."""
    arrays: dict[str, NDArray[Any]] = {}
    for index, golden in enumerate(goldens):
        arrays[f"source_{index}"] = np.frombuffer(golden.source, np.uint8)
        arrays[f"decoded_{index}"] = golden.decoded
        arrays[f"pixels_{index}"] = golden.pixels
        arrays[f"valid_{index}"] = np.array(golden.valid, np.int64)
        arrays[f"logits_{index}"] = golden.logits
        arrays[f"classes_{index}"] = golden.classes
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(data: bytes, where: str) -> list[Golden]:
    """Read what `pack` wrote; nothing in it is executed, and it may not unpack to more than 1 GiB.

    Raises:
        BundleError: The content is not what `pack` writes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
                raise ValueError(f"it unpacks to more than {_MAX_BYTES >> 20} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            count = len(arrays.files) // len(_FIELDS)
            return [_checked(*(arrays[f"{field}_{index}"] for field in _FIELDS)) for index in range(count)]
    except Exception as error:  # numpy and zipfile raise a dozen types for a hostile archive
        raise BundleError(f"{where}: golden.npz is not readable ({error})") from error


def _checked(
    source: NDArray[Any],
    decoded: NDArray[Any],
    pixels: NDArray[Any],
    valid: NDArray[Any],
    logits: NDArray[Any],
    classes: NDArray[Any],
) -> Golden:
    for image in (decoded, pixels):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected an image, got {image.dtype} {image.shape}")
    if logits.dtype != np.float32 or logits.ndim != 3 or not logits.size:
        raise ValueError(f"expected float32 (C, h, w) logits, got {logits.dtype} {logits.shape}")
    if classes.dtype != np.uint8 or classes.shape != decoded.shape[:2]:
        raise ValueError(f"expected a class map of {decoded.shape[:2]}, got {classes.dtype} {classes.shape}")
    height, width = (int(side) for side in valid)
    if not (0 < height <= pixels.shape[0] and 0 < width <= pixels.shape[1]):
        raise ValueError(f"expected a part of {pixels.shape[:2]}, got {height, width}")
    return Golden(source.tobytes(), decoded, pixels, (height, width), logits, classes)
