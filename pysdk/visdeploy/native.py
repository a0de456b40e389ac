"""The native module: the one with CUDA kernels where the package visdeploy-cuda13 of the same version is installed."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from visdeploy import __version__
from visdeploy.errors import UnsupportedError

CUDA_PACKAGE = "visdeploy_cuda13"


def _load() -> ModuleType:
    if find_spec(CUDA_PACKAGE) and import_module(CUDA_PACKAGE).__version__ == __version__:
        return import_module(f"{CUDA_PACKAGE}._core")
    try:
        return import_module("visdeploy._core")
    except ImportError as error:
        raise ImportError(
            "visdeploy._core is not built: run `pip install -e .` in the source tree, or install a wheel"
        ) from error


if TYPE_CHECKING:
    from visdeploy import _core as _core
else:
    _core = _load()


def cuda_status() -> tuple[str | None, str]:
    """Return the version of CUDA that the ops can use here, or None, and the sentence that says why or why not."""
    version = _core.cuda_version()
    if version:
        try:
            return version, f"CUDA {version}, {_core.cuda_devices()} device(s)"
        except UnsupportedError as error:
            return None, str(error)
    if not find_spec(CUDA_PACKAGE):
        return None, f"not installed: pip install visdeploy-cuda13=={__version__}"
    other = import_module(CUDA_PACKAGE).__version__
    return None, f"visdeploy-cuda13 is {other}, which does not fit: pip install visdeploy-cuda13=={__version__}"
