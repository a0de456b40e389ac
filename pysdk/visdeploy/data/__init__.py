"""Folders of images and labels, read through one interface.

A file per format turns a folder into a `Dataset`: named pairs that are decoded only when asked for.
"""

from difflib import get_close_matches
from pathlib import Path

from visdeploy.data import camvid, carvana, folder
from visdeploy.data.dataset import Dataset, Item, Sample, check, check_or_raise
from visdeploy.errors import InputError

__all__ = ["Dataset", "Item", "Sample", "check", "check_or_raise", "open"]

# The most telling layout first: the plain folder asks for the least.
_FORMATS = {"camvid": camvid, "carvana": carvana, "folder": folder}


def open(path: str | Path, *, format: str = "auto", **options: object) -> Dataset:
    """Read a folder of images and labels, without decoding the images yet.

    Args:
        path: The folder.
        format: "folder", "carvana", "camvid", or "auto" to tell by what is in the folder.
        options: Passed to the reader of that format, such as `masks=` and `labels=` of `folder.read`.

    Raises:
        InputError: The folder is missing, empty, or of no known format.

    Example:
        >>> dataset = open("nuclei", masks="masks_union", labels=("background", "nucleus"))  # doctest: +SKIP
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"[data.open] path: expected a folder, got {root}")
    if format == "auto":
        format = _detect(root)
    if format not in _FORMATS:
        near = get_close_matches(format, _FORMATS, n=1, cutoff=0.0)[0]
        raise InputError(f"[data.open] format: no format {format!r}; did you mean {near!r}? ({', '.join(_FORMATS)})")
    dataset: Dataset = _FORMATS[format].read(root, **options)
    return dataset


def _detect(root: Path) -> str:
    for name, reader in _FORMATS.items():
        if reader.matches(root):
            return name
    if not any(root.iterdir()):
        raise InputError(f"[data.open] path: {root} is an empty folder")
    layouts = "; ".join(reader.LAYOUT for reader in _FORMATS.values())
    raise InputError(f"[data.open] path: {root} has none of the known layouts: {layouts}")
