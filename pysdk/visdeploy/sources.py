"""The images that a caller gives: told apart from a single one, copied where they may change, taken in batches."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from visdeploy.errors import InputError


def refuse_single(images: object, argument: str) -> None:
    """Raise InputError where several images are expected and one came, whose letters or rows would pass for images."""
    if isinstance(images, str | bytes | os.PathLike) or (isinstance(images, np.ndarray) and images.ndim < 4):
        # os.path, as the path may be one that no file could have.
        named = os.fspath(images) if isinstance(images, str | os.PathLike) else None
        what = "" if named is None or os.path.exists(named) else f", and {named!r} does not exist"  # noqa: PTH110
        raise InputError(f"{argument}: expected several images, got a single {type(images).__name__}{what}")
    if not hasattr(images, "__iter__") and not hasattr(images, "__getitem__"):
        raise InputError(f"{argument}: expected several images, got {images!r:.80}")


def own(source: Any) -> Any:
    """Copy what the caller may overwrite with the next frame while this one is still waiting, or shown in a result."""
    if isinstance(source, np.ndarray):
        return source.copy()
    return bytes(source) if isinstance(source, bytearray | memoryview) else source


def in_batches(sources: Iterable[Any], size: int) -> Iterator[list[tuple[int, Any]]]:
    """Yield neighbours with their positions; where `sources` raises, what came before it first."""
    batch: list[tuple[int, Any]] = []
    failure: Exception | None = None
    try:
        for index, source in enumerate(sources):
            batch.append((index, own(source)))
            if len(batch) == size:
                yield batch
                batch = []
    except Exception as error:  # the caller's own
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


def describe(source: Any) -> str:
    """Return the path of an image, or a word for what was passed in."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"{type(source).__name__} in memory"
