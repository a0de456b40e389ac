"""From what the network answered to masks, boxes and classes at the source image's size, or to a restored picture."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visdeploy import mask, ops
from visdeploy.asked import Asked, logit_threshold
from visdeploy.clean_up import ClassMasks, clean
from visdeploy.errors import EngineError
from visdeploy.preprocess import Prepared
from visdeploy.spec import Manifest, Spec
from visdeploy.tiling import enlarge
from visdeploy.types import Boxes, Classes, Found, Masks, Picture

Anchors = NDArray[np.float32]

_SHAPES = {
    "segmentation": "(1, C, h, w)",
    "detection": "(1, N, C + 4)",
    "localization": "(1, 4 + C)",
    "classification": "(1, C)",
    "restoration": "(1, 3, h, w)",
}


def contradiction(shape: tuple[int, ...], spec: Spec, fed: Sequence[int]) -> str:
    """Return how a network's answer to a batch of one contradicts the spec, in a sentence; empty if it does not.

    Args:
        shape: Of the answer.
        spec: The bundle's.
        fed: Height and width that the network saw.
    """
    expected, classes = _SHAPES[spec.task], len(spec.labels)
    if len(shape) != expected.count(",") + 1 or shape[0] != 1 or not all(shape):
        what = "a picture" if spec.task == "restoration" else "logits"
        return f"net: expected {what} of shape {expected} for {spec.task}, got {shape}"
    if spec.task == "restoration":
        if shape == (1, 3, *fed):
            return ""
        return (
            f"net: expected a picture of three channels and of its input's size for restoration, (1, 3, {fed[0]}, "
            f"{fed[1]}), got {shape}; what makes images larger says so in the spec's field enlarge"
        )
    if spec.anchors is not None and shape[1] != spec.anchors.count:
        return f"anchors: the rule gives {spec.anchors.count} boxes, the network answers {shape[1]}"
    if spec.task == "segmentation":
        if shape[1] != classes and (shape[1], classes) != (1, 2):
            return f"labels: the network has {shape[1]} channels, the spec names {classes} labels"
        return ""
    scored = shape[-1] - (0 if spec.task == "classification" else 4)
    if scored != classes and (spec.task, scored, classes) != ("localization", 0, 1):
        background = ", the background among them" if spec.task == "detection" else ""
        return f"labels: the network scores {max(0, scored)} classes, the spec names {classes} labels{background}"
    return ""


def check_shape(shape: Sequence[int], spec: Manifest, fed: Sequence[int]) -> None:
    """Compare the shape of what the network answered for a batch with what the spec says of its task.

    Args:
        shape: Of the answer.
        spec: The bundle's.
        fed: Height and width that the network saw.

    Raises:
        EngineError: They differ.
    """
    if problem := contradiction((1, *shape[1:]), spec, fed):
        raise EngineError(f"the network's answer does not fit its spec: {problem}")


def find(
    outputs: mask.Array,
    prepared: Sequence[Prepared],
    spec: Manifest,
    anchors: Anchors | None,
    asked: Asked,
    *,
    num_threads: int | None = None,
) -> Iterator[Found]:
    """Read a batch of any task.

    An anchor of which a number is NaN finds no box; nor does one whose box has no area, or lies in the padding.

    Args:
        outputs: What the network answered, see `Spec.task`; only masks are found where it lies on a CUDA device.
        prepared: What `preprocess.prepare` made of each image.
        spec: The bundle's.
        anchors: (N, 4) of a detector, in pixels at network size.
        asked: What the caller wants, checked.
        num_threads: Of one call of an op; None decides by the work.

    Yields:
        What was found in each image.

    Raises:
        EngineError: The shape is another than the spec says, or what is no segmenter or detector answered with NaN.
    """
    check_shape(outputs.shape, spec, prepared[0].pixels.shape[:2])
    if spec.task == "segmentation":
        for logits, image in zip((outputs[i] for i in range(len(prepared))), prepared, strict=True):
            yield find_masks(logits, image, asked.cleaning(spec), asked.threshold)
    elif spec.task == "detection":
        assert anchors is not None
        yield from _detect(outputs, prepared, spec, anchors, asked, num_threads)
    else:
        read = _READ[spec.task]
        for output, image in zip(outputs, prepared, strict=True):
            yield read(output, image, spec)


def boxes_at_source(
    found: ops.Detections,
    prepared: Prepared,
    spec: Manifest,
    wanted: frozenset[int] | None = None,
    max_det: int | None = None,
) -> Boxes:
    """Return what was found in an image of the network's size as boxes of its source that have an area there.

    Args:
        found: NumPy arrays, in pixels of the network's size.
        prepared: What `preprocess.prepare` made of the image.
        spec: The bundle's.
        wanted: Labels to keep; None for all.
        max_det: The most boxes to keep.
    """
    xyxy = _to_source(found.boxes, prepared)
    keep = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])  # NaN is not
    if wanted is not None:
        keep &= np.isin(found.labels, list(wanted))
    rows = np.flatnonzero(keep)[:max_det]
    labels = found.labels[rows]
    return Boxes(xyxy[rows], found.scores[rows], labels, tuple(spec.labels[label] for label in labels.tolist()))


def find_box(output: NDArray[np.float32], prepared: Prepared, spec: Manifest) -> Boxes:
    """Return the one box of a localizer, with the best class and its softmax; 1 where the output is a box alone.

    Args:
        output: (4 + C,) float32, x1, y1, x2, y2 as logits of shares of width and height, then those of classes; or
            (4,).
        prepared: What `preprocess.prepare` made of the image.
        spec: The bundle's.

    Raises:
        EngineError: A number is NaN.
    """
    _refuse_nan(output)
    height, width = prepared.pixels.shape[:2]
    shares = 1 / (1 + np.exp(-np.clip(output[:4].astype(np.float64), -80, 80)))
    xyxy = _to_source(shares[None] * (width, height, width, height), prepared)
    scores = _softmax(output[4:]) if len(output) > 4 else np.ones(1, np.float32)
    best = int(scores.argmax())
    return Boxes(xyxy, scores[best : best + 1], np.array([best]), (spec.labels[best],))


def find_classes(output: NDArray[np.float32], prepared: Prepared, spec: Manifest) -> Classes:
    """Return the probabilities of a classifier's (C,) logits; infinite ones count as very large.

    Raises:
        EngineError: A logit is NaN.
    """
    _refuse_nan(output)
    probabilities = _softmax(output) if spec.activation != "none" else output.astype(np.float32)
    best = int(probabilities.argmax())
    return Classes(probabilities, best, spec.labels[best], float(probabilities[best]))


def find_picture(output: NDArray[np.float32], prepared: Prepared, spec: Manifest) -> Picture:
    """Return the picture that a restorer's (3, h, w) float32 answer shows, without what was padding.

    Samples are rounded to the nearest of 0 to 255.

    Raises:
        EngineError: A number is NaN.
    """
    return find_tiled_picture([(0, output)], prepared, spec)


def find_tiled_picture(parts: Iterable[tuple[int, NDArray[np.float32]]], prepared: Prepared, spec: Manifest) -> Picture:
    """Do the same with the answer of an image in tiles, of which the floats are never all in memory.

    Args:
        parts: What `tiling.blend` yields.
        prepared: As in `find_picture`.
        spec: The bundle's.
    """
    height, width = prepared.valid
    picture = np.empty((height, width, 3), np.uint8)
    for top, rows in parts:
        bottom = min(height, top + rows.shape[1])
        _refuse_nan(shown := rows[:, : max(0, bottom - top), :width])
        for channel, (plane, mean, std) in enumerate(zip(shown, spec.mean, spec.std, strict=True)):
            samples = plane * np.float32(255 * std) + np.float32(255 * mean)
            picture[top:bottom, :, channel] = np.clip(np.rint(samples, out=samples), 0, 255, out=samples)
    return Picture(picture)


_READ: dict[str, Callable[[NDArray[np.float32], Prepared, Manifest], Found]] = {
    "localization": find_box,
    "classification": find_classes,
    "restoration": find_picture,
}


def _detect(
    outputs: NDArray[np.float32],
    prepared: Sequence[Prepared],
    spec: Manifest,
    anchors: Anchors,
    asked: Asked,
    num_threads: int | None,
) -> Iterator[Boxes]:
    wanted = asked.indices(spec)
    max_det = spec.max_det if asked.max_det is None else asked.max_det
    found = ops.detect(
        outputs[..., :-4],
        outputs[..., -4:],
        anchors,
        image_size=spec.size,
        weights=spec.box_weights,
        score_threshold=spec.threshold if asked.conf is None else asked.conf,
        iou_threshold=spec.iou_threshold if asked.iou is None else asked.iou,
        top_k=spec.top_k,
        # Boxes of classes that nobody asked for must not crowd out the others.
        max_det=max_det if wanted is None else len(anchors) * len(spec.labels),
        mode=spec.nms,
        num_threads=num_threads,
    )
    for image, boxes in zip(prepared, found, strict=True):
        yield boxes_at_source(boxes, image, spec, wanted, max_det)


def _to_source(xyxy: NDArray[np.floating], prepared: Prepared) -> NDArray[np.float32]:
    """Undo the resize: from pixels at network size to those of the source image, and cut off what is outside of it."""
    (height, width), (valid_height, valid_width) = prepared.source_size, prepared.valid
    scale = np.array([width / valid_width, height / valid_height] * 2)
    inside: NDArray[np.float64] = np.clip(xyxy * scale, 0, (width, height, width, height))
    return inside.astype(np.float32)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.clip(logits.astype(np.float64), -1e30, 1e30)
    e = np.exp(finite - finite.max())
    return np.asarray(e / e.sum(), np.float32)


def _refuse_nan(output: NDArray[np.float32]) -> None:
    if np.isnan(output).any():
        raise EngineError("the network answered with NaN; where it runs in lower precision, try fp32")


def find_masks(logits: mask.Array, prepared: Prepared, spec: Manifest, threshold: float | None = None) -> Masks:
    """Upsample, decide and encode; no image of floats or dense mask at source size is made for a binary task.

    Args:
        logits: (C, h, w) float32 for one image; where they lie on a CUDA device, masks are found there.
        prepared: What `preprocess.prepare` made of that image.
        spec: The bundle's.
        threshold: Probability above which a binary pixel is foreground; default, the spec's.

    Raises:
        EngineError: The logits have another number of channels than the spec says.
        InputError: The threshold is not a probability.
    """
    _check_channels(logits, spec)
    logits = _crop(logits, prepared)
    found = _binary(logits, prepared, spec, threshold) if spec.binary else _several(logits, prepared, spec)
    return _masks(found, prepared, spec, _on_host(logits))


def find_tiled_masks(
    parts: Iterable[tuple[int, NDArray[np.float32]]], prepared: Prepared, spec: Manifest, threshold: float | None = None
) -> Masks:
    """Do the same with the logits of an image in tiles, of which those of several classes are never all in memory.

    Args:
        parts: What `tiling.blend` yields.
        prepared: As in `find_masks`.
        spec: The bundle's.
        threshold: As in `find_masks`.
    """
    height, width = prepared.valid
    logits = np.empty((1, height, width), np.float32) if spec.binary else None
    classes = np.empty((0 if spec.binary else height, width), np.uint8)
    for top, rows in parts:
        _check_channels(rows, spec)
        if top >= height:  # all padding
            continue
        bottom = min(height, top + rows.shape[1])
        if logits is not None:
            logits[:, top:bottom] = rows[:, : bottom - top, :width]
        else:
            classes[top:bottom] = ops.semantic_map(rows[:, : bottom - top, :width], (bottom - top, width))[0]
    if logits is not None:
        return _masks(_binary(logits, prepared, spec, threshold), prepared, spec, logits)
    present = np.flatnonzero(np.bincount(classes.reshape(-1), minlength=len(spec.labels)))
    found = [(int(label), mask.encode(classes == label)) for label in present if label != spec.background]
    return _masks(found, prepared, spec, None)


def cleaned(found: ClassMasks, size: tuple[int, int], spec: Manifest) -> ClassMasks:
    """Return masks without the small parts and holes that the spec does not want."""
    if spec.min_area > 1 or spec.fill_holes:
        return clean(found, size, min_area=spec.min_area, fill_holes=spec.fill_holes)
    return found


def _check_channels(logits: mask.Array, spec: Manifest) -> None:
    channels = 1 if spec.binary else len(spec.labels)
    if len(logits) != channels:
        raise EngineError(f"the network answered with {len(logits)} channels, its spec says {channels}")


def _masks(found: ClassMasks, prepared: Prepared, spec: Manifest, logits: NDArray[np.float32] | None) -> Masks:
    found = cleaned(found, prepared.source_size, spec)
    labels = np.array([label for label, _ in found], np.int64)
    rles = [rle for _, rle in found]
    return Masks(rles, labels, prepared.source_size, spec.background, logits, spec.activation)


def _on_host(array: mask.Array) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else array.numpy()


def _crop(logits: mask.Array, prepared: Prepared) -> mask.Array:
    """Drop what padding became."""
    fed = prepared.pixels.shape[:2]
    if prepared.valid == fed:
        return logits
    if logits.shape[1:] != fed:
        # Padding may begin inside a cell of a network that answers at a fraction of its input's size.
        logits = enlarge(_on_host(logits), (fed[0], fed[1]))
    return logits[:, : prepared.valid[0], : prepared.valid[1]]


def _binary(logits: mask.Array, prepared: Prepared, spec: Manifest, threshold: float | None) -> ClassMasks:
    limit = logit_threshold(spec.threshold if threshold is None else threshold, spec)
    rle = mask.encode_logits(logits[0], prepared.source_size, limit)
    return [(0 if spec.background == 1 else 1, rle)] if mask.area(rle) else []


def _several(logits: mask.Array, prepared: Prepared, spec: Manifest) -> ClassMasks:
    _, areas, rles = ops.semantic_map(logits, prepared.source_size)
    present = np.flatnonzero(_on_host(areas))
    return [(label, rles[label]) for label in present.tolist() if label != spec.background]
