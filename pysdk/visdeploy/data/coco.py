"""COCO's JSON of images, annotations and categories, with boxes as left, top, width, height."""

from collections.abc import Mapping, Sequence
from json import loads
from pathlib import Path
from reprlib import repr as shown
from typing import Any, TypeGuard

from visdeploy.data.box_formats import from_xywh
from visdeploy.data.dataset import Dataset
from visdeploy.data.marked import BOX_TASKS, Marked, Split, make_dataset, read_size, with_background
from visdeploy.errors import InputError

LAYOUT = "a COCO JSON of boxes beside the images, or in annotations/"
TASKS = BOX_TASKS

_KEYS = (b'"images"', b'"annotations"', b'"categories"', b'"bbox"')
_PANOPTIC = b'"segments_info"'
_BACKGROUNDS = frozenset({"background", "_background_", "__background__"})
_PARTS = ("train", "val")

Record = dict[str, Any]


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return bool(_candidates(root))


def read(
    root: Path, *, json: str | None = None, images: str | None = None, labels: Sequence[str] | None = None
) -> Dataset:
    """Read boxes from COCO JSON; what is marked `iscrowd` or `ignore` is ignored.

    One file each with "train" and "val" in its name are the split; so are images whose `split` begins with these words.
    Else every fifth name is held out.

    Args:
        root: Holds the JSON, or `annotations/` with it, and the images.
        json: Path of the file below `root`; default, the only one there, or those of train and val.
        images: Folder of the images below `root`; default, `root`, `images/` or `JPEGImages/`, and in each of these a
            folder that is named after the split.
        labels: Class names by index; default, the categories by id.

    Raises:
        InputError: The JSON is missing, or not what is expected.
    """
    files = [root / json] if json is not None else _choose(root)
    documents = [(path, load(path)) for path in files]
    found = dict.fromkeys(name for path, document in documents for name in category_names(document, path).values())
    names = with_background(list(labels if labels is not None else found))
    bases = [root / images] if images is not None else [root, root / "images", root / "JPEGImages"]
    splits = []
    for path, document in documents:
        # instances_train2017.json belongs to images/train2017/.
        words = {path.stem.rpartition("_")[2], *(str(image.get("split")) for image in document["images"])}
        inside = [folder for base in bases for word in sorted(words) if (folder := base / word).is_dir()]
        splits += _read_document(path, document, names, [*bases, *inside])
    return make_dataset(root, names, splits)


def explain(root: Path) -> None:
    """Say what keeps the first likely JSON file from being read, where none has the words of this format.

    Raises:
        InputError: There is one.
    """
    for path in _json_files(root):
        text = path.read_bytes()
        if path.parent == root and text.strip() and not any(key in text for key in _KEYS):
            continue  # no kin of COCO's
        load(path)
        raise InputError(f"[data] {path}: no box ('bbox') in its annotations, so it is no COCO JSON of boxes")


def _json_files(root: Path) -> list[Path]:
    return sorted([*root.glob("*.json"), *(root / "annotations").glob("*.json")])


def panoptic_files(root: Path) -> list[Path]:
    """The JSON files of segments, whose categories name the ids in semantic masks."""
    return [path for path in _json_files(root) if _PANOPTIC in path.read_bytes()]


def _candidates(root: Path) -> list[Path]:
    """The JSON files that have the words of this format in them; parsing tells the rest."""
    found = []
    for path in _json_files(root):
        text = path.read_bytes()
        if all(key in text for key in _KEYS) and _PANOPTIC not in text:
            found.append(path)
    return found


def _choose(root: Path) -> list[Path]:
    found = _candidates(root)
    if len(found) > 1:
        by_part = [[path for path in found if part in path.name] for part in _PARTS]
        if [len(paths) for paths in by_part] == [1, 1]:
            return [paths[0] for paths in by_part]
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise InputError(
            f"[data] {root}: expected one COCO JSON of boxes, found {names}; name it with json=, or as the path"
        )
    if not found:
        explain(root)
        raise InputError(f"[data] {root}: expected a COCO JSON with images, annotations of boxes and categories")
    # A truncated half of a split may have lost the words of this format; the other half alone would be split anew.
    for part, other in (_PARTS, _PARTS[::-1]):
        if part in found[0].name and (lost := found[0].with_name(found[0].name.replace(part, other))).is_file():
            load(lost)
    return found


def load(path: Path) -> Record:
    """Read a JSON file of lists of images, annotations and categories.

    Raises:
        InputError: It is none.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"[data] {path}: cannot be read: {error.strerror}") from error
    try:
        document = loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"[data] {path}: not valid JSON: {error if text.strip() else 'the file is empty'}") from error
    if not isinstance(document, dict):
        raise InputError(
            f"[data] {path}: expected COCO's object with images, annotations and categories, "
            f"got a {type(document).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        if key not in document:
            raise InputError(f"[data] {path}: no {key!r} in it; COCO's JSON has images, annotations and categories")
        listed = document[key]
        if not isinstance(listed, list) or not all(isinstance(record, dict) for record in listed):
            raise InputError(f"[data] {path}: expected a list of objects in {key!r}, got {shown(listed)}")
    return dict(document)


def category_names(document: Record, path: Path) -> dict[int, str]:
    """Names by id, in the order of ids, without the background that some writers add.

    Raises:
        InputError: An id or name is missing, or there twice.
    """
    categories = document["categories"]
    for category in categories:
        if not _is_whole(category.get("id")) or not isinstance(category.get("name"), str):
            raise InputError(f"[data] {path}: expected a whole id and a name in each category, got {category}")
    names = {category["id"]: category["name"] for category in sorted(categories, key=lambda category: category["id"])}
    named = {number: name for number, name in names.items() if name not in _BACKGROUNDS}
    if len(names) != len(categories) or len(set(named.values())) != len(named):
        raise InputError(f"[data] {path}: expected each id and each name of a category once")
    return named


def _parts(images: list[Record]) -> list[list[Record]]:
    """The images to learn from and those held out, where their `split` says so."""
    parts = [[image for image in images if str(image.get("split")).startswith(part)] for part in _PARTS]
    return parts if all(parts) and sum(map(len, parts)) == len(images) else [images]


def _read_document(path: Path, document: Record, names: Sequence[str], folders: Sequence[Path]) -> list[Split]:
    known = {name: label for label, name in enumerate(names) if label}
    labels = {number: known.get(name, 0) for number, name in category_names(document, path).items()}
    images = {image["id"]: image for image in document["images"] if _is_whole(image.get("id"))}
    marked: dict[int, list[Record]] = {number: [] for number in images}
    problems = []
    if len(images) != len(document["images"]):
        problems.append(f"{path}: expected a whole id in each image, and each once")
    for record in document["annotations"]:
        if fault := _fault(record, marked, labels):
            problems.append(f"{path}: annotation {record.get('id')}: {fault}")
        else:
            marked[record["image_id"]].append(record)
    splits = []
    for part in _parts(list(images.values())):
        split = Split(problems=problems)
        problems = []
        for image in part:
            try:
                split.images.append(_mark(image, marked[image["id"]], labels, folders))
            except InputError as error:
                split.problems.append(f"{path}: image {image['id']}: {error}")
        splits.append(split)
    return splits


def _fault(record: Record, marked: Mapping[int, object], labels: Mapping[int, int]) -> str:
    number, category, box = record.get("image_id"), record.get("category_id"), record.get("bbox")
    if not _is_whole(number) or number not in marked:
        return f"image_id {number!r} is not among the images"
    if not _is_whole(category) or not labels.get(category, 0):
        return f"category_id {category!r} is an unknown class"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"expected four numbers in bbox, got {box!r}"
    return ""


def _mark(image: Record, records: list[Record], labels: Mapping[int, int], folders: Sequence[Path]) -> Marked:
    name = image.get("file_name")
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"expected a path below the folder in file_name, got {name!r}")
    path = next((path for folder in folders if (path := folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{name} is in none of {', '.join(f'{folder}' for folder in folders)}")
    height, width = image.get("height"), image.get("width")
    stated = (height, width) if _is_side(height) and _is_side(width) else None
    return Marked(
        name=path.stem,
        path=path,
        size=stated or read_size(path),
        xyxy=from_xywh([record["bbox"] for record in records]),
        labels=[labels[record["category_id"]] for record in records],
        ignored=[bool(record.get("iscrowd")) or bool(record.get("ignore")) for record in records],
    )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_side(value: object) -> TypeGuard[int]:
    return _is_whole(value) and 0 < value < 1 << 31


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (_is_whole(value) and abs(value) < 1e300)
