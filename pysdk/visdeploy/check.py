"""What this machine can run, why not the rest, and what to install."""

import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from visdeploy import __version__, cache
from visdeploy.engines import NAMES, cpu_quota, load_adapter, status
from visdeploy.errors import InputError
from visdeploy.machine import cpu_count, cpu_flags, cpu_model, native_isa
from visdeploy.native import cuda_status

# What a processor calls the instructions that make a precision worth while, the strongest first.
_PAYS = {
    "bf16": ("amx_bf16", "avx512_bf16", "bf16"),
    "fp16": ("amx_fp16", "avx512_fp16", "asimdhp"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"),
}
_NOT_FOR_USERS = {"dev"}


@dataclass(frozen=True)
class EngineCheck:
    """An engine here: its version, or None and the reason; the precisions that it can compute in."""

    name: str
    version: str | None
    reason: str
    precisions: tuple[str, ...]


@dataclass(frozen=True)
class ExtraCheck:
    """An optional part of visdeploy: the packages it needs that are missing, and the command that installs them."""

    name: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class CacheCheck:
    """The cache of compiled engines: its directory, or None and the reason; the bytes it holds, and may hold."""

    directory: str | None
    reason: str
    entries: int
    bytes: int
    limit: int


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        visdeploy: Its version.
        python: Its version.
        system: Operating system and architecture.
        libraries: Version of each package that visdeploy always needs.
        cpu: Name of the processor.
        cpus: CPUs that this process may use, by affinity and container limits.
        cpus_present: CPUs of the machine.
        isa: The instruction set that the native module uses.
        isa_found: Those it could use.
        pays: By precision, the instructions of this processor that make it faster; empty where there are none.
        engines: In order of preference.
        extras: What else can be installed.
        cuda: Version of CUDA that the ops can use, and the sentence that says why or why not.
        cache: Where compiled engines are kept, how many bytes that are, and how many there may be.
    """

    visdeploy: str
    python: str
    system: str
    libraries: dict[str, str]
    cpu: str
    cpus: int
    cpus_present: int
    isa: str
    isa_found: tuple[str, ...]
    pays: dict[str, tuple[str, ...]]
    engines: tuple[EngineCheck, ...]
    extras: tuple[ExtraCheck, ...]
    cuda: dict[str, str | None]
    cache: CacheCheck

    @property
    def ok(self) -> bool:
        """Whether an engine can run here."""
        return any(engine.version for engine in self.engines)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain Python values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return all of it for people."""
        libraries = ", ".join(f"{name} {version}" for name, version in self.libraries.items())
        said = [
            f"visdeploy {self.visdeploy}, Python {self.python}, {self.system}",
            f"  {libraries}",
            f"{self.cpu}: {self.cpus} of {self.cpus_present} CPUs for this process",
            f"  {'native code':<14} {self.isa} in use; found: {', '.join(self.isa_found)}",
        ]
        for precision, found in self.pays.items():
            answer = f"pays here: {', '.join(found)}" if found else "gains little: no instructions for it here"
            said.append(f"  {precision:<14} {answer}")
        said.append("engines")
        for engine in self.engines:
            answer = f"{engine.version}: {', '.join(engine.precisions)}" if engine.version else engine.reason
            said.append(f"  {engine.name:<14} {'yes' if engine.version else 'no':<4} {answer}")
        said.append(f"  {'CUDA kernels':<14} {'yes' if self.cuda['version'] else 'no':<4} {self.cuda['reason']}")
        said.append("extras")
        for extra in self.extras:
            answer = f"no   {', '.join(extra.missing)} missing: {extra.install}" if extra.missing else "yes"
            said.append(f"  {extra.name:<14} {answer}")
        kept = self.cache
        sizes = f"{kept.entries} compiled engines, {kept.bytes / 1e6:.0f} of {kept.limit / 1e6:.0f} MB"
        said.append(f"cache: {sizes} in {kept.directory}" if kept.directory else f"cache: none, {kept.reason}")
        return said


def check() -> Check:
    """Ask every engine and package; nothing is loaded onto a device."""
    cuda, sentence = cuda_status()
    used, found = native_isa()
    flags = cpu_flags()
    return Check(
        visdeploy=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        libraries={name: _version(name) or "missing" for name, extra in _requirements() if extra is None},
        cpu=cpu_model(),
        cpus=cpu_quota(),
        cpus_present=cpu_count(),
        isa=used,
        isa_found=tuple(found),
        pays={precision: tuple(name for name in names if name in flags) for precision, names in _PAYS.items()},
        engines=tuple(
            EngineCheck(entry.name, entry.version, entry.reason, _precisions(entry.name) if entry.version else ())
            for entry in status()
        ),
        extras=_extras(),
        cuda={"version": cuda, "reason": sentence},
        cache=_cache(),
    )


def _precisions(engine: str) -> tuple[str, ...]:
    return tuple(load_adapter(engine).precisions())


def _cache() -> CacheCheck:
    try:
        kept = cache.entries()
        return CacheCheck(str(cache.directory()), "", len(kept), sum(entry.size for entry in kept), cache.limit())
    except (OSError, InputError) as error:
        return CacheCheck(None, str(error), 0, 0, 0)


def _extras() -> tuple[ExtraCheck, ...]:
    missing: dict[str, list[str]] = {}
    for name, extra in _requirements():
        # Whether an engine can run is its own to say: its package has more than one name.
        if extra is not None and extra not in {*NAMES, *_NOT_FOR_USERS}:
            missing.setdefault(extra, []).extend([] if _version(name) else [name])
    return tuple(
        ExtraCheck(extra, tuple(names), f"pip install 'visdeploy[{extra}]'" if names else "")
        for extra, names in missing.items()
    )


def _requirements() -> list[tuple[str, str | None]]:
    """Return the name of each package that visdeploy asks for, with the extra that does."""
    found = []
    for line in metadata.requires("visdeploy") or ():
        name, marker = re.match(r"[\w.-]+", line), re.search(r"extra == [\"']([\w-]+)", line)
        assert name is not None
        found.append((name.group(), marker and marker.group(1)))
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
