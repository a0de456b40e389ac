"""Mask files: class indices in one channel, in a palette, or as the colours of a colormap."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy.data.colormap import classes_of, colours_in, first_pixel, voc_colormap
from visdeploy.data.dataset import ClassMap
from visdeploy.errors import InputError, requires
from visdeploy.image import read_encoded

Colormap = NDArray[np.uint8]
"""(n, 3) RGB by class index."""

# A palette has no more.
_MOST_COLOURS = 256


def read_class_map(path: Path, classes: Mapping[int, int], colormap: Colormap | None = None) -> ClassMap:
    """Decode a mask and map its values to class indices.

    Args:
        path: Mask file.
        classes: Class index of each value that may occur.
        colormap: What colours mean, where the file has any; None refuses them.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: The file is unreadable, or has a value outside `classes`, named with its pixel.
    """
    values = read_mask(path, colormap)
    size = int(values.max()) + 1
    known = np.zeros(size, np.bool_)
    table = np.zeros(size, np.uint8)
    for value, index in classes.items():
        if 0 <= value < size:
            known[value], table[value] = True, index
    if not known[values].all():
        x, y = first_pixel(~known[values])
        unknown = sorted(set(np.unique(values).tolist()) - classes.keys())
        raise InputError(
            f"{path}: unknown label values {_short(unknown)} ({values[y, x]} at pixel x={x}, y={y}); "
            f"known are {_short(sorted(classes))}"
        )
    return table[values]


def read_mask(path: Path, colormap: Colormap | None = None) -> NDArray[np.uint8 | np.uint16]:
    """Decode the raw values of a mask: palette files give their indices, not their colours.

    Args:
        path: Mask file.
        colormap: What colours mean, where the file has no palette but three channels; None refuses colours.

    Returns:
        (H, W) uint8, or uint16 where the file has more bits.

    Raises:
        InputError: The file is unreadable or damaged, has other than whole values from 0 to 65535, or unknown colours.
        MissingDependencyError: A palette file, and Pillow is not installed.
    """
    data = read_encoded(path)
    if _has_palette(data):
        return _read_indices(path, data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: not an image, or a damaged one")
    if pixels.ndim == 3:
        if colormap is not None:
            return _read_colours(path, pixels, colormap)
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise InputError(
                f"{path}: a colour picture; expected a mask with one channel of class indices{_hint(path, pixels)}"
            )
        pixels = pixels[..., 0]
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        # JPEG smears values around edges, so only two far-apart values survive in it.
        pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    if pixels.dtype not in (np.uint8, np.uint16):
        low, high = pixels.min(), pixels.max()
        if not (low >= 0 and high <= 65535 and (pixels == np.floor(pixels)).all()):
            raise InputError(f"{path}: expected whole values 0 to 65535, got {pixels.dtype} from {low} to {high}")
        pixels = pixels.astype(np.uint16)
    return np.asarray(pixels)


def _read_colours(path: Path, pixels: NDArray[Any], colormap: Colormap) -> ClassMap:
    if pixels.dtype != np.uint8:
        raise InputError(f"{path}: expected 8 bits per channel in a mask of colours, got {pixels.dtype}")
    try:
        return classes_of(pixels[..., 2::-1], colormap)
    except InputError as error:
        raise InputError(
            f"{path}: {error}; expected the colours of the classes as visdeploy.data.voc_colormap() has them, "
            "or a palette picture, whose indices are the classes whatever its colours"
        ) from error


def _hint(path: Path, pixels: NDArray[Any]) -> str:
    """What a colour picture looks like, and how it is read."""
    colours = colours_in(pixels[..., 2::-1]) if pixels.dtype == np.uint8 else set()
    if not 0 < len(colours) <= _MOST_COLOURS:
        return " (this looks like a photograph)"
    if colours <= colours_in(voc_colormap()):
        return (
            f" (its colours are Pascal VOC's: --format voc --masks {path.parent.name} reads them as classes, or "
            f"format='voc', masks={path.parent.name!r} in Python)"
        )
    return (
        f" (its {len(colours)} colours look like a palette's that was saved as RGB: visdeploy.data.classes_of makes "
        "indices of them, given the colour of each class)"
    )


def _has_palette(data: bytes) -> bool:
    is_palette_png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] == b"\x03"
    return is_palette_png or data[:4] == b"GIF8"


def _read_indices(path: Path, data: bytes) -> ClassMap:
    # OpenCV expands palettes to colours and cannot be told not to.
    with requires(f"{path}: palette masks need Pillow", "train"):
        from PIL.GifImagePlugin import GifImageFile
        from PIL.Image import DecompressionBombError
        from PIL.PngImagePlugin import PngImageFile
    # Not Image.open, which warns of half the pixels that are allowed here.
    plugin = GifImageFile if data.startswith(b"GIF8") else PngImageFile
    try:
        with plugin(BytesIO(data)) as picture:
            return np.array(picture, np.uint8)
    except (OSError, SyntaxError, ValueError, DecompressionBombError) as error:
        raise InputError(f"{path}: not an image, or a damaged one") from error


def _short(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:12]))
    return f"{shown}, ... {values[-1]}" if len(values) > 12 else shown
