"""The exceptions that visdeploy raises; every message names the argument, what was expected and what came."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class VisdeployError(Exception):
    """Base of every error that visdeploy raises on purpose."""


class InputError(VisdeployError, ValueError):
    """An argument, an image or a data folder is not what the call takes."""


class BundleError(VisdeployError):
    """A bundle is damaged, tampered with, too new, or not a bundle."""


class EngineError(VisdeployError):
    """An engine refused a model, or failed while running it."""


class UnsupportedError(EngineError):
    """The engine works, but not with this model, precision or device."""


class CudaError(EngineError):
    """A CUDA call failed."""


class MissingDependencyError(VisdeployError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class CheckFailedError(VisdeployError):
    """A check ran to its end and the answer is no: parity drifted, or a gate was missed."""


@contextmanager
def requires(sentence: str, extra: str) -> Iterator[None]:
    """Say a failed import of the block in one sentence: what needs which packages, and the extra that brings them.

    Raises:
        MissingDependencyError: An import of the block failed; where one named a remedy of its own, that one.
    """
    try:
        yield
    except MissingDependencyError:
        raise
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "visdeploy":  # a fault of ours
            raise
        raise MissingDependencyError(f"{sentence} ({error}): pip install 'visdeploy[{extra}]'") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return what ends a message on an unknown name: the nearest of those known, or nothing where none is near."""
    import difflib  # not at once: every import of visdeploy passes here

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
