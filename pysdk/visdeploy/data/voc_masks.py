"""Pascal VOC's segmentation: `SegmentationClass/` beside `JPEGImages/`, and `ImageSets/Segmentation/` for the split."""

from collections.abc import Sequence
from pathlib import Path

from visdeploy.data import folder
from visdeploy.data.colormap import VOC_LABELS, voc_colormap
from visdeploy.data.dataset import IGNORE_INDEX, Dataset, hold_out, overlap
from visdeploy.data.names import read_names
from visdeploy.data.voc import image_folder, listed_names
from visdeploy.errors import InputError
from visdeploy.image import SUFFIXES

LAYOUT = "SegmentationClass/*.png beside JPEGImages/ (Pascal VOC)"
TASKS = frozenset({"segmentation"})

# labelme once wrote arrays into the first, and pictures into the second.
_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
# Of the lists of names that labelme takes and writes.
_NO_CLASS = "__ignore__"
_BACKGROUNDS = frozenset({"_background_", "__background__"})


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return _mask_folder(root) is not None


def read(root: Path, *, masks: str | None = None, labels: Sequence[str] | None = None) -> Dataset:
    """Read images and their masks: palette pictures by index, RGB pictures by `voc_colormap`, 255 meaning no label.

    `train.txt` and `val.txt` in `ImageSets/Segmentation/` are the split. Without both, every fifth name is held out.

    Args:
        root: Holds `JPEGImages/` or `images/`, and the masks.
        masks: Name of the mask folder; default, `SegmentationClass`.
        labels: Class names by index; default, the lines of `class_names.txt` or `labels.txt` in `root`, or the 21
            classes of VOC2012.

    Raises:
        InputError: A folder is missing, or no image has a mask.
    """
    names = _names(root, labels)
    mask_folder = root / masks if masks is not None else _mask_folder(root)
    if mask_folder is None:
        raise InputError(
            f"[data] {root}: expected masks in SegmentationClass/ for segmentation of VOC; name another folder with "
            "--masks, or masks= in Python; boxes are read with --task detection"
        )
    pairs, unmatched = folder.match(image_folder(root), mask_folder)
    by_name = {pair[0]: pair for pair in pairs}
    without_mask = f"no mask in {mask_folder.name}/"
    # Most images of VOC have no mask, and are for other tasks.
    problems = [line for line in unmatched if not line.endswith(without_mask)]
    notes = []
    lists = listed_names(root, "Segmentation")
    if lists is None:
        if count := len(unmatched) - len(problems):
            notes.append(f"{image_folder(root)}: {count} images have no mask, and are left out")
        lists = [list(by_name)]
    problems += [
        f"{root}: {name} of ImageSets has no image or no mask" for part in lists for name in part if name not in by_name
    ]
    classes = {index: index for index in range(len(names))} | {IGNORE_INDEX: IGNORE_INDEX}
    parts = [
        folder.make_items([by_name[name] for name in part if name in by_name], classes, voc_colormap())
        for part in lists
    ]
    train, val = parts if len(parts) == 2 else hold_out(parts[0])
    notes += overlap(root, train, val)
    palette = tuple((int(red), int(green), int(blue)) for red, green, blue in voc_colormap()[: len(names)])
    return Dataset(names, palette, train, val, 0, tuple(problems), tuple(notes))


def _mask_folder(root: Path) -> Path | None:
    for name in _FOLDERS:
        if (path := root / name).is_dir() and any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
            return path
    return None


def _names(root: Path, labels: Sequence[str] | None) -> tuple[str, ...]:
    lists = [path for name in ("class_names.txt", "labels.txt") if (path := root / name).is_file()]
    if labels is None and lists:
        labels = read_names(lists[0])
    names = [name for name in labels or VOC_LABELS if name != _NO_CLASS]
    return tuple("background" if name in _BACKGROUNDS else name for name in names)
