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


class PredictionFiles:
    """Takes results one by one; the two tables appear whole when `close` is called, or not at all.

    Attributes:
        overlays: Pictures written so far.
    """

    def __init__(self, folder: str | Path, spec: Spec, *, overlays: bool = True) -> None:
        self.folder, self.spec, self._draw = Path(folder), spec, overlays
        self.overlays: list[Path] = []
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
        """Record one answer and draw its overlay."""
        image_id = result.index + 1
        name = Path(result.source).name
        height, width = result.size
        self._images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in result.to_coco(image_id):
            self._annotations.append({"id": len(self._annotations) + 1, **annotation})
        if len(self.spec.labels) == 2:
            self._rows.append([name, result.to_kaggle()])
        else:
            assert result.masks is not None
            self._rows += [[name, self.spec.labels[i], result.to_kaggle(int(i))] for i in result.masks.labels]
        if self._draw:
            target = self.folder / f"{Path(name).stem}.png"
            if target in self.overlays:
                target = self.folder / f"{Path(name).stem}-{image_id}.png"
            result.plot().save(target)
            self.overlays.append(target)
        return self

    def close(self) -> None:
        """Write `coco.json` and `kaggle.csv`."""
        categories = [{"id": i, "name": label} for i, label in enumerate(self.spec.labels) if i != self.spec.background]
        document = {"images": self._images, "annotations": self._annotations, "categories": categories}
        self._write("coco.json", json.dumps(document))
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["img", "rle_mask"] if len(self.spec.labels) == 2 else ["img", "class", "rle_mask"])
        writer.writerows(self._rows)
        self._write("kaggle.csv", table.getvalue())

    def _write(self, name: str, text: str) -> None:
        partial = self.folder / f".{name}.{secrets.token_hex(4)}"
        try:
            partial.write_text(text)
            partial.replace(self.folder / name)
        except OSError as error:
            raise InputError(f"[predict] out: cannot write {self.folder / name} ({error.strerror})") from error
        finally:
            partial.unlink(missing_ok=True)
