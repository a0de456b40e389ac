"""`.vdz`: one file that holds a model, what it needs to be fed, and proof of what it answers.

Note [canonical archive]
A bundle is a zip that this module's writer alone could have written: the manifest first and the others by name, stored,
times and flags fixed, nothing between them, and a comment with the sha256 of everything before it. The reader takes the
members that the manifest lists and compares the file with what the writer makes of them, so hidden, duplicate, unlisted
or compressed members cannot exist. Checksums prove that a bundle is whole, not who made it.
"""

import hashlib
import json
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from visdeploy.errors import BundleError, InputError
from visdeploy.onnx_files import has_external_data
from visdeploy.spec import MAX_BYTES, SCHEMA_VERSION, FileEntry, Manifest, Spec, sentence
from visdeploy.whole_file import whole_file

__all__ = ["Bundle", "Manifest", "Spec", "write"]

MANIFEST = "manifest.json"
TORCHSCRIPT = "model.ts"
ONNX = "model.onnx"
GOLDEN = "golden.npz"
LABELS = "labels.txt"

_MAX_MANIFEST = 16 << 20
_NAME = re.compile(r"\w[\w.-]{0,99}(/\w[\w.-]{0,99})?", re.ASCII)
_HEADER_LENGTH = 30
_JANUARY_1980 = 0x21


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
    _sums: dict[str, "_Sums"] = field(init=False, repr=False, compare=False, default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Read and check a `.vdz` file, or a directory with the same files.

        Raises:
            BundleError: The bundle is missing, cut short, altered, hostile, or of a newer major schema. Where one
                member is at fault, it is named.
        """
        path = Path(path)
        try:
            manifest, files, sums = _read_directory(path) if path.is_dir() else _read_archive(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BundleError(f"{path}: cannot read the bundle ({reason})") from error
        for name, entry in manifest.files.items():
            if sums[name].sha256 != entry.sha256:
                raise BundleError(f"{path}: {name} does not match the checksum in its manifest")
            if name.endswith(".onnx") and has_external_data(files[name]):
                raise BundleError(f"{path}: refused, {name} wants weights from files outside the bundle")
        for variant in manifest.variants:
            if absent := [name for name in variant.files if name not in files]:
                raise BundleError(f"{path}: its manifest names {absent[0]}, which the bundle does not hold")
        opened = cls(path, manifest, files)
        opened._sums.update(sums)
        return opened

    def read(self, name: str) -> bytes:
        """Return a member's content.

        Raises:
            BundleError: The bundle has no such member.
        """
        if name not in self.files:
            raise BundleError(f"{self.path}: the bundle holds no {name}; it has {', '.join(sorted(self.files))}")
        return self.files[name]

    def sha256(self, name: str) -> str:
        """Return the checksum of a member's content, in hexadecimal.

        Raises:
            BundleError: The bundle has no such member.
        """
        content = self.read(name)
        if name not in self._sums:
            self._sums[name] = _Sums.of(content)
        return self._sums[name].sha256


def write(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle, whole or not at all; the same content gives the same bytes.

    Args:
        path: Target; an existing file is replaced.
        manifest: Its `files` are filled in here.
        files: Content of the other members, by name.

    Raises:
        InputError: The target cannot be written, or the files are more than a bundle holds.
    """
    path = Path(path)
    if sum(map(len, files.values())) > MAX_BYTES - _MAX_MANIFEST:
        raise InputError(f"cannot write {path}: its files have more than {MAX_BYTES - _MAX_MANIFEST} bytes together")
    sums = _all_sums(files)
    entries = {name: FileEntry(sha256=sums[name].sha256, size=len(data)) for name, data in files.items()}
    manifest = manifest.model_copy(update={"files": dict(sorted(entries.items()))})
    described = manifest.model_dump_json(indent=1).encode()
    sums[MANIFEST] = _Sums.of(described)
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            file.writelines(_parts({MANIFEST: described} | dict(sorted(files.items())), sums))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path} ({getattr(error, 'strerror', None) or error})") from error


class _Sums(NamedTuple):
    crc32: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "_Sums":
        return cls(zlib.crc32(data), hashlib.sha256(data).hexdigest())


def _all_sums(files: Mapping[str, bytes]) -> dict[str, _Sums]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(files, pool.map(_Sums.of, files.values()), strict=True))


def _parts(members: Mapping[str, bytes], sums: Mapping[str, _Sums]) -> Iterator[bytes]:
    """Yield the archive piece by piece."""
    digest = hashlib.sha256()
    directory = b""
    offset = 0
    for name, data in members.items():
        header, entry = _headers(name, len(data), sums[name], offset)
        directory += entry
        for part in (header, data):
            digest.update(part)
            offset += len(part)
            yield part
    yield _ending(directory, len(members), offset, digest)


def _headers(name: str, size: int, sums: _Sums, offset: int) -> tuple[bytes, bytes]:
    """Return the header in front of a member, and its entry in the archive's directory."""
    facts = struct.pack("<5H3I2H", 20, 0, 0, 0, _JANUARY_1980, sums.crc32, size, size, len(name), 0)
    place = struct.pack("<3H2I", 0, 0, 0, 0o644 << 16, offset)
    made_by_unix = b"\x14\3"
    return b"PK\3\4" + facts + name.encode(), b"PK\1\2" + made_by_unix + facts + place + name.encode()


def _ending(directory: bytes, count: int, offset: int, digest: "hashlib._Hash") -> bytes:
    """Return what follows the members, given the digest of all before."""
    comment_length = len("sha256:") + 2 * digest.digest_size
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), offset, comment_length)
    digest.update(directory + end)
    return directory + end + b"sha256:" + digest.hexdigest().encode()


def _read_archive(path: Path) -> tuple[Manifest, dict[str, bytes], dict[str, _Sums]]:
    status = path.stat()
    # A device or a pipe may have no end.
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        raise BundleError(f"{path}: not a visdeploy bundle, which is a file of at most {MAX_BYTES} bytes")
    digest = hashlib.sha256()
    # Checksums are most of the work, and leave the other threads alone.
    with path.open("rb") as file, ThreadPoolExecutor(2) as pool:

        def read(size: int) -> bytes:
            part = file.read(min(size, status.st_size))  # what is claimed may be more than there is memory
            digest.update(part)
            return part

        header = read(_HEADER_LENGTH + len(MANIFEST))
        if not header.startswith(b"PK\3\4") or header[_HEADER_LENGTH:] != MANIFEST.encode():
            raise BundleError(f"{path}: not a visdeploy bundle, or its first bytes were altered")
        described = read(int.from_bytes(header[22:26], "little"))
        expected, directory = _headers(MANIFEST, len(described), _Sums.of(described), 0)
        if header != expected:
            raise _altered(path, MANIFEST)
        manifest = _parse_manifest(described, path)
        offset = len(header) + len(described)
        headers, files, jobs = {}, {}, {}
        for name, entry in sorted(manifest.files.items()):
            headers[name] = read(_HEADER_LENGTH + len(name))
            files[name] = read(entry.size)
            jobs[name] = pool.submit(_Sums.of, files[name])
        sums = {name: job.result() for name, job in jobs.items()}
        for name, data in files.items():
            expected, line = _headers(name, len(data), sums[name], offset)
            if headers[name] != expected:
                raise _altered(path, name)
            directory += line
            offset += len(expected) + len(data)
        end = _ending(directory, len(files) + 1, offset, digest)
        rest = file.read(len(end) + 1)
    if not rest.startswith(end):
        raise _altered(path, "its directory")
    if rest != end:
        raise _altered(path, "its end")
    return manifest, files, sums


def _altered(path: Path, where: str) -> BundleError:
    return BundleError(f"{path}: the bundle was cut short or altered (in {where}); copy or export it again")


def _read_directory(path: Path) -> tuple[Manifest, dict[str, bytes], dict[str, _Sums]]:
    manifest = _parse_manifest(_read_file(path, MANIFEST, _MAX_MANIFEST), path)
    files = {name: _read_file(path, name, entry.size) for name, entry in manifest.files.items()}
    return manifest, files, _all_sums(files)


def _read_file(folder: Path, name: str, limit: int) -> bytes:
    file = folder / name
    if not file.is_file():
        raise BundleError(f"{folder}: {name} is missing from the bundle")
    if file.stat().st_size > limit:
        raise BundleError(f"{folder}: {name} has {file.stat().st_size} bytes, expected at most {limit}")
    return file.read_bytes()


def _parse_manifest(data: bytes, path: Path) -> Manifest:
    if len(data) > _MAX_MANIFEST:
        raise BundleError(f"{path}: refused, {MANIFEST} has {len(data)} bytes")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} is not JSON ({error})") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,6}\.\d{1,6}", version, re.ASCII):
        raise BundleError(f"{path}: {MANIFEST} has no schema_version such as {SCHEMA_VERSION!r}")
    written, known = (tuple(map(int, numbers.split("."))) for numbers in (version, SCHEMA_VERSION))
    newer = f"written in schema {version}, this visdeploy reads {SCHEMA_VERSION}; upgrade visdeploy"
    if written[0] > known[0]:
        raise BundleError(f"{path}: {newer}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        why = f" ({newer})" if written > known else ""
        raise BundleError(f"{path}: {MANIFEST} is not valid: {sentence(Manifest, error.errors()[0])}{why}") from error
    for name in manifest.files:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(f"{path}: refused, its manifest lists a file named {name!r}")
    return manifest
