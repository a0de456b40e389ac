"""Any image a caller may hold -> (H, W, 3) uint8 RGB, and back to a file.

Note [checked before decoding]
OpenCV decodes, but it allocates what a header claims, fills what a cut JPEG lacks with gray (before 4.12), and says
only on stderr what was wrong. So the header is read here first: the claimed size is held against a limit, and the end
of the data must be there. A format whose header is not read here is refused.
"""

import os
import re
import stat
import zlib
from collections.abc import Mapping
from pathlib import Path
from struct import error as StructError
from struct import unpack_from
from threading import Lock
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError, MissingDependencyError
from visdeploy.whole_file import whole_file

try:
    import cv2
except ImportError as error:
    raise MissingDependencyError(
        f"[image] OpenCV does not load ({error}); where libGL is missing, `pip install opencv-python-headless`"
    ) from error

MAX_PIXELS = 178_956_970
"""Pillow's limit, too: half a GiB of RGB."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
"""How the files that `decode` reads are usually called; the content decides, not the name."""

MAX_BYTES = 1 << 30
"""The largest file that is read into memory."""


@runtime_checkable
class PilImage(Protocol):
    """What is used of a `PIL.Image.Image`; Pillow itself is never imported."""

    @property
    def mode(self) -> str:
        """Pixel format, such as RGB or I;16."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, known before the pixels are."""

    def convert(self, mode: str) -> Any:
        """Decode into another pixel format."""

    def getexif(self) -> Mapping[int, Any]:
        """Tag number to value."""


ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | PilImage
Color: TypeAlias = Literal["rgb", "bgr"]


def decode(source: ImageSource, *, color: Color = "rgb", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return an image as upright RGB.

    Files and bytes may be JPEG, PNG, WebP, BMP, GIF or TIFF. EXIF orientation is applied (Pillow alone also
    finds it in XMP and in ImageMagick's text). Alpha is dropped (TIFF: blended with black). 16-bit channels
    keep their high byte, gray is repeated, an animation gives its first frame. A file that is cut short is an error.
    A contiguous RGB array is returned itself, not a copy; nothing else shares memory.

    Args:
        source: A path, encoded bytes, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        color: Channel order of an array with three or four channels; ignored for every other source.
        max_pixels: Larger images are refused before memory is allocated for them. Arrays are exempt.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        InputError: The source is unreadable, damaged, too large, or not an image.
    """
    if color not in ("rgb", "bgr"):
        raise InputError(f"[decode] color: expected 'rgb' or 'bgr', got {color!r}")
    if isinstance(source, np.ndarray):
        return _to_rgb(source, color)
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        _check_encoded(data, "image", max_pixels)
        return _decode_checked(data, "image")
    if isinstance(source, str | os.PathLike):
        return _decode_checked(read_encoded(Path(source), max_pixels=max_pixels), str(source))
    if isinstance(source, PilImage):
        return _decode_pil(source, max_pixels)
    raise InputError(f"[decode] image: expected a path, bytes, uint8 array or PIL image, got {type(source).__name__}")


def read_encoded(path: Path, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the bytes of an image file whose header, checksums and end allow to decode it.

    Raises:
        InputError: The file is unreadable, damaged, too large, or not an image.
    """
    data = _read(path)
    _check_encoded(data, str(path), max_pixels)
    return data


def in_folder(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the image files directly in a folder, by name.

    Raises:
        InputError: There are none, or the folder cannot be read.
    """
    try:
        found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {_reason(error)}") from error
    if not found:
        raise InputError(f"the folder {folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return the PNG file of (H, W, 3) uint8 RGB or (H, W) uint8 gray; raises `InputError` for anything else."""
    return _encode(image, ".png", "encode_png")


def write(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write an image in the format its name ends with: .png, .jpg, .jpeg or .webp (lossless).

    The file appears whole or not at all.

    Args:
        path: Where to write; an existing file is replaced.
        image: (H, W, 3) uint8 RGB or (H, W) uint8 gray.

    Raises:
        InputError: The extension is unknown, the file cannot be written, or the array is not an image.
    """
    target = Path(path)
    extension = target.suffix.lower()
    if extension not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(f"[write] path: expected a name ending in .png, .jpg, .jpeg or .webp, got {target}")
    data = _encode(image, extension, "write")
    try:
        with whole_file(target) as partial:
            partial.write_bytes(data)
    except (OSError, ValueError) as error:
        raise InputError(f"[write] {target}: cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check(array: NDArray[Any], channels: set[tuple[int, ...]], caller: str) -> None:
    if array.dtype != np.uint8 or array.ndim < 2 or array.shape[2:] not in channels or array.size == 0:
        raise InputError(f"[{caller}] image: expected uint8 (H, W, 3), got {array.dtype} {array.shape}")


def _to_rgb(array: NDArray[Any], color: Color) -> NDArray[np.uint8]:
    _check(array, {(), (1,), (3,), (4,)}, "decode")
    pixels = np.ascontiguousarray(array)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if channels == 3 and color == "rgb":
        return pixels
    conversion = {
        1: cv2.COLOR_GRAY2RGB,
        3: cv2.COLOR_BGR2RGB,
        4: cv2.COLOR_RGBA2RGB if color == "rgb" else cv2.COLOR_BGRA2RGB,
    }
    return cast(NDArray[np.uint8], cv2.cvtColor(pixels, conversion[channels]))


def _encode(image: NDArray[np.uint8], extension: str, caller: str) -> bytes:
    _check(image, {(), (3,)}, caller)
    with _quiet:
        ok, data = cv2.imencode(extension, np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image))
    if not ok:
        raise InputError(f"[{caller}] image: expected a size that {extension} can hold, got {image.shape}")
    return data.tobytes()


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        # A device or a pipe may have no end.
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"[decode] {path}: cannot be read: {_reason(error)}") from error
    raise InputError(f"[decode] {path}: expected a file of at most {MAX_BYTES} bytes, got a folder, device or larger")


def _decode_pil(image: PilImage, max_pixels: int) -> NDArray[np.uint8]:
    _check_size(*image.size, "image", max_pixels)
    if image.mode in ("I", "F"):
        raise InputError(f"[decode] image: expected 8 or 16 bits per channel, got PIL mode {image.mode}")
    try:
        # Pillow clips 16 bits where OpenCV keeps the high byte; and only RGBA takes every palette without a warning.
        if image.mode.startswith("I;16"):
            pixels = (np.asarray(image) >> 8).astype(np.uint8)
        else:
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGBA"))
        orientation = image.getexif().get(0x0112, 1)
    except Exception as error:  # Pillow's plugins raise a dozen types for a damaged file
        raise InputError(f"[decode] image: Pillow cannot load it: {error}") from error
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return _to_rgb(pixels, "rgb")


class _Quiet:
    """Mutes OpenCV's log inside; its level belongs to the process, so the last thread out restores it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                cv2.utils.logging.setLogLevel(self._level)


_quiet = _Quiet()


def _check_encoded(data: bytes, name: str, max_pixels: int) -> None:
    try:
        width, height = _claimed_size(data)
    except ValueError as error:
        raise InputError(f"[decode] {name}: {error}") from None
    except (StructError, KeyError, OverflowError):
        raise InputError(f"[decode] {name}: the file is cut short, or its header is damaged") from None
    _check_size(width, height, name, max_pixels)


def _decode_checked(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with _quiet:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise InputError(f"[decode] {name}: OpenCV refuses it: {error.err}") from error
    if image is None:
        raise InputError(f"[decode] {name}: OpenCV cannot decode it: damaged, or a variant it does not know")
    return cast(NDArray[np.uint8], image)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(f"[decode] {name}: expected at most max_pixels={max_pixels}, got {width} x {height} pixels")


def _claimed_size(data: bytes) -> tuple[int, int]:
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_size(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith(b"BM"):
        return _bmp_size(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return unpack_from("<HH", data, 6)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff_size(data)
    raise ValueError("expected a JPEG, PNG, WebP, BMP, GIF or TIFF file" if data else "the file is empty")


# Junk, fill bytes and restart markers are searched over, as decoders do.
_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    width = height = 0
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        at = found.end()
        marker = found[1][0]
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = unpack_from(">HH", data, at + 3)
        at += unpack_from(">H", data, at)[0]
    # Compressed data never holds an end marker, and a thumbnail's lies before the scan.
    if data.rfind(b"\xff\xd9", at) < 0:
        raise ValueError("the JPEG is cut short: its end marker is missing")
    return width, height


def _png_size(data: bytes) -> tuple[int, int]:
    at = 8
    kind = b""
    while kind != b"IEND":
        (length,) = unpack_from(">I", data, at)
        end = at + 8 + length
        kind = data[at + 4 : at + 8]
        if zlib.crc32(data[at + 4 : end]) != unpack_from(">I", data, end)[0]:
            raise ValueError("the PNG is damaged: a checksum is wrong")
        at = end + 4
    return unpack_from(">II", data, 16)


def _bmp_size(data: bytes) -> tuple[int, int]:
    if unpack_from("<I", data, 14) == (12,):
        return unpack_from("<HH", data, 18)
    # A negative height says that rows run from the top.
    width, height = unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 8 + unpack_from("<I", data, 4)[0]:
        raise ValueError("the WebP is cut short")
    kind = data[12:16]
    if kind == b"VP8X":
        low, high = unpack_from("<IH", data, 24)
        return 1 + (low & 0xFFFFFF), 1 + (low >> 24 | high << 8)
    if kind == b"VP8L":
        (bits,) = unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data[:1] == b"I" else ">"
    (at,) = unpack_from(order + "I", data, 4)
    size = {256: 0, 257: 0}
    for entry in range(at + 2, at + 2 + 12 * unpack_from(order + "H", data, at)[0], 12):
        tag, kind = unpack_from(order + "HH", data, entry)
        if tag in size:
            # Of a repeated tag, whichever the decoder believes is covered.
            (value,) = unpack_from(order + {3: "H", 4: "I"}[kind], data, entry + 8)
            size[tag] = max(size[tag], value)
    return size[256], size[257]
