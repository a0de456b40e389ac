"""What this machine is: its processor, and what this process takes of its memory."""

import os
import platform
from pathlib import Path

from visdeploy.native import _core

_CPU = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def cpu_model() -> str:
    """Return the name of the processor."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the instruction set extensions by the names that Linux gives them; empty where it is not Linux."""
    return frozenset(f"{_cpu_field('flags')} {_cpu_field('Features')}".split())


def cpu_count() -> int:
    """Return how many CPUs the machine has, whoever may use them."""
    return os.cpu_count() or 1


def native_isa() -> tuple[str, list[str]]:
    """Return the instruction set that the native module uses, and all that it could use here."""
    return _core.isa(), _core.isa_names()


def resident_memory(*, reset_peak: bool = False) -> tuple[float | None, float | None]:
    """Return how many MB of memory this process holds, and held at most since the last reset; None where unknown."""
    try:
        if reset_peak:
            _CLEAR.write_text("5")
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return tuple(int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    except (OSError, ValueError, KeyError):
        return None, None


def _cpu_field(name: str) -> str:
    try:
        lines = _CPU.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
