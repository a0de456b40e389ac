import csv
import importlib.util
import io
import os
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from visdeploy import image
from visdeploy.errors import InputError, MissingDependencyError
from visdeploy.image import decode, encode_png, write

MANIFEST = Path(os.environ.get("VISDEPLOY_DATA", "absent"), "photos", "MANIFEST.csv")
PHOTOS = list(csv.DictReader(MANIFEST.read_text().splitlines())) if MANIFEST.is_file() else []
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}
ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def picture(height=20, width=24):
    rng = np.random.default_rng(7)
    return cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)


def saved(pixels, format, **options):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, format, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width, height, *extra):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def assert_is_rgb(array):
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3
    assert array.flags.c_contiguous


# What an image may come in


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("size", [(20, 24), (1, 1), (1, 7)])
def test_lossless_formats_give_the_exact_pixels(format, size):
    np.testing.assert_array_equal(decode(saved(picture(*size), format, **LOSSLESS[format])), picture(*size))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_jpeg_matches_pillow(options):
    data = saved(picture(), "JPEG", **options)
    np.testing.assert_allclose(decode(data), np.asarray(Image.open(io.BytesIO(data))), atol=2)


def test_every_carrier_gives_the_same_image(tmp_path):
    data = encode_png(picture())
    path = tmp_path / "картинка 図.png"
    path.write_bytes(data)
    for source in (str(path), path, data, bytearray(data), memoryview(data), Image.open(io.BytesIO(data)), picture()):
        decoded = decode(source)
        assert_is_rgb(decoded)
        np.testing.assert_array_equal(decoded, picture())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_agrees_with_the_same_pil_image(mode):
    pil = Image.fromarray(picture()).convert(mode)
    decoded = decode(saved(pil, "PNG"))
    assert_is_rgb(decoded)
    np.testing.assert_array_equal(decoded, decode(pil))
    np.testing.assert_array_equal(decoded, np.asarray(pil.convert("RGBA"))[..., :3])


def test_transparent_palette_loses_only_its_alpha():
    pil = Image.fromarray(picture()).quantize(16)
    opaque = decode(pil)
    pil.info["transparency"] = bytes(range(16))
    np.testing.assert_array_equal(decode(pil), opaque)
    np.testing.assert_array_equal(decode(saved(pil, "PNG")), opaque)


def test_alpha_is_dropped_but_by_libtiff():
    transparent = np.dstack([picture(), np.zeros((20, 24), np.uint8)])
    for source in (saved(transparent, "PNG"), saved(transparent, "WEBP", lossless=True, exact=True), transparent):
        np.testing.assert_array_equal(decode(source), picture())
    np.testing.assert_array_equal(decode(saved(transparent, "TIFF")), np.zeros_like(picture()))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(format):
    flat = np.full((16, 16, 3), (200, 60, 120), np.uint8)
    cmyk = Image.fromarray(flat).convert("CMYK")
    np.testing.assert_allclose(decode(saved(cmyk, format)), flat, atol=3)
    np.testing.assert_array_equal(decode(cmyk), flat)


def test_sixteen_bits_keep_the_high_byte():
    deep = np.array([[0, 255, 256, 30000, 65535]], np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for source in (saved(deep, "PNG"), saved(deep, "TIFF"), Image.fromarray(deep)):
        np.testing.assert_array_equal(decode(source), expected)
    color = np.dstack([deep, deep // 2, deep // 3])
    np.testing.assert_array_equal(decode(cv2.imencode(".png", color[..., ::-1])[1].tobytes()), color >> 8)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format):
    first, second = (Image.new("RGB", (8, 6), color) for color in ("red", "blue"))
    data = saved(first, format, save_all=True, append_images=[second], **LOSSLESS.get(format, {}))
    np.testing.assert_array_equal(decode(data), np.full((6, 8, 3), (255, 0, 0)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "PIL"])
@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = "PNG" if format == "PIL" else format
    data = saved(picture(), stored, exif=exif, **LOSSLESS.get(stored, {"quality": 100, "subsampling": 0}))
    decoded = decode(Image.open(io.BytesIO(data)) if format == "PIL" else data)
    assert_is_rgb(decoded)
    np.testing.assert_allclose(decoded, ORIENTED[orientation](picture()), atol=4)


# Arrays


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_arrays_of_every_channel_count(color):
    rgb = picture()
    given = rgb if color == "rgb" else rgb[..., ::-1]
    np.testing.assert_array_equal(decode(given, color=color), rgb)
    np.testing.assert_array_equal(decode(np.dstack([given, rgb[..., 0]]), color=color), rgb)
    for gray in (rgb[..., 1], rgb[..., 1:2]):
        np.testing.assert_array_equal(decode(gray, color=color), np.dstack([rgb[..., 1]] * 3))


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-2], np.s_[3:9, 2:7], np.s_[..., ::-1]])
def test_any_strides(view):
    decoded = decode(picture()[view])
    assert_is_rgb(decoded)
    np.testing.assert_array_equal(decoded, picture()[view])


def test_only_a_contiguous_rgb_array_is_returned_itself():
    rgb = picture()
    assert decode(rgb) is rgb
    for other in (rgb[..., 0], rgb[:1, :1, :1], np.zeros((1, 1, 4), np.uint8), rgb[::2]):
        assert not np.shares_memory(decode(other), other)
    assert not np.shares_memory(decode(rgb, color="bgr"), rgb)
    assert decode(Image.fromarray(rgb)).flags.writeable


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 (4, 4, 3)"),
        (np.zeros((4, 4, 2), np.uint8), "uint8 (4, 4, 2)"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 (0, 4, 3)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "uint8 (2, 4, 4, 3)"),
        (np.zeros(12, np.uint8), "uint8 (12,)"),
        (np.zeros((4, 4), bool), "bool (4, 4)"),
    ],
)
def test_other_arrays_are_refused(array, got):
    with pytest.raises(InputError) as caught:
        decode(array)
    assert str(caught.value) == f"[decode] image: expected uint8 (H, W, 3), got {got}"


def test_other_arguments_are_refused():
    with pytest.raises(InputError, match="expected a path, bytes, uint8 array or PIL image, got int"):
        decode(3)
    with pytest.raises(InputError, match="expected 'rgb' or 'bgr', got 'RGB'"):
        decode(picture(), color="RGB")
    with pytest.raises(InputError, match="expected 8 or 16 bits per channel, got PIL mode F"):
        decode(Image.new("F", (2, 2)))


# Files that cannot be read


def test_unreadable_paths(tmp_path, monkeypatch):
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "missing.jpg": "No such file or directory",
        "empty.jpg": "the file is empty",
        ".": "got a folder, device or larger",
        "pipe": "got a folder, device or larger",
        "a\0b": "null (byte|character)",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            decode(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=r"empty\.jpg: cannot be read: Permission denied"):
        decode(tmp_path / "empty.jpg")
    monkeypatch.setattr(image, "MAX_BYTES", -1)
    with pytest.raises(InputError, match="or larger"):
        decode(tmp_path / "empty.jpg")


@pytest.mark.parametrize("data", [b"\0", b"P6 1 1 255 abc", b"\xff\xd8", b"BM", b"GIF89a", b"II*\0", b"RIFF"])
def test_what_is_no_image(data):
    with pytest.raises(InputError, match=r"^\[decode\] image: "):
        decode(data)


def test_damaged_pil_image():
    with pytest.raises(InputError, match="Pillow cannot load it: image file is truncated"):
        decode(Image.open(io.BytesIO(saved(picture(90, 90), "JPEG")[:-300])))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_jpeg_without_its_end_is_refused(options):
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail ends like this: \xff\xd9"
    data = saved(picture(), "JPEG", exif=exif, **options)
    for length in (2, 30, len(data) // 2, len(data) - 2, len(data) - 1):
        with pytest.raises(InputError, match="cut short"):
            decode(data[:length])


@pytest.mark.parametrize("where", ["after the end", "before a marker", "second image"])
def test_jpeg_with_bytes_that_decoders_skip(where, capfd):
    data = saved(picture(), "JPEG")
    decorated = {
        "after the end": data + b"\0trailing\xff",
        "before a marker": data[:20] + b"\xff\x00junk\xff\xff" + data[20:],
        "second image": data + data[: len(data) // 2],
    }[where]
    np.testing.assert_array_equal(decode(decorated), decode(data))


@pytest.mark.parametrize(
    ("position", "reason"),
    [(20, "checksum"), (60, "checksum"), (-1, "checksum"), (8, "cut short"), (0, "expected a JPEG")],
)
def test_png_with_a_flipped_byte(position, reason):
    data = bytearray(encode_png(picture()))
    data[position] ^= 0xFF
    with pytest.raises(InputError, match=reason):
        decode(data)


def test_failures_stay_off_the_terminal_and_restore_the_log_level(tmp_path, capfd):
    level = cv2.utils.logging.getLogLevel()
    damaged = saved(picture(), "GIF")[:-40]

    def fails(_):
        with pytest.raises(InputError, match="OpenCV"):
            decode(damaged)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fails, range(32)))
    with pytest.raises(InputError):
        write(tmp_path / "x.webp", np.zeros((1, 20_000), np.uint8))
    assert capfd.readouterr().err == ""
    assert cv2.utils.logging.getLogLevel() == level


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "LOSSY", "BMP", "TIFF", "GIF"])
def test_fuzz(format, capfd):
    rng = np.random.default_rng(sum(format.encode()))
    data = saved(picture(), "WEBP") if format == "LOSSY" else saved(picture(), format, **LOSSLESS.get(format, {}))
    for _ in range(150):
        with pytest.raises(InputError):
            decode(data[: rng.integers(len(data))])
        flipped = bytearray(data)
        for bit in rng.integers(8 * len(data), size=rng.integers(1, 4)):
            flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode(flipped, max_pixels=100_000)
        except InputError:
            continue
        assert_is_rgb(decoded)


# Sizes


def huge_files():
    width, height = 40_000, 30_000
    jpeg = bytearray(saved(picture(), "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, height, width)
    gif = bytearray(saved(picture(), "GIF"))
    struct.pack_into("<HH", gif, 6, width, height)
    bmp, top_down = bytearray(saved(picture(), "BMP")), bytearray(saved(picture(), "BMP"))
    struct.pack_into("<ii", bmp, 18, width, height)
    struct.pack_into("<ii", top_down, 18, width, -height)
    old_bmp = b"BM" + struct.pack("<IIIIHHHH", 26, 0, 26, 12, width, height, 1, 24)
    tags = struct.pack("<H", 3) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, width), (257, height), (257, 1))
    )
    extended = b"VP8X" + struct.pack("<IIIHB", 10, 0, width - 1 | (height - 1 & 0xFF) << 24, height - 1 >> 8, 0)
    lossless = b"VP8L" + struct.pack("<IBI", 5, 0x2F, 16_383 | 16_383 << 14)
    lossy = b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)
    webp = [b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body for body in (extended, lossless, lossy)]
    return [
        bytes(file)
        for file in (jpeg, gif, bmp, top_down, old_bmp, b"II*\0\x08\0\0\0" + tags, *webp, png_claiming(width, height))
    ]


@pytest.mark.parametrize("data", huge_files(), ids=lambda data: data[:16].hex())
def test_a_bomb_never_reaches_the_decoder(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(
        InputError, match=r"expected at most max_pixels=178956970, got (40000 x 30000|1638[34] x 1638[34]) pixels"
    ):
        decode(data)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (2**20 + 1, 1), (2**31 - 1, 1)])
def test_sizes_that_opencv_refuses(size, capfd):
    with pytest.raises(InputError):
        decode(png_claiming(*size), max_pixels=2**40)


def test_max_pixels_is_inclusive(monkeypatch):
    for source in (encode_png(picture()), Image.fromarray(picture())):
        assert decode(source, max_pixels=480).shape == (20, 24, 3)
        with pytest.raises(InputError, match="max_pixels=479, got 24 x 20 pixels"):
            decode(source, max_pixels=479)
    assert decode(picture(), max_pixels=1).shape == (20, 24, 3)


def test_a_bomb_of_text_is_never_unpacked():
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))
    data = encode_png(picture())
    np.testing.assert_array_equal(decode(data[:33] + text + data[33:]), picture())


# Writing


@pytest.mark.parametrize("extension", [".png", ".webp", ".PNG", ".jpg", ".jpeg"])
@pytest.mark.parametrize("gray", [False, True])
def test_what_is_written_reads_back(tmp_path, extension, gray):
    pixels = picture()[..., 0] if gray else picture()[::-1]
    path = tmp_path / f"ü{extension}"
    path.write_bytes(b"replaced")
    write(path, pixels)
    difference = np.abs(decode(path).astype(int) - decode(pixels))
    assert difference.mean() < 6 if extension in (".jpg", ".jpeg") else difference.max() == 0
    assert list(tmp_path.iterdir()) == [path]


def test_png_keeps_one_channel_for_gray():
    assert Image.open(io.BytesIO(encode_png(picture()[..., 0]))).mode == "L"


@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 1), (0, 4), (4,)])
def test_only_rgb_and_gray_are_written(shape, tmp_path):
    with pytest.raises(InputError, match=r"\[encode_png\] image: expected uint8 \(H, W, 3\), got uint8"):
        encode_png(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match=r"\[write\] image: "):
        write(tmp_path / "x.png", np.zeros(shape, np.uint8))


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in ("absent/x.png", "file/x.png", "folder.png", "a\0/b.png", "x" * 300 + ".png"):
        with pytest.raises(InputError, match=r"\[write\] .*cannot be written: "):
            write(tmp_path / path, picture())
    for path in ("x.tga", "x", ".png"):
        with pytest.raises(InputError, match=r"expected a name ending in \.png, \.jpg, \.jpeg or \.webp"):
            write(tmp_path / path, picture())
    with pytest.raises(InputError, match=r"expected a size that \.webp can hold, got \(1, 20000\)"):
        write(tmp_path / "x.webp", np.zeros((1, 20_000), np.uint8))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fail(self, target):
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt):
        write(path, picture())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_opencv_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    spec = importlib.util.spec_from_file_location("image_without_opencv", image.__file__)
    with pytest.raises(MissingDependencyError, match="pip install opencv-python-headless"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# Real files


@pytest.mark.realdata
@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo["file"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_real_files(photo, data_dir):
    path = data_dir / "photos" / photo["file"]
    if photo["file"] == "bomb_text.png":
        assert decode(path).shape == (1, 1, 3)
        return
    if photo["pil13_load"] != "ok":
        with pytest.raises(InputError) as caught:
            decode(path)
        assert str(path) in str(caught.value)
        return
    decoded = decode(path)
    with Image.open(path) as opened:
        pillow = decode(opened)
    if photo["file"] in ("rgba_exif_ori3.png", "rgb_png_ori3.png"):  # orientation in XMP, and in ImageMagick's text
        pillow = pillow[::-1, ::-1]
    limit = 15 if photo["pil_mode"] == "LAB" else 1
    assert_is_rgb(decoded)
    assert np.abs(decoded.astype(int) - pillow).mean() < limit


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["landscape_exif3", "landscape_exif6", "portrait_exif5", "portrait_exif8"])
def test_real_rotated_photos_match_their_upright_copy(name, data_dir):
    upright = decode(data_dir / "photos" / f"{name[:-1]}1.jpg")
    assert np.abs(decode(data_dir / "photos" / f"{name}.jpg").astype(int) - upright).mean() < 6
