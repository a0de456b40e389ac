"""From PyTorch training to production throughput in one file that proves its answers.

`import visdeploy` loads NumPy and nothing heavier: engines, torch and plotting are imported by what needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visdeploy import data, export, mask, models, ops, train
    from visdeploy.bundle import Bundle, Spec
    from visdeploy.predictor import Predictor, load

__version__ = "0.1.0"
__all__ = ["Bundle", "Predictor", "Spec", "__version__", "data", "export", "load", "mask", "models", "ops", "train"]

_HOME = {"Bundle": "bundle", "Spec": "bundle", "Predictor": "predictor", "load": "predictor"}
_MODULES = {"data", "export", "mask", "models", "ops", "train"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"visdeploy.{name}")
    if name in _HOME:
        return getattr(import_module(f"visdeploy.{_HOME[name]}"), name)
    raise AttributeError(f"module 'visdeploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
