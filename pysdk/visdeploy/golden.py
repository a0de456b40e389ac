"""`golden.npz`: real inputs, and what every stage answered when the bundle was made."""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import BundleError
from visdeploy.postprocess import find_masks
from visdeploy.preprocess import Prepared, prepare
from visdeploy.spec import Spec

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Golden:
    """One recorded image.

    Attributes:
        source: The image file's bytes, as they were given.
        decoded: (H, W, 3) uint8 RGB.
        pixels: (h, w, 3) uint8, resized and padded.
        valid: Height and width of the part of `pixels` that is image.
        logits: (C, h', w') float32 that the reference answered.
        masks: Class index and RLE of each class found; `counts` are str.
    """

    source: bytes
    decoded: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    valid: tuple[int, int]
    logits: NDArray[np.float32]
    masks: list[dict[str, Any]]

    @property
    def prepared(self) -> Prepared:
        """The network's input with its geometry."""
        return Prepared(self.pixels, self.valid, self.decoded.shape[:2])


def record(
    sources: Sequence[tuple[bytes, NDArray[np.uint8]]],
    spec: Spec,
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
) -> list[Golden]:
    """Run (file bytes, decoded image) pairs through every stage and keep what came out."""
    recorded = []
    for source, decoded in sources:
        prepared = prepare(decoded, spec)
        logits = infer(prepared.pixels[None])[0]
        masks = find_masks(logits, prepared, spec)
        found = [
            {"label": int(label), "size": list(rle["size"]), "counts": bytes(rle["counts"]).decode()}
            for label, rle in zip(masks.labels, masks.rle, strict=True)
        ]
        recorded.append(Golden(source, decoded, prepared.pixels, prepared.valid, logits, found))
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
        arrays[f"masks_{index}"] = np.frombuffer(json.dumps(golden.masks).encode(), np.uint8)
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
                raise BundleError(f"{where}: golden.npz unpacks to more than {_MAX_BYTES >> 20} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            count = sum(name.startswith("source_") for name in arrays.files)
            return [
                Golden(
                    arrays[f"source_{index}"].tobytes(),
                    arrays[f"decoded_{index}"],
                    arrays[f"pixels_{index}"],
                    (int(arrays[f"valid_{index}"][0]), int(arrays[f"valid_{index}"][1])),
                    arrays[f"logits_{index}"],
                    json.loads(arrays[f"masks_{index}"].tobytes()),
                )
                for index in range(count)
            ]
    except (ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise BundleError(f"{where}: golden.npz is not readable ({error})") from error
