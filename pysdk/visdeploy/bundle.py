"""`.vdz`: one file that holds a model, what it needs to be fed, and proof of what it answers.

Note [canonical archive]
A bundle is a zip that this module's writer alone could have written: members stored, in one order, times and flags
fixed, no gap between them, and a comment with the sha256 of everything before it. So one digest covers every byte,
structure included, and an archive with overlapping, hidden or duplicate members does not pass. Checksums prove that a
bundle is whole, not who made it.
"""

import hashlib
import io
import json
import re
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from visdeploy.errors import BundleError, InputError
from visdeploy.spec import SCHEMA_VERSION, FileEntry, Manifest, Spec

__all__ = ["Bundle", "Manifest", "Spec", "write"]

MANIFEST = "manifest.json"
TORCHSCRIPT = "model.ts"
ONNX = "model.onnx"
GOLDEN = "golden.npz"

_MAX_MANIFEST = 16 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_COMMENT = re.compile(rb"sha256:[0-9a-f]{64}")
_COMMENT_LENGTH = len("sha256:") + 64
_END_LENGTH = 22
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every checksum held when `open` returned.

    Attributes:
        path: Where it was read from.
        manifest: What it says about itself.
        files: Content of every member but the manifest, by name.
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes]

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Read and check a `.vdz` file, or a directory with the same files.

        Raises:
            BundleError: The bundle is missing, cut short, altered, hostile, or of a newer major schema. Where one
                member is at fault, it is named.
        """
        path = Path(path)
        try:
            if path.is_dir():
                members = _read_directory(path)
            else:
                members = _read_archive(path.read_bytes(), path)
        except OSError as error:
            raise BundleError(f"{path}: cannot read the bundle ({error.strerror or error})") from error
        manifest = _parse_manifest(members.pop(MANIFEST), path)
        for name, entry in manifest.files.items():
            if name not in members:
                raise BundleError(f"{path}: {name} is missing from the bundle")
            _check_member(name, members[name], entry, path)
        unlisted = sorted(members.keys() - manifest.files.keys())
        if unlisted:
            raise BundleError(f"{path}: {unlisted[0]} is in the archive but not in its manifest")
        return cls(path, manifest, members)

    def read(self, name: str) -> bytes:
        """Return a member's content.

        Raises:
            BundleError: The bundle has no such member.
        """
        if name not in self.files:
            raise BundleError(f"{self.path}: the bundle holds no {name}; it has {', '.join(sorted(self.files))}")
        return self.files[name]


def write(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle, whole or not at all; the same content gives the same bytes.

    Args:
        path: Target; an existing file is replaced.
        manifest: Its `files` are filled in here.
        files: Content of the other members, by name.

    Raises:
        InputError: The target cannot be written.
    """
    path = Path(path)
    entries = {name: FileEntry(sha256=_sha256(data), size=len(data)) for name, data in sorted(files.items())}
    manifest = manifest.model_copy(update={"files": entries})
    members = {MANIFEST: manifest.model_dump_json(indent=1).encode(), **{name: files[name] for name in entries}}
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(_pack(members))
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        _discard(partial)


def _pack(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name, data in members.items():
            archive.writestr(_zip_info(name), data)
        archive.comment = b"sha256:" + b"0" * 64
    body = buffer.getvalue()[:-_COMMENT_LENGTH]
    return body + b"sha256:" + _sha256(body).encode()


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def _read_archive(data: bytes, path: Path) -> dict[str, bytes]:
    end = len(data) - _COMMENT_LENGTH - _END_LENGTH
    if not data.startswith(b"PK\x03\x04"):
        raise BundleError(f"{path}: not a visdeploy bundle, or its first bytes were altered")
    body, comment = data[:-_COMMENT_LENGTH], data[-_COMMENT_LENGTH:]
    whole = end > 0 and _COMMENT.fullmatch(comment) and comment == b"sha256:" + _sha256(body).encode()
    if not whole:
        culprit = _find_damage(data)
        raise BundleError(f"{path}: the bundle was cut short or altered ({culprit}); copy or export it again")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _members(archive, end, path)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"{path}: not a well-formed archive ({error})") from error


def _members(archive: zipfile.ZipFile, end: int, path: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    offset = 0
    for info in archive.infolist():
        if not _NAME.fullmatch(info.filename) or info.filename in members:
            raise BundleError(f"{path}: refused, its archive has a member named {info.filename!r}")
        if info.header_offset != offset or info.compress_type != zipfile.ZIP_STORED or info.extra or info.flag_bits:
            raise BundleError(f"{path}: refused, {info.filename} is not stored the way visdeploy writes bundles")
        if info.filename == MANIFEST and info.file_size > _MAX_MANIFEST:
            raise BundleError(f"{path}: refused, {MANIFEST} has {info.file_size} bytes")
        members[info.filename] = archive.read(info)
        offset += 30 + len(info.filename) + info.file_size
    if archive.start_dir != offset or offset > end:
        raise BundleError(f"{path}: refused, its archive hides bytes between the members")
    if MANIFEST not in members:
        raise BundleError(f"{path}: a zip without {MANIFEST} is not a visdeploy bundle")
    return members


def _find_damage(data: bytes) -> str:
    """Name the first member whose content fails its checksum, for an archive that failed its own."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                try:
                    archive.read(info)
                except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError):
                    return f"in {info.filename}"
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "its directory of members is not readable"
    return "outside its members"


def _read_directory(path: Path) -> dict[str, bytes]:
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise BundleError(f"{path}: a directory without {MANIFEST} is not a visdeploy bundle")
    if manifest_path.stat().st_size > _MAX_MANIFEST:
        raise BundleError(f"{path}: refused, {MANIFEST} has {manifest_path.stat().st_size} bytes")
    members = {MANIFEST: manifest_path.read_bytes()}
    for name, entry in _parse_manifest(members[MANIFEST], path).files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing from the bundle")
        if file.stat().st_size != entry.size:
            raise BundleError(f"{path}: {name} has {file.stat().st_size} bytes, its manifest says {entry.size}")
        members[name] = file.read_bytes()
    return members


def _parse_manifest(data: bytes, path: Path) -> Manifest:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} is not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise BundleError(f"{path}: {MANIFEST} is not a JSON object")
    version = raw.get("schema_version")
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,6}\.\d{1,6}", version):
        raise BundleError(f"{path}: {MANIFEST} has no schema_version such as {SCHEMA_VERSION!r}")
    if int(version.split(".")[0]) > int(SCHEMA_VERSION.split(".")[0]):
        raise BundleError(
            f"{path}: written in bundle schema {version}, this visdeploy reads up to {SCHEMA_VERSION}; upgrade visdeploy"
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {MANIFEST} is not valid: {field}: {first['msg']}") from error
    for name in manifest.files:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{path}: refused, its manifest lists a file named {name!r}")
    return manifest


def _check_member(name: str, data: bytes, entry: FileEntry, path: Path) -> None:
    if len(data) != entry.size:
        raise BundleError(f"{path}: {name} has {len(data)} bytes, its manifest says {entry.size}")
    if _sha256(data) != entry.sha256:
        raise BundleError(f"{path}: {name} does not match the checksum in its manifest")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _discard(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:  # the folder itself is gone or unwritable: nothing of ours is left in it
        return
