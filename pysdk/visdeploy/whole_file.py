"""Files that appear whole or not at all."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; it becomes `path` when the block ends well, and is gone otherwise.

    Raises:
        OSError: The file cannot be put in place. ValueError: `path` is no file name.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)


@contextmanager
def whole_files(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a folder of its own; what is written there moves beside `path` at the end.

    Raises:
        OSError: A file cannot be put in place.
    """
    with TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for made in sorted(Path(folder).iterdir()):
            made.replace(path.with_name(made.name))
