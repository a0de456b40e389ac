"""What was compiled or measured on this machine, kept for the next process.

Note [entries]
An entry is two files named after the digest of its key: `.blob`, as its engine wrote it, and `.json`, which holds the
key's parts and the blob's checksum and is written last. Entries are only ever replaced or removed whole, so readers
take no lock; who builds one holds a lock on its `.lock`. A blob is as good as code, so only a directory that nobody
else can write to is used. Whatever is wrong with the cache costs time and a sentence, never the answer.
"""

import errno
import hashlib
import json
import logging
import mmap
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError
from visdeploy.whole_file import whole_file

T = TypeVar("T")
Blob = NDArray[np.uint8]
Content = bytes | Callable[[], bytes]

_DEFAULT_LIMIT = "4GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DAY = 86400.0
# Of what is longer, only the words that changed are shown.
_READABLE = 80

log = logging.getLogger("visdeploy")


@dataclass(frozen=True)
class Entry:
    """One thing in the cache.

    Attributes:
        name: Of its files, without a suffix.
        key: What it was made from and for.
        sha256: Of the blob.
        size: Of the blob, in bytes.
        made: Seconds since 1970.
        used: Likewise; when it was last made or taken.
    """

    name: str
    key: dict[str, str]
    sha256: str
    size: int
    made: float
    used: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def directory() -> Path:
    """Return `$VISDEPLOY_CACHE`, or the platform's folder for caches; it may not exist yet.

    Raises:
        OSError: The user has no home directory.
    """
    if chosen := os.environ.get("VISDEPLOY_CACHE"):
        return Path(chosen)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise FileNotFoundError("no home directory was found; set VISDEPLOY_CACHE to a folder") from error
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "visdeploy" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "visdeploy"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "visdeploy"


def limit() -> int:
    """Return the most bytes that the cache may hold, from `$VISDEPLOY_CACHE_SIZE`; 0 turns it off.

    Raises:
        InputError: It is no size such as "4GB" or "500 MB".
    """
    text = os.environ.get("VISDEPLOY_CACHE_SIZE") or _DEFAULT_LIMIT
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise InputError(f"[cache] VISDEPLOY_CACHE_SIZE: expected a size such as 4GB or 500 MB, got {text!r:.60}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def obtain(key: Mapping[str, str], use: Callable[[Blob], T], build: Callable[[], tuple[T, Content]]) -> tuple[T, str]:
    """Take something from the cache, or make it and keep it there; of several processes one makes it.

    Args:
        key: Named parts that decide what the blob is, the part "model" among them; any other value is another entry.
        use: Makes the thing from its blob, whose checksum holds: (n,) uint8, mapped from a private copy of the file,
            which it may keep and write to. What it raises counts as a refusal, and the entry is made again.
        build: Makes the thing and its blob, or what makes the blob where it can be kept.

    Returns:
        The thing, and a sentence without a full stop that says where it came from and why.

    Raises:
        InputError: `$VISDEPLOY_CACHE_SIZE` is no size. Whatever `build` raises.
    """
    cap = limit()
    if not cap:
        return build()[0], "made anew, as VISDEPLOY_CACHE_SIZE turns the cache off"
    try:
        folder = _own_directory()
    except OSError as error:
        note = f"made anew and not kept, as the cache cannot be used: {_reason(error)}"
        log.warning("%s", note)
        return build()[0], note
    name = _name(key)
    with suppress(_Unusable):
        return _take(folder, name, key, use), "taken from the cache"
    with _locked(folder / f"{name}.lock"):
        try:
            return _take(folder, name, key, use), "taken from the cache, where another process just put it"
        except _Unusable as error:
            why = str(error)
        if why:
            log.warning("the cache entry %s is discarded: %s", folder / name, why)
            _remove(folder, name)
        value, content = build()
        kept = _keep(folder, name, key, content, cap)
    return value, f"made anew: {why or _changes(key, name)}{kept}"


def find(key: Mapping[str, str]) -> bytes | None:
    """Return what `keep` put into the cache under a key, or None."""
    try:
        return _take(_own_directory(), _name(key), key, lambda blob: blob.tobytes()) if limit() else None
    except (_Unusable, OSError):
        return None


def keep(key: Mapping[str, str], blob: bytes) -> None:
    """Put into the cache, in place of what is there, what saves time and may be lost; a warning then says why."""
    cap = limit()
    if not cap:
        return
    try:
        folder = _own_directory()
        with _locked(folder / f"{_name(key)}.lock"):
            _keep(folder, _name(key), key, blob, cap)
    except OSError as error:
        log.warning("the cache cannot be used: %s", _reason(error))


def entries() -> list[Entry]:
    """Return what the cache holds, last used first; damaged entries are left out."""
    return _entries(directory())


def clear() -> int:
    """Remove every entry and return how many bytes that freed.

    Raises:
        OSError: A file cannot be removed.
    """
    freed = 0
    for file in _own_files(directory()):
        with suppress(FileNotFoundError):  # another process may clear it too
            size = file.stat().st_size
            file.unlink()
            freed += size
    return freed


def _name(key: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(key.items())).encode()).hexdigest()[:32]


class _Unusable(Exception):
    """There is no entry, or the message says what is wrong with it."""


def _own_directory() -> Path:
    folder = directory()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":
        status = folder.stat()
        if status.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user; set VISDEPLOY_CACHE to a folder of your own")
        if status.st_mode & 0o022:
            raise PermissionError(f"others may write to {folder}; forbid it with chmod go-w")
    return folder


def _take(folder: Path, name: str, key: Mapping[str, str], use: Callable[[Blob], T]) -> T:
    file = folder / f"{name}.json"
    if not file.exists():
        raise _Unusable
    entry = _read_entry(file)
    if entry is None or entry.key != dict(key):
        raise _Unusable("its description was damaged")
    try:
        with (folder / f"{name}.blob").open("rb") as opened:
            blob = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
    except (OSError, ValueError) as error:
        raise _Unusable(f"its file cannot be read ({_reason(error)})") from error
    if blob.size != entry.size:
        raise _Unusable(f"its file was cut short or extended: {blob.size} bytes instead of {entry.size}")
    if hashlib.sha256(blob.data).hexdigest() != entry.sha256:
        raise _Unusable("its file does not match its checksum")
    try:
        value = use(blob)
    except Exception as error:  # whatever an engine raises, the entry is of no use
        raise _Unusable(f"the engine refused it ({_reason(error)})") from error
    with suppress(OSError):
        os.utime(file)
    return value


def _keep(folder: Path, name: str, key: Mapping[str, str], content: Content, cap: int) -> str:
    """Write an entry and return nothing, or say why it could not be kept."""
    try:
        blob = content if isinstance(content, bytes) else content()
        if len(blob) > cap:
            raise OSError(f"its {len(blob)} bytes are more than the {cap} of VISDEPLOY_CACHE_SIZE")
        _make_room(folder, cap - len(blob))
        with whole_file(folder / f"{name}.blob") as partial:
            partial.write_bytes(blob)
        facts = {"key": dict(key), "sha256": hashlib.sha256(blob).hexdigest(), "size": len(blob), "made": time.time()}
        with whole_file(folder / f"{name}.json") as partial:
            partial.write_text(json.dumps(facts, indent=1))
    except Exception as error:  # whatever an engine raises as it writes its blob: the thing itself is there
        _remove(folder, name)
        log.warning("what was made anew is not kept in the cache: %s", _reason(error))
        return f"; not kept: {_reason(error)}"
    return ""


def _make_room(folder: Path, room: int) -> None:
    """Remove what was used least recently until the rest fits into `room` bytes, and what processes left unfinished."""
    for entry in _entries(folder):
        room -= entry.size
        if room < 0:
            log.info("the cache entry %s makes room for another", folder / entry.name)
            _remove(folder, entry.name)
    whole = {entry.name for entry in _entries(folder)}
    for file in _own_files(folder):
        with suppress(OSError):
            if file.stem not in whole and time.time() - file.stat().st_mtime > _DAY:
                file.unlink()


def _remove(folder: Path, name: str) -> None:
    for suffix in ("json", "blob"):  # in this order: without its description a blob is nothing
        with suppress(OSError):
            (folder / f"{name}.{suffix}").unlink()


def _own_files(folder: Path) -> list[Path]:
    pattern = re.compile(r"[0-9a-f]{32}\.(blob|json|lock)|\.[0-9a-f]{16}\.partial", re.ASCII)
    return [file for file in folder.glob("*") if pattern.fullmatch(file.name)]


def _entries(folder: Path) -> list[Entry]:
    found = [entry for file in folder.glob("*.json") if (entry := _read_entry(file)) is not None]
    return sorted(found, key=lambda entry: -entry.used)


def _read_entry(file: Path) -> Entry | None:
    try:
        facts = json.loads(file.read_bytes())
        key = {str(part): str(value) for part, value in facts["key"].items()}
        used = file.stat().st_mtime
        return Entry(file.stem, key, str(facts["sha256"]), int(facts["size"]), float(facts["made"]), used)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _changes(key: Mapping[str, str], name: str) -> str:
    """Say how `key` differs from the nearest entry of the same model and engine."""
    same = [
        entry
        for entry in entries()
        if entry.name != name and all(entry.key.get(part) == key.get(part) for part in ("model", "engine"))
    ]
    if not same:
        return "the cache held nothing of this model"
    nearest = max(same, key=lambda entry: len(entry.key.items() & key.items()))
    changes = [
        f"{part}: {_change(nearest.key.get(part, ''), key.get(part, ''))}"
        for part in sorted(nearest.key.keys() | key.keys())
        if nearest.key.get(part) != key.get(part)
    ]
    return f"the cache held it for another {'; '.join(changes)}"


def _change(old: str, new: str) -> str:
    if len(old) + len(new) > _READABLE:
        before, after = old.split(), new.split()
        old = " ".join(word for word in before if word not in after)
        new = " ".join(word for word in after if word not in before)
    return f"{old[: _READABLE // 2] or 'none'} -> {new[: _READABLE // 2] or 'none'}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for other processes; where nothing can be locked, entries stay whole and work may be done twice."""
    with ExitStack() as stack:
        with suppress(OSError):
            file = stack.enter_context(path.open("ab"))
            _wait_and_lock(file)
            stack.callback(_unlock, file)
        yield


if sys.platform == "win32":
    import msvcrt

    def _wait_and_lock(file: IO[bytes]) -> None:
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError as error:  # it gives up after ten seconds
                if error.errno != errno.EDEADLK:
                    raise

    def _unlock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _wait_and_lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: IO[bytes]) -> None:
        # Closing does not do: a process that was forked meanwhile has the file open too.
        fcntl.flock(file, fcntl.LOCK_UN)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
