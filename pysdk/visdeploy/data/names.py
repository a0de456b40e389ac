"""Names of classes, and the text files that list names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from visdeploy.errors import InputError
from visdeploy.spec import MAX_CLASSES, UNUSED

ENCODING = "utf-8-sig"
"""Of all text files: many an editor or spreadsheet begins them with the mark that this skips."""


def read_names(path: Path) -> list[str]:
    """Return the class names that a file lists, one a line.

    A blank line before the last name is kept for `check_names` to refuse: left out, it would shift what follows.

    Raises:
        InputError: There are none.
    """
    lines = path.read_text(encoding=ENCODING).rstrip().splitlines()
    if not lines:
        raise InputError(f"[data] {path}: expected the name of a class in each line, got an empty file")
    return [line.strip() for line in lines]


def check_names(names: Sequence[str], root: Path) -> None:
    """Refuse names of classes that no bundle could have.

    Raises:
        InputError: There are too many, or one is empty, not printable, or there twice.
    """
    if len(names) > MAX_CLASSES:
        raise InputError(f"[data] {root}: expected at most {MAX_CLASSES} classes, got {len(names)}")
    for name, count in Counter(names).items():
        if not name or not name.isprintable():
            raise InputError(f"[data] {root}: expected printable names of classes, got {name!r}")
        if count > 1 and name != UNUSED:
            raise InputError(f"[data] {root}: expected each class once, got {name!r} {count} times")
