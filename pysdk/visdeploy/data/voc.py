"""Pascal VOC XML: `Annotations/` beside `JPEGImages/`, and `ImageSets/Main/` where it names a split.

Note [Pascal's pixels]. Pascal's own files count pixels from 1 and include the last one. The tools that write the same
XML today (labelImg, labelme, CVAT) put plain corners into it. A file that names "The VOC2007 Database", or that of
another year, as its source is read as Pascal's, every other as plain corners; `inclusive=` overrides both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from visdeploy.data import box_formats
from visdeploy.data.dataset import Dataset
from visdeploy.data.marked import (
    BACKGROUND,
    BOX_TASKS,
    Marked,
    Split,
    find_image,
    given_labels,
    make_dataset,
    read_size,
)
from visdeploy.data.names import ENCODING
from visdeploy.errors import InputError
from visdeploy.image import SUFFIXES

LAYOUT = "Annotations/*.xml beside JPEGImages/ (Pascal VOC)"
TASKS = BOX_TASKS

_FOLDERS = ("Annotations", "annotations")


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return any(next((root / folder).glob("*.xml"), None) for folder in _FOLDERS)


def read(root: Path, *, labels: Sequence[str] | None = None, inclusive: bool | None = None) -> Dataset:
    """Read boxes from XML; difficult objects are ignored ones.

    Where `ImageSets/Main/` has `train.txt` and `val.txt`, they are the split. Else every fifth name is held out.

    Args:
        root: Holds `Annotations/` and `JPEGImages/` or `images/`.
        labels: Class names by index; default, the lines of `labels.txt` in `root`, or the names found, sorted.
        inclusive: Whether pixels count from 1 with the last included; default, by Note [Pascal's pixels].

    Raises:
        InputError: No annotation has an image.
    """
    annotations = next((path for name in _FOLDERS if (path := root / name).is_dir()), root / _FOLDERS[0])
    images = image_folder(root)
    known = given_labels(root, labels)
    splits: list[Split] = []
    parsed: list[list[_Annotation]] = []
    for stems in listed_names(root, "Main") or [sorted(path.stem for path in annotations.glob("*.xml"))]:
        split, found = Split(), []
        for stem in stems:
            try:
                found.append(_read_xml(annotations / f"{stem}.xml", images, inclusive))
            except InputError as error:
                split.problems.append(str(error))
        splits.append(split)
        parsed.append(found)
    names = known or (BACKGROUND, *sorted({name for found in parsed for one in found for name in one.classes}))
    index = {name: number for number, name in enumerate(names) if number}
    for split, found in zip(splits, parsed, strict=True):
        for one in found:
            if unknown := sorted(set(one.classes) - index.keys()):
                split.problems.append(f"{one.file}: unknown class {', '.join(unknown)}; known are {', '.join(index)}")
            else:
                labelled = [index[name] for name in one.classes]
                split.images.append(Marked(one.file.stem, one.image, one.size, one.xyxy, labelled, one.difficult))
    if len(splits) == 1:
        named = {path.stem for path in annotations.glob("*.xml")}
        without = sum(path.suffix.lower() in SUFFIXES and path.stem not in named for path in images.iterdir())
        splits[0].notes += [f"{images}: {without} images have no XML file, and are left out"] if without else []
    return make_dataset(root, names, splits)


def image_folder(root: Path) -> Path:
    """Return the folder of the images: `JPEGImages/`, `images/` or `root` itself."""
    return next((path for name in ("JPEGImages", "images") if (path := root / name).is_dir()), root)


def listed_names(root: Path, purpose: str) -> list[list[str]] | None:
    """Return the names to train on and those held out, or None where `ImageSets/PURPOSE/` does not list both."""
    lists = [root / "ImageSets" / purpose / f"{name}.txt" for name in ("train", "val")]
    if not all(path.is_file() for path in lists):
        return None
    return [
        [line.split()[0] for line in path.read_text(encoding=ENCODING).splitlines() if line.strip()] for path in lists
    ]


@dataclass(frozen=True)
class _Annotation:
    file: Path
    image: Path
    size: tuple[int, int]
    xyxy: box_formats.Boxes
    classes: list[str]
    difficult: list[bool]


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses what entities need: nested ones make gigabytes of a small file."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InputError("expected XML without a DOCTYPE")


def _read_xml(path: Path, images: Path, inclusive: bool | None) -> _Annotation:
    try:
        tree = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
        return _parse(path, images, tree, inclusive)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, InputError, LookupError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def _parse(path: Path, images: Path, tree: ElementTree.Element, inclusive: bool | None) -> _Annotation:
    # Many an editor leaves another file's name in the XML.
    image = find_image(images, path.stem) or images / Path(tree.findtext("filename") or path.stem).name
    if not image.is_file():
        raise InputError(f"no image {path.stem} in {images.name}/")
    corners, classes, difficult = [], [], []
    for number, found in enumerate(tree.iter("object"), start=1):
        name = (found.findtext("name") or "").strip()
        if not name:
            raise InputError(f"object {number}: expected a name")
        corners.append([_number(found, number, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")])
        classes.append(name)
        difficult.append((found.findtext("difficult") or "0").strip() == "1")
    if inclusive is None:
        source = tree.findtext("source/database") or ""
        inclusive = source.startswith("The VOC")
    xyxy = box_formats.from_pascal(corners) if inclusive else np.array(corners, np.float64).reshape(-1, 4)
    stated = [(tree.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    sides = [int(text) if text.isdecimal() and len(text) < 10 else 0 for text in stated]
    size = (sides[0], sides[1]) if all(sides) else read_size(image)
    return _Annotation(path, image, size, xyxy, classes, difficult)


def _number(found: ElementTree.Element, number: int, tag: str) -> float:
    text = found.findtext(tag)
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"object {number}: expected a number in {tag}, got {text!r}") from None
