"""The files that `visdeploy predict` leaves: overlays, one CSV, and one COCO JSON unless the model is a classifier.

Of a restorer it leaves the restored pictures, and in the place of overlays, if asked for, each beside its image.
An image goes by its file name in all of them; a second one of that name, from another folder, gets its number as well.
"""

import csv
import io
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from visdeploy import image
from visdeploy.errors import InputError
from visdeploy.spec import Spec
from visdeploy.types import Result
from visdeploy.whole_file import whole_file

_TABLES: Final[dict[str, tuple[str, ...]]] = {
    "segmentation": ("coco.json", "kaggle.csv"),
    "detection": ("coco.json", "boxes.csv"),
    "localization": ("coco.json", "boxes.csv"),
    "classification": ("classes.csv",),
    "restoration": (),
}


class PredictionFiles:
    """Takes results one by one, and keeps none; the tables appear whole when `close` is called, or not at all.

    Args:
        folder: Where they are to be.
        spec: The bundle's.
        overlays: Whether `Result.plot` is written for each image; default, unless the model is a restorer.
        instances: Whether coco.json has one annotation per connected part of a mask.
        probabilities: Whether the probability of a binary model's foreground is written as NAME-probability.png, in 256
            levels of gray.

    Raises:
        InputError: The folder cannot be made, or the model has no such masks.

    Attributes:
        found: Annotations so far.
        overlays: Drawn pictures written so far.
        pictures: What kinds of pictures there are, in words.
        tables: Names of the files that `close` writes.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: Spec,
        *,
        overlays: bool | None = None,
        instances: bool = False,
        probabilities: bool = False,
    ) -> None:
        if instances and spec.task != "segmentation":
            raise InputError(f"[predict] instances: only masks have parts; this model's task is {spec.task}")
        if probabilities and not spec.binary:
            segments = spec.task == "segmentation"
            instead = "masks.probability() has every class" if segments else f"this model's task is {spec.task}"
            raise InputError(f"[predict] probabilities: only a binary model's are written; {instead}")
        self._instances, self._probabilities = instances, probabilities
        self.folder = Path(folder)
        self._restores = spec.task == "restoration"
        self._draw = not self._restores if overlays is None else overlays
        drawn = "before and after" if self._restores else "overlays"
        kinds = {"restored pictures": self._restores, drawn: self._draw, "probabilities": probabilities}
        self.pictures = tuple(kind for kind, written in kinds.items() if written)
        self.overlays: list[Path] = []
        self._classes = {i: label for i, label in enumerate(spec.labels) if i != spec.background}
        self._names: set[str] = set()
        self._picture_names: set[str] = set()
        self.found = 0
        self._task = spec.task
        self.tables = _TABLES[spec.task]
        with self._writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._images, self._annotations, self._rows = (self._nameless() for _ in range(3))
            self._rows.write(_line(self._heading()) if self.tables else b"")

    def add(self, result: Result) -> Self:
        """Record one answer, write its restored picture, and draw its overlay.

        Raises:
            InputError: A picture cannot be written, or would lie among the images themselves.
            VisdeployError: The result is a failed one; nothing is recorded.
        """
        image_id = result.index + 1
        source = Path(result.source)
        name = _unlike(source.name, self._names, image_id)
        height, width = result.size
        rows = [[name, *row] for row in self._rows_of(result)]
        annotations = result.to_coco(image_id, instances=self._instances) if "coco.json" in self.tables else []
        self._names.add(name)
        with self._writing(self.folder):
            _append(self._images, {"id": image_id, "file_name": name, "height": height, "width": width})
            for annotation in annotations:
                self.found += 1
                _append(self._annotations, {"id": self.found, **annotation})
            self._rows.writelines(_line(row) for row in rows)
        if self.pictures and source.is_file() and source.parent.samefile(self.folder):
            kinds = " and ".join(self.pictures)
            raise InputError(f"[predict] out: {kinds} in {self.folder} could replace images; choose another folder")
        if result.restored is not None:
            self._save(result.restored.array, Path(name).stem, image_id)
        if self._probabilities:
            assert result.masks is not None
            # What is no number is no foreground.
            levels = np.rint(255 * np.nan_to_num(result.masks.probability())).astype(np.uint8)
            self._save(levels, f"{Path(name).stem}-probability", image_id)
        if self._draw:
            stem = f"{Path(name).stem}{'-before-after' if self._restores else ''}"
            self.overlays.append(self._save(result.plot().array, stem, image_id))
        return self

    def close(self) -> None:
        """Write the tables."""
        if "coco.json" in self.tables:
            categories = json.dumps([{"id": index, "name": label} for index, label in self._classes.items()])
            self._write(
                "coco.json",
                '{"images": [',
                self._images,
                '], "annotations": [',
                self._annotations,
                f'], "categories": {categories}}}',
            )
        for name in self.tables:
            if name.endswith(".csv"):
                self._write(name, self._rows)

    def _save(self, pixels: NDArray[np.uint8], stem: str, image_id: int) -> Path:
        file = _unlike(f"{stem}.png", self._picture_names, image_id)
        image.write(self.folder / file, pixels)
        self._picture_names.add(file)
        return self.folder / file

    @property
    def _single(self) -> bool:
        return len(self._classes) == 1

    def _heading(self) -> list[str]:
        if self._task == "segmentation":
            return ["img", "rle_mask"] if self._single else ["img", "class", "rle_mask"]
        corners = ["x1", "y1", "x2", "y2"] if "coco.json" in self.tables else []
        return ["file", "label", "score", *corners]

    def _rows_of(self, result: Result) -> list[list[object]]:
        """Return what follows the image's name in each row that it gets; raises the error of a failed result."""
        if result.error is not None:
            raise result.error
        if result.boxes is not None:
            return [[name, score, *xyxy] for _, name, score, xyxy in result.boxes.rows()]
        if result.classes is not None:
            return [[result.classes.name, result.classes.score]]
        if result.restored is not None:
            return []
        if self._single:
            return [[result.to_kaggle()]]
        assert result.masks is not None
        return [[self._classes[i], result.to_kaggle(i)] for i in result.masks.labels.tolist()]

    def _nameless(self) -> IO[bytes]:
        """Open a file for what would fill the memory by and by; it is gone with this object."""
        file = tempfile.TemporaryFile(dir=self.folder)
        weakref.finalize(self, file.close)
        return file

    def _write(self, name: str, *parts: str | IO[bytes]) -> None:
        with self._writing(self.folder / name), whole_file(self.folder / name) as partial, partial.open("wb") as file:
            for part in parts:
                if isinstance(part, str):
                    file.write(part.encode())
                    continue
                part.seek(0)
                shutil.copyfileobj(part, file)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"[predict] out: cannot write {path} ({error.strerror})") from error


def _unlike(name: str, taken: set[str], image_id: int) -> str:
    """Return a file name, with the image's number where another image of that name came before."""
    while name in taken:
        path = Path(name)
        name = f"{path.stem}-{image_id}{path.suffix}"
    return name


def _append(file: IO[bytes], entry: dict[str, Any]) -> None:
    file.write(((", " if file.tell() else "") + json.dumps(entry)).encode())


def _line(row: Sequence[object]) -> bytes:
    csv.writer(text := io.StringIO(), lineterminator="\n").writerow(row)
    # A file name need not be valid UTF-8; its bytes come out as they went in.
    return text.getvalue().encode("utf-8", "surrogateescape")
