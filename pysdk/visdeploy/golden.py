"""`golden.npz`: real inputs, and what every stage answered when the bundle was made."""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import answers, postprocess, tiling
from visdeploy.answers import Answer
from visdeploy.bundle import GOLDEN, Bundle
from visdeploy.errors import BundleError, InputError
from visdeploy.preprocess import Prepared, prepare
from visdeploy.spec import Manifest

_MAX_BYTES = 1 << 30
_FIELDS = ("source", "decoded", "pixels", "valid", "logits")


@dataclass(frozen=True)
class Golden:
    """One recorded image.

    Attributes:
        source: The image file's bytes, as they were given.
        decoded: (H, W, 3) uint8 RGB.
        pixels: (h, w, 3) uint8, resized and padded.
        valid: Height and width of the part of `pixels` that is image.
        logits: What the reference answered, float32 of the shape that `Spec.task` says, without the batch; blended
            where the image is tiled.
        answer: What they say of the image.
    """

    source: bytes
    decoded: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    valid: tuple[int, int]
    logits: NDArray[np.float32]
    answer: Answer

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
        InputError: The network answers an image with NaN or infinity, or all images together are too large.
    """
    recorded, size = [], 0
    for index, (source, decoded) in enumerate(sources):
        prepared = prepare(decoded, spec)
        logits = tiling.answer(infer, prepared.pixels, spec)
        if not np.isfinite(logits).all():
            raise InputError(f"[export] net: its logits for golden image {index} are not all finite")
        answer = answers.read(logits, prepared, spec)
        recorded.append(Golden(source, decoded, prepared.pixels, prepared.valid, logits, answer))
        arrays = (decoded, prepared.pixels, logits, *answer.values())
        size += len(source) + sum(array.nbytes for array in arrays)
        if size > _MAX_BYTES:
            raise InputError(
                f"[export] golden: the first {index + 1} images with all that is recorded of them take "
                f"{size >> 20} MiB, of {_MAX_BYTES >> 20}; give fewer, or smaller ones"
            )
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
        arrays |= {f"{field}_{index}": array for field, array in golden.answer.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read(bundle: Bundle) -> list[Golden]:
    """Read the golden images of a bundle.

    Raises:
        BundleError: It has none, or they are not what its manifest describes.
    """
    spec, where = bundle.manifest, str(bundle.path)
    recorded = unpack(bundle.read(GOLDEN), where)
    for index, golden in enumerate(recorded):
        if problem := _contradiction(golden, spec):
            raise BundleError(f"{where}: golden.npz, image {index}: {problem}")
    return recorded


def _contradiction(golden: Golden, spec: Manifest) -> str:
    expected, given = answers.FIELDS[spec.task], tuple(golden.answer)
    if given != expected:
        return f"expected {', '.join(expected)} for {spec.task}, got {', '.join(given)}"
    if spec.resize in ("stretch", "letterbox") and golden.pixels.shape[:2] != spec.size:
        return f"expected pixels of {spec.size}, got {golden.pixels.shape[:2]}"
    if spec.resize == "tile" and (golden.pixels.shape[0] < spec.size[0] or golden.pixels.shape[1] < spec.size[1]):
        return f"expected pixels of at least {spec.size}, a window, got {golden.pixels.shape[:2]}"
    if problem := postprocess.contradiction((1, *golden.logits.shape), spec, golden.pixels.shape[:2]):
        return problem
    classes = len(spec.labels)
    if "picture" in given and golden.answer["picture"].shape[:2] != golden.valid:
        return f"expected a picture of {golden.valid}, got {golden.answer['picture'].shape[:2]}"
    if len(golden.answer.get("scores", ())) > spec.max_det:
        return f"expected at most {spec.max_det} boxes, got {len(golden.answer['scores'])}"
    if "probabilities" in given and len(golden.answer["probabilities"]) != classes:
        return f"expected probabilities of {classes} labels, got {len(golden.answer['probabilities'])}"
    for field in ("labels", "classes"):
        indices = golden.answer.get(field, np.zeros(0))
        if indices.size and not 0 <= indices.min() <= indices.max() < max(classes, 2):
            return f"expected class indices below {classes}, got {indices.min()} to {indices.max()}"
    return ""


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
            recorded = [form for form in answers.FIELDS.values() if f"{form[0]}_0" in arrays.files]
            form = recorded[0] if recorded else answers.FIELDS["segmentation"]
            count = len(arrays.files) // (len(_FIELDS) + len(form))
            return [
                _checked({field: arrays[f"{field}_{index}"] for field in (*_FIELDS, *form)}) for index in range(count)
            ]
    except Exception as error:  # numpy and zipfile raise a dozen types for a hostile archive
        raise BundleError(f"{where}: golden.npz is not readable ({error})") from error


def _checked(arrays: Mapping[str, NDArray[Any]]) -> Golden:
    source, decoded, pixels, valid, logits = (arrays[field] for field in _FIELDS)
    answer = {field: array for field, array in arrays.items() if field not in _FIELDS}
    for image in (decoded, pixels):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected an image, got {image.dtype} {image.shape}")
    if logits.dtype != np.float32 or not logits.size:
        raise ValueError(f"expected float32 logits, got {logits.dtype} {logits.shape}")
    height, width = (int(side) for side in valid)
    if not (0 < height <= pixels.shape[0] and 0 < width <= pixels.shape[1]):
        raise ValueError(f"expected a part of {pixels.shape[:2]}, got {height, width}")
    _check_answer(answer, decoded.shape[:2])
    return Golden(source.tobytes(), decoded, pixels, (height, width), logits, answer)


def _check_answer(answer: Answer, size: tuple[int, ...]) -> None:
    found = len(answer["scores"]) if "scores" in answer else 0
    for field, dtype, shape in (
        ("classes", np.uint8, size),
        ("boxes", np.float32, (found, 4)),
        ("scores", np.float32, (found,)),
        ("labels", np.int64, (found,)),
        ("probabilities", np.float32, ("C",)),
        ("picture", np.uint8, ("H", "W", 3)),
    ):
        array = answer.get(field)
        if array is None:
            continue
        sides = zip(array.shape, shape, strict=False)
        fits = array.ndim == len(shape) and all(isinstance(side, str) or side == given for given, side in sides)
        if array.dtype != dtype or not fits or not np.isfinite(array).all():
            wanted = f"({', '.join(map(str, shape))})"
            raise ValueError(f"expected {field} of {np.dtype(dtype)} {wanted}, got {array.dtype} {array.shape}")
