import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visdeploy import golden as goldens
from visdeploy.errors import BundleError, InputError
from visdeploy.golden import Golden
from visdeploy.image import encode_png
from visdeploy.spec import Manifest

SPEC = Manifest.parse({"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5})


def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (pixels[..., 0].astype(np.float32) - 127.5)[:, None] / 50


@pytest.fixture
def recorded() -> list[Golden]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, 40, 3), np.uint8) for height in (30, 64)]
    return goldens.record([(encode_png(image), image) for image in images], SPEC, answer)


def arrays_of(recorded: list[Golden]) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(goldens.pack(recorded))) as arrays:
        return dict(arrays)


def saved(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_every_stage_is_kept(recorded: list[Golden]) -> None:
    again = goldens.unpack(goldens.pack(recorded), "car.vdz")
    assert len(again) == 2
    for ours, theirs in zip(again, recorded, strict=True):
        assert (ours.source, ours.valid) == (theirs.source, theirs.valid)
        for field in ("decoded", "pixels", "logits"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        np.testing.assert_array_equal(ours.answer["classes"], theirs.answer["classes"])
    assert 0.1 < again[0].answer["classes"].mean() < 0.9


def test_same_answers_give_the_same_bytes(recorded: list[Golden]) -> None:
    assert goldens.pack(recorded) == goldens.pack(recorded)


def test_network_that_answers_nan_is_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="golden image 1 are not all finite"):
        goldens.record(
            [(b"", image), (b"", image + np.uint8(1))],
            SPEC,
            lambda pixels: np.where(pixels.any(), np.nan, answer(pixels)).astype(np.float32),
        )


class Payload:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("field", ["source", "decoded", "pixels", "valid", "logits", "classes"])
def test_object_arrays_are_refused_unread(
    recorded: list[Golden], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = saved(arrays_of(recorded) | {f"{field}_0": np.array([Payload()], object)})
    assert b"executed" in hostile
    with pytest.raises(BundleError, match=r"car\.vdz: golden\.npz is not readable"):
        goldens.unpack(hostile, "car.vdz")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"decoded_0": np.zeros((30, 40), np.uint8)},
        {"decoded_0": np.zeros((30, 40, 3), np.float32)},
        {"decoded_0": np.zeros((31, 40, 3), np.uint8)},
        {"decoded_0": np.zeros((0, 40, 3), np.uint8)},
        {"pixels_0": np.zeros((64, 64, 4), np.uint8)},
        {"pixels_1": np.zeros((64, 0, 3), np.uint8)},
        {"valid_0": np.array([65, 64])},
        {"valid_0": np.array([0, 64])},
        {"valid_0": np.array([64])},
        {"valid_0": np.array(64)},
        {"logits_0": np.zeros((1, 64, 64), np.float64)},
        {"logits_0": np.zeros((1, 0, 64), np.float32)},
        {"classes_0": np.zeros((30, 40), np.int64)},
        {"classes_0": np.zeros((30, 41), np.uint8)},
    ],
)
def test_arrays_of_another_form_are_refused(recorded: list[Golden], changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"golden\.npz is not readable"):
        goldens.unpack(saved(arrays_of(recorded) | changes), "car.vdz")


def test_missing_array_is_refused(recorded: list[Golden]) -> None:
    arrays = arrays_of(recorded)
    arrays["else"] = arrays.pop("logits_0")
    with pytest.raises(BundleError, match="logits_0"):
        goldens.unpack(saved(arrays), "car.vdz")


def npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }"),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1099511627776,), }"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1, 3), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        npy("__import__('os').abort()"),
        b"\x93NUMPY\x07\x00",
        b"not an array",
        b"",
    ],
)
def test_lying_array_is_refused_without_memory_for_it(recorded: list[Golden], content: bytes) -> None:
    buffer = io.BytesIO(goldens.pack(recorded[:1]))
    with zipfile.ZipFile(buffer) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | {"decoded_0.npy": content}
    with zipfile.ZipFile(forged := io.BytesIO(), "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(BundleError, match=r"golden\.npz is not readable"):
        goldens.unpack(forged.getvalue(), "car.vdz")


def test_decompression_bomb_is_refused_unopened(recorded: list[Golden], monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = arrays_of(recorded)
    total = sum(array.nbytes for array in arrays.values())
    with zipfile.ZipFile(packed := io.BytesIO(goldens.pack(recorded))) as archive:
        headers = sum(info.file_size for info in archive.infolist()) - total
    monkeypatch.setattr(goldens, "_MAX_BYTES", total + headers)
    assert len(goldens.unpack(packed.getvalue(), "car.vdz")) == 2
    monkeypatch.setattr(goldens, "_MAX_BYTES", total + headers - 1)
    with pytest.raises(BundleError, match="unpacks to more than"):
        goldens.unpack(packed.getvalue(), "car.vdz")


def test_damaged_archive_is_refused(recorded: list[Golden]) -> None:
    intact = goldens.pack(recorded)
    for length in range(0, len(intact), len(intact) // 40):
        with pytest.raises(BundleError, match=r"golden\.npz is not readable"):
            goldens.unpack(intact[:length], "car.vdz")
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(intact), 300):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << int(rng.integers(8))
        try:
            goldens.unpack(bytes(damaged), "car.vdz")
        except BundleError:
            continue
