"""The engines that run a bundle's network, one adapter per file.

An adapter module has `version()`, which raises ImportError where its package is missing, `device()`, which names what
it computes on, `precisions()`, which says what it can compute in there, and `open_engine(...)`.
"""

import os
import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from visdeploy.bundle import Bundle
from visdeploy.errors import EngineError, InputError, MissingDependencyError, UnsupportedError, did_you_mean, requires
from visdeploy.machine import cpu_flags, cpu_model

# In order of preference.
NAMES: Final = ("tensorrt", "openvino", "onnxruntime", "torchscript")
_DEVICES: Final = {"tensorrt": "cuda"}
PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8")
# Engines start what they are told to, until the process can start no more.
_MAX_THREADS: Final = 1024
# Those whose libraries keep threads for the whole process, which wait for ever in a fork of it; and that process.
_KEEP_THREADS: Final = ("tensorrt", "openvino", "torchscript")
_first_used_in: dict[str, int] = {}
_VECTORS: Final = ("avx", "amx", "fma", "asimd", "sve", "bf16", "i8mm")

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Engine(Protocol):
    """A network that is ready to run; calls from several threads are safe.

    Attributes:
        name: One of `NAMES`.
        version: Of the package that runs it.
        precision: What it computes in.
        notes: Sentences that say how it came to be what it is: the precision chosen, networks cached or made anew.
        lanes: How many threads should call `infer(..., alone=False)` at once for the most images a second.
    """

    name: str
    version: str
    precision: str
    lanes: int
    notes: list[str]

    def infer(self, images: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """Map (B, h, w, 3) uint8 RGB to (B, C, h', w') float32 logits.

        `alone` answers soonest, on all threads that the engine was given; without, `lanes` such calls share them.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds."""
        ...


@dataclass(frozen=True)
class Status:
    """Whether an engine can run here.

    Attributes:
        name: One of `NAMES`.
        version: Of its package, or None where it cannot run.
        reason: Why it cannot run, and what mends that; empty where it can.
    """

    name: str
    version: str | None
    reason: str = ""


def open_engine(
    name: str, bundle: Bundle, *, device: str = "auto", precision: str = "auto", num_threads: int | None = None
) -> Engine:
    """Load a bundle's network into an engine; nothing falls back in silence.

    Args:
        name: One of `NAMES`, or "auto" for the first that is installed.
        bundle: An opened bundle.
        device: "auto", "cpu", or "cuda" for the GPU that the process sees first.
        precision: One of `PRECISIONS`, or "auto" for the fastest here of fp32 and the bundle's accepted variants.
        num_threads: Threads for one inference; default, the container's CPU quota.

    Raises:
        InputError: An unknown engine, device or precision.
        MissingDependencyError: The engine's package is not installed; the message says what to install.
        UnsupportedError: The engine has no such precision here, or the bundle no variant for it.
        EngineError: The engine refuses the model; or was in use before this process was forked.
    """
    from visdeploy.engines.choice import fastest

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"[load] device: expected auto, cpu, cuda, got {device!r}")
    if name == "auto":
        name = _first_installed(device)
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise InputError(f"[load] engine: expected auto, {', '.join(NAMES)}, got {name!r}{hint}")
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"[load] precision: expected auto, {', '.join(PRECISIONS)}, got {precision!r}")
    own = _DEVICES.get(name, "cpu")
    if device not in ("auto", own):
        raise UnsupportedError(f"[load] device: {name} runs on {own} alone; expected auto or {own}, got {device!r}")
    if num_threads is not None and (type(num_threads) is not int or not 1 <= num_threads <= _MAX_THREADS):
        raise InputError(f"[load] num_threads: expected 1 to {_MAX_THREADS}, got {num_threads!r}")
    adapter = load_adapter(name)
    if name in _KEEP_THREADS and _first_used_in.setdefault(name, os.getpid()) != os.getpid():
        raise EngineError(
            f"[load] engine {name} was used before this process was forked, and its threads are not here: start "
            'processes with multiprocessing.get_context("spawn"), load in them alone, or take engine="onnxruntime"'
        )
    threads = num_threads or cpu_quota()

    def open_in(precision: str) -> Engine:
        engine: Engine = adapter.open_engine(bundle, precision=precision, threads=threads)
        return engine

    if precision != "auto":
        return open_in(precision)
    facts = {"version": adapter.version(), "device": adapter.device(), "threads": str(threads)}
    return fastest(name, bundle, open_in, facts)


def status() -> list[Status]:
    """Return what each engine says about this machine, in order of preference."""
    found = []
    for name in NAMES:
        try:
            found.append(Status(name, load_adapter(name).version()))
        except MissingDependencyError as error:
            found.append(Status(name, None, str(error)))
    return found


def installed() -> list[str]:
    """Return the names of the engines that can run here."""
    return [entry.name for entry in status() if entry.version is not None]


def cpu_quota() -> int:
    """Return how many CPUs this process may use: affinity and container limits considered."""
    from visdeploy.native import _core

    return _core.cpu_quota()


class Lazy(Generic[Key, Value]):
    """Values that are made when first asked for, once each, whichever thread asks."""

    def __init__(self, make: Callable[[Key], Value]) -> None:
        self._make = make
        self._made: dict[Key, Value] = {}
        self._lock = threading.Lock()

    def __getitem__(self, key: Key) -> Value:
        found = self._made.get(key)
        if found is None:
            with self._lock:
                found = self._made.get(key)
                if found is None:
                    found = self._made[key] = self._make(key)
        return found

    def close(self) -> None:
        """Let go of them, and of what they are made from."""
        with self._lock:
            self._make = _refuse_closed
            self._made.clear()


def _refuse_closed(key: object) -> Any:
    raise EngineError("[predict] the model was closed; load it again")


def graph_files(
    bundle: Bundle, name: str, precision: str, native: Mapping[str, str], variants: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the members of a bundle that hold what an engine runs in a precision.

    Args:
        bundle: An opened bundle.
        name: Of the engine.
        precision: One of `PRECISIONS`.
        native: The member by precision, for those that need no variant here.
        variants: Those that export can make a variant in.

    Raises:
        UnsupportedError: The engine has no such precision here, or the bundle no variant for it.
    """
    if precision in native:
        return (native[precision],)
    variant = bundle.manifest.variant(name, precision)
    if variant is not None and variant.files:
        return variant.files
    if precision in variants:
        raise UnsupportedError(
            f"[load] precision: {bundle.path} holds no {precision} variant for {name}; to make one: "
            f"visdeploy export SOURCE --precision {precision} --data DIR --out PATH"
        )
    raise UnsupportedError(
        f"[load] precision: {name} computes in {', '.join([*native, *variants])} here, not in {precision}"
    )


def cpu_name() -> str:
    """Return the name of the processor, and the vector instructions that decide what runs on it and how fast."""
    vectors = sorted(flag for flag in cpu_flags() if flag.startswith(_VECTORS))
    return " ".join([cpu_model(), *vectors])


def reason(error: BaseException, line: int = -1) -> str:
    """Return one line of a message that may be empty or run to pages; the last is the most telling as a rule."""
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return lines[line] if lines else type(error).__name__


def load_adapter(name: str) -> Any:
    """Import the module of an engine; raises MissingDependencyError where its package is not installed."""
    module = import_module(f"visdeploy.engines.{name}")
    with requires(f"engine {name} needs its package", name):
        module.version()
    return module


def _first_installed(device: str) -> str:
    reasons = []
    for name in NAMES:  # stops early: asking torch whether it is there takes seconds
        if device not in ("auto", _DEVICES.get(name, "cpu")):
            continue
        try:
            load_adapter(name)
        except MissingDependencyError as error:
            reasons.append(str(error))
        else:
            return name
    raise MissingDependencyError(f"[load] engine: none is installed. {'; '.join(reasons)}")
