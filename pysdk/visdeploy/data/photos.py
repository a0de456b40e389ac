"""Photographs to restore: made worse by `degrade.Degrade`, or pairs of a bad and a clean picture."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from zlib import crc32

from visdeploy.data.dataset import Dataset, Image, Item, hold_out
from visdeploy.data.degrade import Degrade
from visdeploy.data.marked import read_size
from visdeploy.errors import InputError
from visdeploy.image import SUFFIXES, decode

LAYOUT = "photographs in any folders below it, either directly or inside train/ and val/"
TASKS = frozenset({"restoration"})

_IMAGES = ("images", "JPEGImages")
_HOW = (
    "say what makes bad pictures of these (--degrade scale=2, or degrade=Degrade(scale=2) in Python), "
    "or name the folder of clean pictures beside images/ (--clean FOLDER, or clean= in Python)"
)


def matches(root: Path) -> bool:
    """Whether `root` looks like this format."""
    return any(_image_files(root))


def read(root: Path, *, degrade: Degrade | None = None, clean: str | None = None, images: str | None = None) -> Dataset:
    """Read photographs and what makes bad ones of them, or pairs of bad and clean pictures of the same names.

    The split is `train/` and `val/` (or the only folders whose names begin so, such as `train2017/`), in `root` or in
    its folder of images; else every fifth name is held out. Of two photographs of one name in a folder, the second is
    left out, and a note says so.

    Args:
        root: Holds photographs, in folders as deep as you like. Where it has a folder `images/` or `JPEGImages/`, only
            what is in there counts.
        degrade: Makes the bad picture of each photograph, drawn by its name: the same in every run.
        clean: The folder of clean pictures, beside that of the bad ones: in `root`, or in its `train/` and `val/`. All
            clean pictures have the size of their bad ones, or the same whole multiple of it.
        images: The folder of the photographs, or of the bad ones; default, `images` or `JPEGImages`.

    Raises:
        InputError: There are no photographs, not one pair, or neither or both of `degrade` and `clean` are given.
    """
    if (degrade is None) == (clean is None):
        got = "neither" if clean is None else "both"
        raise InputError(f"[data] {root}: to restore pictures, either {_HOW}; got {got}")
    notes: list[str] = []
    problems: list[str] = []
    if degrade is not None:
        folders = split_folders(_inside(root, images))
        parts = [_degraded(_photos(_inside(folder), notes), degrade) for folder in folders]
    else:
        parts = _paired(_pair_folders(root, images, str(clean)), problems, notes)
    train, val = parts if len(parts) == 2 else hold_out(parts[0])
    return Dataset((), (), train, val, problems=tuple(problems), notes=tuple(notes), degrade=degrade)


def split_folders(folder: Path) -> list[Path]:
    """Return the folders to train on and held out, by how their names begin; or the folder itself."""
    below = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = []
    for word in ("train", "val"):
        named = [path for path in below if path.name == word] or [path for path in below if path.name.startswith(word)]
        if len(named) != 1:
            return [folder]
        found += named
    return found


def _degraded(photos: dict[str, Path], degrade: Degrade) -> list[Item]:
    return [
        Item(
            name,
            partial(_worse, path, degrade, crc32(name.encode())),
            image_path=path,
            load_target=partial(_whole_squares, path, degrade.scale),
            enlarge=degrade.scale,
        )
        for name, path in photos.items()
    ]


def _worse(path: Path, degrade: Degrade, seed: int) -> Image:
    try:
        return degrade(decode(path), seed)
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error


def _whole_squares(path: Path, scale: int) -> Image:
    """The part of a photograph that a smaller one is made of."""
    photo = decode(path)
    height, width = (side // scale * scale for side in photo.shape[:2])
    return photo[:height, :width]


def _pair_folders(root: Path, images: str | None, clean: str) -> list[tuple[Path, Path]]:
    """The folders of bad and of clean pictures: one pair, or one to train on and one held out."""
    parts = [(_inside(part, images), part / clean) for part in split_folders(root)]
    if len(parts) == 1 or not all(good.is_dir() for _, good in parts):
        bad = _inside(root, images)
        parts = [(part, root / clean / part.relative_to(bad)) for part in split_folders(bad)]
    for bad, good in parts:
        if not good.is_dir():
            raise InputError(f"[data] {good}: no such folder of clean pictures (--clean, or clean= in Python)")
        if bad in (good.parent, good):
            raise InputError(
                f"[data] {bad}: expected the bad pictures in images/ beside {good.name}/, or named by images="
            )
    return parts


def _paired(folders: Iterable[tuple[Path, Path]], problems: list[str], notes: list[str]) -> list[list[Item]]:
    parts = []
    for bad_folder, good_folder in folders:
        bad, good = _photos(bad_folder, notes), _photos(good_folder, notes)
        problems += [f"{path}: no clean picture in {good_folder}" for name, path in bad.items() if name not in good]
        problems += [f"{path}: no bad picture in {bad_folder}" for name, path in good.items() if name not in bad]
        parts.append([(name, path, good[name]) for name, path in bad.items() if name in good])
        if not parts[-1]:
            raise InputError(f"[data] {bad_folder}: none of its {len(bad)} pictures has its name in {good_folder}")
    enlarge = _enlargement([pair for pairs in parts for pair in pairs])
    return [
        [
            Item(name, partial(decode, bad), None, bad, load_target=partial(decode, good), enlarge=enlarge)
            for name, bad, good in pairs
        ]
        for pairs in parts
    ]


def _enlargement(pairs: list[tuple[str, Path, Path]]) -> int:
    """How many times larger clean pictures are, by most pairs; `check` names the others."""
    found: Counter[int] = Counter()
    for _, bad, good in pairs:
        try:
            (height, width), target = read_size(bad), read_size(good)
        except InputError:
            continue  # `check` names it, too
        times = target[0] // height
        found[times if times and target == (height * times, width * times) else 0] += 1
    if set(found) == {0}:
        raise InputError(
            f"[data] {pairs[0][2]}: expected clean pictures of the size of the bad ones, or a whole multiple of it; "
            f"not one of {len(pairs)} pairs is so"
        )
    del found[0]
    return max(found, key=lambda times: found[times], default=1)


def _inside(folder: Path, images: str | None = None) -> Path:
    """The folder of the images in another, or that one itself."""
    if images is not None:
        return folder / images
    return next((path for name in _IMAGES if (path := folder / name).is_dir()), folder)


def _photos(folder: Path, notes: list[str]) -> dict[str, Path]:
    """Image files by name, which is the path below the folder without its extension."""
    found: dict[str, Path] = {}
    for path in sorted(_image_files(folder)):
        first = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if first is not path:
            notes.append(f"{path} is left out: {first.name} already has this name")
    if not found:
        what = "no images in it" if folder.is_dir() else "no such folder"
        raise InputError(f"[data] {folder}: {what} ({', '.join(sorted(SUFFIXES))})")
    return found


def _image_files(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path
