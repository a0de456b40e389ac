"""The files that `visdeploy predict` leaves: overlays, one COCO JSON, one Kaggle CSV."""

import csv
import io
import json
import secrets
from pathlib import Path
from typing import Any, Self

from visdeploy.errors import InputError
from visdeploy.spec import Spec
from visdeploy.types import Result
from visdeploy.whole_file import whole_file


class PredictionFiles:
    """Takes results one by one; the two tables appear whole when `close` is called, or not at all.

    Attributes:
        overlays: Pictures written so far.
    """

    def __init__(self, folder: str | Path, spec: Spec, *, overlays: bool = True) -> None:
        self.folder, self._draw = Path(folder), overlays
        self.overlays: list[Path] = []
        self._classes = {i: label for i, label in enumerate(spec.labels) if i != spec.background}
        self._names: set[str] = set()
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._rows: list[list[str]] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (probe := self.folder / f".{secrets.token_hex(4)}").touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"[predict] out: cannot write to {self.folder} ({error.strerror})") from error

    def add(self, result: Result) -> Self:
        """Record one answer and draw its overlay.

        Raises:
            InputError: The overlay cannot be written, or would lie among the images themselves.
            VisdeployError: The result is a failed one; nothing is recorded.
        """
        image_id = result.index + 1
        source = Path(result.source)
        name = source.name
        height, width = result.size
        annotations = result.to_coco(image_id)
        self._images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in annotations:
            self._annotations.append({"id": len(self._annotations) + 1, **annotation})
        if self._single:
            self._rows.append([name, result.to_kaggle()])
        else:
            assert result.masks is not None
            self._rows += [[name, self._classes[i], result.to_kaggle(i)] for i in result.masks.labels.tolist()]
        if self._draw:
            if source.is_file() and source.parent.samefile(self.folder):
                raise InputError(
                    f"[predict] out: overlays in {self.folder} could replace images; choose another folder"
                )
            file = f"{source.stem}.png"
            if file in self._names:
                file = f"{source.stem}-{image_id}.png"
            result.plot().save(self.folder / file)
            self._names.add(file)
            self.overlays.append(self.folder / file)
        return self

    def close(self) -> None:
        """Write `coco.json` and `kaggle.csv`."""
        categories = [{"id": index, "name": label} for index, label in self._classes.items()]
        document = {"images": self._images, "annotations": self._annotations, "categories": categories}
        self._write("coco.json", json.dumps(document))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["img", "rle_mask"] if self._single else ["img", "class", "rle_mask"])
        writer.writerows(self._rows)
        self._write("kaggle.csv", table.getvalue())

    @property
    def _single(self) -> bool:
        return len(self._classes) == 1

    def _write(self, name: str, text: str) -> None:
        try:
            with whole_file(self.folder / name) as partial:
                # A file name need not be valid UTF-8; its bytes come out as they went in.
                partial.write_bytes(text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise InputError(f"[predict] out: cannot write {self.folder / name} ({error.strerror})") from error
