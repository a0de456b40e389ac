"""Where the parts of the package lie that are built with torch, found without loading it."""

from importlib.util import find_spec
from pathlib import Path

from visdeploy.errors import MissingDependencyError


def built_with_torch(name: str) -> Path:
    """Return the path of a file that is installed beside the native module.

    Raises:
        MissingDependencyError: It is not, as there was no torch to build it with.
    """
    native = find_spec("visdeploy._core")
    path = Path(native.origin if native is not None and native.origin else __file__).with_name(name)
    if not path.is_file():
        raise MissingDependencyError(
            f"this visdeploy was built without torch and has no {name}: install a wheel, or build it where torch is "
            "installed, by `pip install --no-build-isolation -Ccmake.define.VISDEPLOY_TORCH=ON .`"
        )
    return path


def cmake_folder() -> Path:
    """Return the folder where CMake's find_package(visdeploy) finds the library; raises as `built_with_torch`."""
    return built_with_torch("visdeployConfig.cmake").parent
