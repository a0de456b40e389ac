"""Which of NVIDIA's two libraries is installed: tensorrt, or tensorrt_rtx, which also builds where there is no GPU."""

from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Final

from visdeploy.errors import MissingDependencyError

SUPPORTED: Final = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}
INSTALL: Final = (
    "pip install 'visdeploy[tensorrt]' (any NVIDIA GPU) or 'visdeploy[tensorrt-rtx]' (GeForce RTX and RTX PRO; "
    "builds on any machine)"
)
_DISTRIBUTIONS: Final = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12")}


@dataclass(frozen=True)
class Library:
    """One of the two, imported.

    Attributes:
        name: Of its package, a key of `SUPPORTED`.
        version: Of its package.
        module: The package.
    """

    name: str
    version: str
    module: Any

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for GPUs that are named, without one of them at hand."""
        return hasattr(self.module, "ComputeCapability")

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """What can be named, such as "8.9"; empty for tensorrt, which builds for the GPU that it runs on."""
        if not self.ahead_of_time:
            return ()
        digits = [name[2:] for name in self.module.ComputeCapability.__members__ if name.startswith("SM")]
        return tuple(f"{entry[:-1]}.{entry[-1]}" for entry in digits)


def installed() -> list[str]:
    """Return the names of those that are installed, the one that knows every GPU first."""
    return [name for name in SUPPORTED if find_spec(name)]


def describe(name: str) -> str:
    """Return name and version of one that is installed, without the time that importing it takes."""
    for distribution in _DISTRIBUTIONS[name]:
        try:
            return f"{name} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    return name


def open_library(name: str) -> Library:
    """Import one of them.

    Raises:
        MissingDependencyError: It is not installed, does not load, or is of a version that this was not written for.
    """
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of its own is missing
        raise MissingDependencyError(f"{name} does not load ({error}); {INSTALL}") from error
    version = str(module.__version__)
    if version.split(".")[0] not in map(str, SUPPORTED[name]):
        known = " and ".join(f"{key} {' or '.join(map(str, majors))}" for key, majors in SUPPORTED.items())
        raise MissingDependencyError(f"{name} is {version}, visdeploy works with {known}; {INSTALL}")
    return Library(name, version, module)
