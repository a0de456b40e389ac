import hashlib
import io
import json
import os
import stat
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from visdeploy import bundle as bundles
from visdeploy.bundle import Bundle, Manifest, write
from visdeploy.errors import BundleError, InputError

SPEC = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5}
FILES = {
    "golden.npz": np.random.default_rng(0).bytes(300),
    "labels.txt": b"background\ncar\n",
    "model.onnx": np.random.default_rng(1).bytes(700),
    "model.ts": b"PK\x03\x04" + bytes(100) + b"PK\x01\x02",
    "variants/int8-openvino.xml": b"",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "car.vdz", Manifest.parse(SPEC), FILES)
    return tmp_path / "car.vdz"


def entry(data: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def manifest(**changes: object) -> bytes:
    """Return a manifest that lists FILES, as JSON, with top-level fields replaced."""
    listed = {"files": {name: entry(data) for name, data in FILES.items()}}
    return json.dumps(json.loads(Manifest.parse(SPEC).model_dump_json()) | listed | changes).encode()


class Forger:
    """Writes the zip that visdeploy writes, for as long as it is not asked for a difference."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.archive = zipfile.ZipFile(self.buffer, "w")

    def add(self, name: str, data: bytes, **facts: object) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = 0o644 << 16
        info.filename = name  # ZipInfo would have cut a name at its NUL byte
        for fact, value in facts.items():
            setattr(info, fact, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of duplicate names
            self.archive.writestr(info, data)
        return info

    def add_all(self, manifest_data: bytes, files: dict[str, bytes] = FILES) -> "Forger":
        self.add("manifest.json", manifest_data)
        for name, data in files.items():
            self.add(name, data)
        return self

    def seal(self, path: Path) -> Path:
        """Close it with the digest that belongs to what was written."""
        self.archive.comment = b"sha256:" + bytes(64)
        self.archive.close()
        body = self.buffer.getvalue()[:-71]
        path.write_bytes(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode())
        return path


def test_round_trip(path: Path) -> None:
    opened = Bundle.open(path)
    assert opened.files == FILES
    assert opened.manifest.labels == ("background", "car")
    assert opened.manifest.files["labels.txt"].size == 15
    assert opened.read("labels.txt") == FILES["labels.txt"]
    with pytest.raises(BundleError, match=r"holds no model\.pt2; it has golden\.npz, labels\.txt"):
        opened.read("model.pt2")


def test_other_tools_read_it(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()[1:]} == FILES


def test_same_content_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.vdz"
    write(again, Manifest.parse(SPEC), dict(reversed(FILES.items())))
    assert again.read_bytes() == path.read_bytes()


def test_forger_writes_what_visdeploy_writes(path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        own_manifest = archive.read("manifest.json")
    assert Forger().add_all(own_manifest).seal(tmp_path / "forged").read_bytes() == path.read_bytes()


def test_any_flipped_byte_is_refused_and_placed(path: Path) -> None:
    intact = path.read_bytes()
    owner = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            owner |= dict.fromkeys(range(start, start + info.file_size), info.filename)
    assert len(owner) > 2000
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(BundleError) as caught:
            Bundle.open(path)
        assert owner.get(position, "") in str(caught.value), position


def test_flipped_byte_in_a_real_model_is_refused(binary_bundle: Path, tmp_path: Path) -> None:
    intact = binary_bundle.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(intact), 60).tolist():
        damaged = bytearray(intact)
        damaged[position] ^= 0xFF
        (tmp_path / "car.vdz").write_bytes(damaged)
        with pytest.raises(BundleError, match="altered"):
            Bundle.open(tmp_path / "car.vdz")


def test_any_cut_is_refused(path: Path) -> None:
    intact = path.read_bytes()
    for length in [*range(0, len(intact), 7), *range(len(intact) - 200, len(intact))]:
        path.write_bytes(intact[:length])
        with pytest.raises(BundleError, match=r"not a visdeploy bundle|cut short"):
            Bundle.open(path)


@pytest.mark.parametrize("extra", [b"\0", b"sha256:" + b"0" * 64, bytes(70_000)])
def test_appended_bytes_are_refused(path: Path, extra: bytes) -> None:
    path.write_bytes(path.read_bytes() + extra)
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(path)


def test_prepended_bytes_are_refused(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    with pytest.raises(BundleError, match="not a visdeploy bundle"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../x", "a\\x", "a/b/c", ".x", "", "a/", "ä", "x" * 101, "a\0b"])
def test_path_outside_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    files = {name: b"payload"}
    forged = Forger().add_all(manifest(files={name: entry(b"payload")}), files).seal(tmp_path / "slip.vdz")
    with pytest.raises(BundleError, match="lists a file named") as caught:
        Bundle.open(forged)
    assert repr(name) in str(caught.value)


def test_manifest_cannot_list_itself(tmp_path: Path) -> None:
    forged = Forger().add_all(manifest(files={"manifest.json": entry(b"")}), {}).seal(tmp_path / "self.vdz")
    with pytest.raises(BundleError, match=r"lists a file named 'manifest\.json'"):
        Bundle.open(forged)


@pytest.mark.parametrize("name", ["model.onnx", "zz", "../x"])
def test_unlisted_member_is_refused(tmp_path: Path, name: str) -> None:
    forger = Forger().add_all(manifest())
    forger.add(name, b"payload")
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(forger.seal(tmp_path / "extra.vdz"))


@pytest.mark.parametrize(
    "facts",
    [
        {"compress_type": zipfile.ZIP_DEFLATED},
        {"date_time": (2024, 1, 1, 0, 0, 0)},
        {"extra": b"\xff\xff\x04\x00evil"},
        {"comment": b"evil"},
        {"create_system": 0},
        {"external_attr": (stat.S_IFLNK | 0o777) << 16},
        {"internal_attr": 1},
    ],
)
def test_member_stored_in_another_way_is_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    forger = Forger()
    forger.add("manifest.json", manifest())
    for name, data in FILES.items():
        forger.add(name, data, **(facts if name == "model.onnx" else {}))
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(forger.seal(tmp_path / "odd.vdz"))


def test_members_in_another_order_are_refused(tmp_path: Path) -> None:
    forged = Forger().add_all(manifest(), dict(reversed(FILES.items()))).seal(tmp_path / "order.vdz")
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(forged)


def test_hidden_bytes_are_refused(tmp_path: Path) -> None:
    forger = Forger().add_all(manifest())
    hidden = forger.add("zz", b"payload")
    forger.archive.filelist.remove(hidden)
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(forger.seal(tmp_path / "hidden.vdz"))


@pytest.mark.parametrize("size", [0, 699, 701, 1 << 31])
def test_member_of_another_size_than_the_manifest_says_is_refused(tmp_path: Path, size: int) -> None:
    listed = {name: entry(data) for name, data in FILES.items()}
    listed["model.onnx"]["size"] = size
    forged = Forger().add_all(manifest(files=listed)).seal(tmp_path / "size.vdz")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        Bundle.open(forged)


def test_wrong_checksum_is_refused(tmp_path: Path) -> None:
    listed = {name: entry(data) for name, data in FILES.items()} | {"model.ts": entry(b"another")}
    listed["model.ts"]["size"] = len(FILES["model.ts"])
    forged = Forger().add_all(manifest(files=listed)).seal(tmp_path / "checksum.vdz")
    with pytest.raises(BundleError, match=r"model\.ts does not match the checksum"):
        Bundle.open(forged)


def test_newer_major_schema_is_refused(tmp_path: Path) -> None:
    forged = Forger().add_all(manifest(schema_version="2.0")).seal(tmp_path / "new.vdz")
    with pytest.raises(BundleError, match=r"schema 2\.0.*upgrade visdeploy"):
        Bundle.open(forged)


def test_newer_minor_schema_is_read(tmp_path: Path) -> None:
    forged = Forger().add_all(manifest(schema_version="1.7", invented_later={"a": 1})).seal(tmp_path / "minor.vdz")
    assert Bundle.open(forged).manifest.schema_version == "1.7"


def test_a_task_of_a_newer_minor_schema_says_what_to_do(tmp_path: Path) -> None:
    for version, hint in (("1.7", "upgrade visdeploy"), ("1.0", "got 'depth'$")):
        forged = Forger().add_all(manifest(schema_version=version, task="depth")).seal(tmp_path / "minor.vdz")
        with pytest.raises(BundleError, match=f"task: input should be .*{hint}"):
            Bundle.open(forged)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (b"[1]", "no schema_version"),
        (b"{}", "no schema_version"),
        (manifest(schema_version=1.0), "no schema_version"),
        (manifest(schema_version="1.0\n"), "no schema_version"),
        (manifest(labels=[]), "not valid: labels"),
        (manifest(labels=["a", "\ud800"]), "not valid"),
        (manifest(labels=["a", "\x1b[2J"]), "printable"),
        (manifest(size=[1 << 40, 64]), "not valid: size"),
        (manifest(divisor=1 << 40), "not valid: divisor"),
        (manifest(std=[0.1, float("nan"), 0.1]), "not valid: std"),
        (manifest(architecture={"deep": [[[]]]}), "architecture: expected plain"),
        (manifest(files=[]), "not valid: files"),
        (manifest(files={"model.onnx": {"sha256": "x", "size": 1}}), "not valid: files"),
        (manifest(files={"model.onnx": {"sha256": "0" * 64, "size": -1}}), "not valid: files"),
        (manifest(files={"model.onnx": {"sha256": "0" * 64, "size": 1 << 40}}), "not valid: files"),
        (manifest(files={f"f{i}": entry(b"") for i in range(1001)}), "not valid: files"),
    ],
)
def test_bad_manifest_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    forged = Forger().add_all(text).seal(tmp_path / "bad.vdz")
    with pytest.raises(BundleError, match=message):
        Bundle.open(forged)


def test_huge_manifest_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    forged = Forger().add_all(b" " * (16 << 20) + manifest()).seal(tmp_path / "huge.vdz")
    with pytest.raises(BundleError, match=r"refused, manifest\.json has"):
        Bundle.open(forged)


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4", b"PK\5\6" + bytes(18), b"\x89PNG\r\n\x1a\n", bytes(200)])
def test_what_is_no_bundle_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.vdz").write_bytes(data)
    with pytest.raises(BundleError, match="not a visdeploy bundle"):
        Bundle.open(tmp_path / "x.vdz")


def test_plain_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BundleError, match="not a visdeploy bundle"):
        Bundle.open(tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["missing.vdz", "missing/x.vdz", "nul\0.vdz", "x" * 300])
def test_missing_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="cannot read the bundle"):
        Bundle.open(tmp_path / name)


def test_endless_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(BundleError, match="not a visdeploy bundle"):
            Bundle.open(endless)


def test_sparse_file_beyond_the_limit_is_not_read(path: Path) -> None:
    os.truncate(path, 1 << 42)
    with pytest.raises(BundleError, match="at most"):
        Bundle.open(path)


@pytest.fixture
def folder(path: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "car")
    return tmp_path / "car"


def test_directory_is_a_bundle_too(folder: Path, path: Path) -> None:
    (folder / "notes.txt").write_text("not listed, so not looked at")
    opened = Bundle.open(folder)
    assert opened.files == FILES
    assert opened.manifest == Bundle.open(path).manifest


def test_directory_with_a_wrong_checksum_is_refused(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[99] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx does not match the checksum"):
        Bundle.open(folder)


def test_directory_with_a_longer_file_is_refused(folder: Path) -> None:
    os.truncate(folder / "model.onnx", 1 << 42)
    with pytest.raises(BundleError, match=r"model\.onnx has 4398046511104 bytes, expected at most 700"):
        Bundle.open(folder)


def test_directory_with_a_shorter_file_is_refused(folder: Path) -> None:
    os.truncate(folder / "model.onnx", 699)
    with pytest.raises(BundleError, match=r"model\.onnx does not match the checksum"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_directory_without_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(folder)


def external(graph: onnx.GraphProto) -> onnx.TensorProto:
    tensor = graph.initializer.add(name="w", dims=[1], data_type=onnx.TensorProto.FLOAT)
    tensor.external_data.add(key="location", value="../w.bin")
    return tensor


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "sparse", "function", "location alone"])
def test_weights_outside_the_bundle_are_refused(path: Path, where: str) -> None:
    model = onnx.ModelProto()
    tensor = external(onnx.GraphProto())
    if where == "initializer":
        external(model.graph)
    elif where == "attribute":
        model.graph.node.add().attribute.add().t.CopyFrom(tensor)
    elif where == "subgraph":
        external(model.graph.node.add().attribute.add().g)
    elif where == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif where == "function":
        model.functions.add().node.add().attribute.add().tensors.append(tensor)
    else:
        model.graph.initializer.add(data_location=onnx.TensorProto.EXTERNAL)
    write(path, Manifest.parse(SPEC), {"variants/int8.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match=r"refused, variants/int8\.onnx wants weights from files outside"):
        Bundle.open(path)


def test_weights_inside_are_taken(path: Path) -> None:
    model = onnx.ModelProto(ir_version=9, producer_name="external_data location")
    model.graph.initializer.add(name="w", dims=[1], data_type=onnx.TensorProto.FLOAT, raw_data=b"\x6a\x01\x70\x01")
    graph = model.SerializeToString()
    for data in (graph, graph[:-1], b"", b"\xff" * 40, b"\x0b" * 9):
        write(path, Manifest.parse(SPEC), {"model.onnx": data})
        assert Bundle.open(path).read("model.onnx") == data


def test_variant_without_its_files_is_refused(path: Path) -> None:
    variant = {"engine": "openvino", "precision": "int8", "accepted": True, "files": ["variants/absent.xml"]}
    write(path, Manifest.parse({**SPEC, "variants": [variant]}), FILES)
    with pytest.raises(BundleError, match=r"names variants/absent\.xml, which the bundle does not hold"):
        Bundle.open(path)


def test_directory_cannot_reach_outside(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"payload")
    (folder / "manifest.json").write_bytes(manifest(files={"../secret": entry(b"payload")}))
    with pytest.raises(BundleError, match=r"lists a file named '\.\./secret'"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "target", ["no/such/folder/car.vdz", "file/car.vdz", "folder", "nul\0.vdz", "x" * 260 + ".vdz"]
)
def test_unwritable_target_leaves_nothing(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write(tmp_path / target, Manifest.parse(SPEC), FILES)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_write_keeps_the_old_bundle(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    before = path.read_bytes()

    def fail(manifest: bytes, files: dict[str, bytes]) -> object:
        yield b"PK\3\4"
        raise failure

    monkeypatch.setattr(bundles, "_parts", fail)
    with pytest.raises(InputError if isinstance(failure, OSError) else KeyboardInterrupt):
        write(path, Manifest.parse(SPEC), {"labels.txt": b"other"})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_checksum_of_a_member_is_that_of_its_content(path: Path) -> None:
    opened = Bundle.open(path)
    for name, entry in opened.manifest.files.items():
        assert opened.sha256(name) == entry.sha256
    draft = Bundle(path, opened.manifest, {**opened.files, "labels.txt": b"other"})
    assert draft.sha256("labels.txt") == hashlib.sha256(b"other").hexdigest()
    changed = replace(opened, files={"labels.txt": b"third"})
    assert changed.sha256("labels.txt") == hashlib.sha256(b"third").hexdigest()
    with pytest.raises(BundleError, match=r"holds no model\.pt2"):
        opened.sha256("model.pt2")
