"""The cache of compiled engines: hits, misses that say why, damage, limits, and processes side by side."""

import errno
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from visdeploy import cache, cli
from visdeploy.errors import EngineError, InputError

KEY = {"model": "5f2c", "engine": "openvino", "version": "2026.3", "shape": "1x64x64x3"}

LONG = "Intel(R) Xeon(R) Processor of a name that goes on for longer than anybody wants to read"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("VISDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Makes texts, and counts how often."""

    def __init__(self, text: str = "plan") -> None:
        self.text, self.built, self.used = text, 0, 0

    def build(self) -> tuple[str, bytes]:
        self.built += 1
        return self.text, self.text.encode()

    def use(self, blob: cache.Blob) -> str:
        self.used += 1
        return blob.tobytes().decode()

    def obtain(self, **changes: str) -> tuple[str, str]:
        return cache.obtain(KEY | changes, self.use, self.build)


def only(folder: Path, suffix: str) -> Path:
    (file,) = folder.glob(f"*.{suffix}")
    return file


def test_second_time_comes_from_the_cache(folder: Path) -> None:
    maker = Maker()
    assert maker.obtain() == ("plan", "made anew: the cache held nothing of this model")
    assert maker.obtain() == ("plan", "taken from the cache")
    assert (maker.built, maker.used) == (1, 1)
    assert only(folder, "blob").read_bytes() == b"plan"
    facts = json.loads(only(folder, "json").read_text())
    assert (facts["key"], facts["size"], facts["sha256"]) == (KEY, 4, hashlib.sha256(b"plan").hexdigest())


def test_order_of_the_parts_does_not_matter() -> None:
    maker = Maker()
    maker.obtain()
    backwards = dict(reversed(KEY.items()))
    assert cache.obtain(backwards, maker.use, maker.build) == ("plan", "taken from the cache")


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"version": "2026.4"}, "made anew: the cache held it for another version: 2026.3 -> 2026.4"),
        ({"version": "2026.4", "shape": "1"}, "made anew: .* shape: 1x64x64x3 -> 1; version: 2026.3 -> 2026.4"),
        ({"device": "GPU"}, "made anew: the cache held it for another device: none -> GPU"),
        ({"device": LONG + " avx2 amx"}, "made anew: the cache held it for another device: fma -> amx"),
        ({"model": "77aa"}, "made anew: the cache held nothing of this model"),
        ({"engine": "tensorrt"}, "made anew: the cache held nothing of this model"),
    ],
)
def test_miss_names_what_changed(changes: dict[str, str], note: str) -> None:
    maker = Maker()
    maker.obtain(shape="9x9", version="1")
    maker.obtain(**({"device": LONG + " avx2 fma"} if "amx" in changes.get("device", "") else {}))
    text, said = maker.obtain(**changes)
    assert text == "plan"
    assert re.fullmatch(note, said), said
    assert maker.built == 3


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def extend(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"!")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble(file: Path) -> None:
    file.write_bytes(b"\xff\x00{]")


def endless(file: Path) -> None:
    file.write_text(re.sub(r'"size": \d+', '"size": 1e999', file.read_text()))


def other_json(file: Path) -> None:
    file.write_text("[1, 2]")


def other_key(file: Path) -> None:
    file.write_text(file.read_text().replace("2026.3", "2026.1"))


@pytest.mark.parametrize(
    ("suffix", "damage", "why"),
    [
        ("blob", cut, "its file was cut short or extended: 3 bytes instead of 4"),
        ("blob", extend, "its file was cut short or extended: 5 bytes instead of 4"),
        ("blob", flip, "its file does not match its checksum"),
        ("blob", empty, "its file cannot be read"),
        ("blob", Path.unlink, "its file cannot be read (No such file"),
        ("json", cut, "its description was damaged"),
        ("json", empty, "its description was damaged"),
        ("json", garble, "its description was damaged"),
        ("json", endless, "its description was damaged"),
        ("json", other_json, "its description was damaged"),
        ("json", other_key, "its description was damaged"),
    ],
)
def test_damaged_entry_is_discarded_and_made_again(
    folder: Path, suffix: str, damage: Callable[[Path], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    maker = Maker()
    maker.obtain()
    damage(only(folder, suffix))
    text, note = maker.obtain()
    assert (text, maker.built, maker.used) == ("plan", 2, 0), "nothing that is damaged may reach the engine"
    assert note.startswith(f"made anew: {why}")
    assert why in caplog.text
    assert maker.obtain() == ("plan", "taken from the cache")


def test_entry_that_the_engine_refuses_is_made_again() -> None:
    maker = Maker()
    maker.obtain()

    def refuse(blob: cache.Blob) -> str:
        raise RuntimeError("Exception from src/inference:\nwrong version of blob\n")

    text, note = cache.obtain(KEY, refuse, maker.build)
    assert (text, note) == ("plan", "made anew: the engine refused it (wrong version of blob)")
    assert maker.built == 2


def test_blob_is_written_only_where_it_can_be_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write() -> bytes:
        written.append("blob")
        return b"plan"

    def obtain() -> tuple[str, str]:
        return cache.obtain(KEY, Maker().use, lambda: ("plan", write))

    with monkeypatch.context() as patch:
        patch.setenv("VISDEPLOY_CACHE_SIZE", "0")
        obtain()
        patch.delenv("VISDEPLOY_CACHE_SIZE")
        patch.setenv("VISDEPLOY_CACHE", str(Path(__file__)))
        obtain()
    assert not written
    obtain()
    assert obtain() == ("plan", "taken from the cache")
    assert written == ["blob"]


def test_blob_that_cannot_be_written_costs_only_the_cache() -> None:
    def fail() -> bytes:
        raise RuntimeError("no export of this operation")

    text, note = cache.obtain(KEY, Maker().use, lambda: ("plan", fail))
    assert text == "plan"
    assert note.endswith("; not kept: no export of this operation")


def test_error_of_the_build_is_passed_on_and_leaves_nothing(folder: Path) -> None:
    def fail() -> tuple[str, bytes]:
        raise EngineError("refused car.vdz")

    with pytest.raises(EngineError, match=r"refused car\.vdz"):
        cache.obtain(KEY, Maker().use, fail)
    assert cache.entries() == []
    assert Maker().obtain()[0] == "plan"


def test_blob_may_be_written_to_and_outlives_its_file(folder: Path) -> None:
    Maker().obtain()

    def scribble(blob: cache.Blob) -> cache.Blob:
        blob[0] = ord("P")
        return blob

    blob, _ = cache.obtain(KEY, scribble, lambda: pytest.fail("it was there"))
    cache.clear()
    assert blob.tobytes() == b"Plan"
    assert not list(folder.iterdir())


def test_least_recently_used_makes_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISDEPLOY_CACHE_SIZE", "30")
    maker = Maker("ten bytes!")
    for number, age in (("1", 30), ("2", 20), ("3", 10)):
        maker.obtain(version=number)
        (entry,) = [entry for entry in cache.entries() if entry.key["version"] == number]
        os.utime(folder / f"{entry.name}.json", (time.time() - age,) * 2)
    maker.obtain(version="1")
    maker.obtain(version="4")
    assert {entry.key["version"] for entry in cache.entries()} == {"1", "3", "4"}
    assert len(list(folder.glob("*.blob"))) == 3
    big = Maker("x" * 31)
    assert big.obtain(version="5")[1].endswith("; not kept: its 31 bytes are more than the 30 of VISDEPLOY_CACHE_SIZE")
    assert {entry.key["version"] for entry in cache.entries()} == {"1", "3", "4"}
    Maker("x" * 30).obtain(version="6")
    assert {entry.key["version"] for entry in cache.entries()} == {"6"}


def test_what_processes_left_unfinished_goes_after_a_day(folder: Path) -> None:
    Maker().obtain()
    names = [".0123456789abcdef.partial", f"{'ab' * 16}.blob", f"{'cd' * 16}.json", "notes.txt"]
    for name in names:
        (folder / name).write_text("x")
    Maker().obtain(version="1")
    assert all((folder / name).exists() for name in names), "another process may be writing these"
    for name in names:
        os.utime(folder / name, (1e9, 1e9))
    Maker().obtain(version="2")
    assert [name for name in names if (folder / name).exists()] == ["notes.txt"]
    assert len(cache.entries()) == 3


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("1.5 MB", 1_500_000), ("10k", 10_000), ("2GiB", 2 * 10**9), ("0", 0)]
)
def test_limit_is_in_human_units(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISDEPLOY_CACHE_SIZE", text)
    assert cache.limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "4 GBit", "1e9", "9" * 400])
def test_limit_that_is_no_size_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISDEPLOY_CACHE_SIZE", text)
    with pytest.raises(InputError, match=r"VISDEPLOY_CACHE_SIZE: expected a size such as 4GB or 500 MB, got '"):
        Maker().obtain()


def test_limit_of_nothing_turns_the_cache_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISDEPLOY_CACHE_SIZE", "0")
    assert Maker().obtain() == ("plan", "made anew, as VISDEPLOY_CACHE_SIZE turns the cache off")
    assert not folder.exists()


def test_directory_that_cannot_be_made_costs_only_the_cache(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("a file")
    text, note = Maker().obtain()
    assert text == "plan"
    assert note == f"made anew and not kept, as the cache cannot be used: File exists: {folder}"
    assert note in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="needs owners and modes")
def test_directory_of_others_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Maker().obtain()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o722)
    assert f"others may write to {folder}; forbid it with chmod go-w" in Maker().obtain()[1]
    folder.chmod(0o700)
    assert Maker().obtain()[1] == "taken from the cache"
    monkeypatch.setattr(os, "getuid", lambda: 1 + folder.stat().st_uid)
    assert f"{folder} belongs to another user; set VISDEPLOY_CACHE" in Maker().obtain()[1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("method", ["write_bytes", "write_text"])
def test_disk_that_takes_no_more_costs_only_the_cache(
    folder: Path, method: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, data: object) -> None:
        self.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, method, fail)
    text, note = Maker().obtain()
    assert text == "plan"
    assert note.endswith(f"; not kept: {os.strerror(number)}")
    assert [file.suffix for file in folder.iterdir()] == [".lock"], "no part of it may stay"


def test_nothing_can_be_locked_or_marked_as_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cache, "_wait_and_lock", fail)
    monkeypatch.setattr(os, "utime", fail)
    maker = Maker()
    assert [maker.obtain()[0] for _ in range(2)] == ["plan", "plan"]
    assert maker.built == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_does_not_keep_the_lock(folder: Path) -> None:
    children = []

    def build() -> tuple[str, bytes]:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
        return "plan", b"plan"

    def again() -> tuple[str, bytes]:
        return "plan", b"plan"

    try:
        cache.obtain(KEY, lambda blob: "plan", build)
        only(folder, "json").unlink()
        done = ThreadPoolExecutor(1).submit(cache.obtain, KEY, lambda blob: "plan", again)
        assert done.result(timeout=30)[0] == "plan"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_two_may_clear_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Maker().obtain()
    found = cache._own_files(cache.directory())
    cache.clear()
    monkeypatch.setattr(cache, "_own_files", lambda folder: found)
    assert cache.clear() == 0


def test_no_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VISDEPLOY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    text, note = Maker().obtain()
    assert text == "plan"
    assert note.endswith("no home directory was found; set VISDEPLOY_CACHE to a folder")


def test_threads_make_it_once() -> None:
    maker = Maker()
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: maker.obtain()[0], range(32)))
    assert (set(texts), maker.built) == ({"plan"}, 1)


BUILD = """
import sys, time
from pathlib import Path
from visdeploy import cache

building, go = map(Path, sys.argv[1:])

def build():
    building.touch()
    while not go.exists():
        time.sleep(0.01)
    return "plan", b"plan"

print(*cache.obtain({"model": "5f2c", "engine": "x"}, lambda blob: blob.tobytes().decode(), build), sep="|")
"""


def test_two_processes_at_once_build_once(folder: Path, tmp_path: Path) -> None:
    building, unused, go = tmp_path / "building", tmp_path / "unused", tmp_path / "go"

    def start(mark: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", BUILD, str(mark), str(go)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    first = start(building)
    while not building.exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = start(unused)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.5)
    go.touch()
    assert first.communicate()[0] == "plan|made anew: the cache held nothing of this model\n"
    assert second.communicate()[0] == "plan|taken from the cache, where another process just put it\n"
    assert not unused.exists()


def test_log_is_quiet_unless_something_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    maker = Maker()
    maker.obtain()
    maker.obtain()
    assert not caplog.records


def test_commands_list_and_clear(folder: Path) -> None:
    run = CliRunner()
    assert "empty" in run.invoke(cli.app, ["cache", "ls"]).output
    Maker().obtain()
    listed = run.invoke(cli.app, ["cache", "ls"]).output
    assert str(folder) in listed
    assert all(KEY[part] in listed for part in ("engine", "version"))
    assert f"model {KEY['model'][:12]}\n" in listed
    document = json.loads(run.invoke(cli.app, ["cache", "ls", "--json"]).output)
    assert (document["directory"], document["bytes"], document["limit"]) == (str(folder), 4, 4 * 10**9)
    assert [entry["key"] for entry in document["entries"]] == [KEY]
    (folder / "notes.txt").touch()
    assert json.loads(run.invoke(cli.app, ["cache", "clear", "--json"]).output)["freed"] > 4
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
    assert run.invoke(cli.app, ["cache", "clear"]).exit_code == 0


def test_what_saves_time_is_kept_replaced_and_found(folder: Path) -> None:
    assert cache.find(KEY) is None
    cache.keep(KEY, b"measured")
    assert cache.find(KEY) == b"measured"
    cache.keep(KEY, b"measured more")
    assert cache.find(KEY) == b"measured more"
    assert cache.find(KEY | {"version": "2026.4"}) is None
    only(folder, "blob").write_bytes(b"other bytes")
    assert cache.find(KEY) is None


def test_what_saves_time_may_be_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VISDEPLOY_CACHE_SIZE", "0")
    cache.keep(KEY, b"measured")
    assert cache.find(KEY) is None
    assert not folder.exists()
    monkeypatch.delenv("VISDEPLOY_CACHE_SIZE")
    folder.write_text("a file, where the cache would be")
    cache.keep(KEY, b"measured")
    assert cache.find(KEY) is None
    assert "the cache cannot be used" in caplog.text
