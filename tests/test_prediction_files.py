import csv
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stub
from visdeploy import image, mask
from visdeploy.errors import InputError
from visdeploy.prediction_files import PredictionFiles


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three images, two of them with one stem; the last is black."""
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / name for name in ("a.png", "a.jpg", "b.png")]
    for path, level in zip(paths, (200, 255, 0), strict=True):
        pixels = np.zeros((20, 30, 3), np.uint8)
        pixels[:, :10, 0] = pixels[:, 20:, 1] = level
        image.write(path, pixels)
    return paths


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_binary_model_gives_one_row_per_image(pictures: list[Path], tmp_path: Path) -> None:
    model = stub.predictor()
    files = PredictionFiles(tmp_path / "new" / "out", model.spec)
    for result in model.stream(pictures):
        files.add(result)
    assert not (tmp_path / "new" / "out" / "coco.json").exists()
    files.close()
    heading, *lines = rows(tmp_path / "new" / "out" / "kaggle.csv")
    assert heading == ["img", "rle_mask"]
    assert [name for name, _ in lines] == ["a.png", "a.jpg", "b.png"]
    assert lines[2][1] == ""
    found = mask.decode(mask.from_kaggle(lines[0][1], (20, 30)))
    np.testing.assert_array_equal(found, model(pictures[0]).masks.to_numpy())
    document = json.loads((tmp_path / "new" / "out" / "coco.json").read_text())
    assert [entry["file_name"] for entry in document["images"]] == ["a.png", "a.jpg", "b.png"]
    assert document["images"][0] == {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    assert document["categories"] == [{"id": 1, "name": "car"}]
    assert [(entry["id"], entry["image_id"]) for entry in document["annotations"]] == [(1, 1), (2, 2)]
    assert [path.name for path in files.overlays] == ["a.png", "a-2.png", "b.png"]
    for path, source in zip(files.overlays, pictures, strict=True):
        np.testing.assert_array_equal(image.decode(path), model(source).plot().array)
    assert len(list((tmp_path / "new" / "out").iterdir())) == 5


def test_several_classes_give_a_row_per_class_found(pictures: list[Path], tmp_path: Path) -> None:
    model = stub.predictor(labels=["red", "green", "background"], resize="native")
    files = PredictionFiles(tmp_path, model.spec, overlays=False)
    for result in model.stream(pictures[:1]):
        files.add(result)
    files.close()
    heading, *lines = rows(tmp_path / "kaggle.csv")
    assert heading == ["img", "class", "rle_mask"]
    # Where nothing is lit the first class wins the tie.
    assert [(name, label) for name, label, _ in lines] == [("a.png", "red"), ("a.png", "green")]
    green = mask.decode(mask.from_kaggle(lines[1][2], (20, 30)))
    assert green[:, 20:].all()
    assert green.sum() == 200
    document = json.loads((tmp_path / "coco.json").read_text())
    assert [entry["id"] for entry in document["categories"]] == [0, 1]
    assert not (tmp_path / "a.png").exists()


def test_overlays_never_replace_the_images(pictures: list[Path]) -> None:
    before = [path.read_bytes() for path in pictures]
    model = stub.predictor()
    with pytest.raises(InputError, match=r"out: overlays in .* could replace images; choose another folder"):
        PredictionFiles(pictures[0].parent, model.spec).add(model(pictures[0]))
    assert [path.read_bytes() for path in pictures] == before
    tables = PredictionFiles(pictures[0].parent, model.spec, overlays=False).add(model(pictures[0]))
    tables.close()
    assert (pictures[0].parent / "coco.json").is_file()


def test_name_that_is_not_utf8_keeps_its_bytes(pictures: list[Path], tmp_path: Path) -> None:
    odd = os.path.join(os.fsencode(pictures[0].parent), b"caf\xe9,1.png")  # noqa: PTH118
    os.rename(pictures[0], odd)  # noqa: PTH104
    model = stub.predictor()
    files = PredictionFiles(tmp_path / "out", model.spec).add(model(os.fsdecode(odd)))
    files.close()
    assert b'"caf\xe9,1.png",' in (tmp_path / "out" / "kaggle.csv").read_bytes()
    assert os.fsencode(json.loads((tmp_path / "out" / "coco.json").read_text())["images"][0]["file_name"]) in odd


@pytest.mark.parametrize("target", ["file", "file/out"])
def test_unwritable_folder_is_refused_at_once(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="out: cannot write"):
        PredictionFiles(tmp_path / target, stub.predictor().spec)


def test_results_are_not_kept(tmp_path: Path) -> None:
    model = stub.predictor(resize="native")
    striped = np.zeros((400, 400, 3), np.uint8)
    striped[::2, ::2, 0] = 255  # 40,000 runs, of which each table takes 100 kB and more
    result = model(striped)
    files = PredictionFiles(tmp_path, model.spec, overlays=False).add(result)
    tracemalloc.start()
    try:
        for _ in range(10):
            files.add(result)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 1e5
    files.close()
    document = json.loads((tmp_path / "coco.json").read_text())
    assert [entry["id"] for entry in document["annotations"]] == list(range(1, 12))
    assert (tmp_path / "kaggle.csv").stat().st_size > 1e6


def test_full_disk_leaves_no_half_written_table(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stub.predictor()
    files = PredictionFiles(tmp_path / "out", model.spec, overlays=False).add(model(pictures[0]))

    def full(source: Any, target: Any) -> None:
        target.write(source.read(3))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(InputError, match=r"cannot write .*coco\.json \(No space left on device\)"):
        files.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_failed_item_is_not_recorded(tmp_path: Path) -> None:
    model = stub.predictor()
    files = PredictionFiles(tmp_path, model.spec)
    with pytest.raises(InputError, match="cannot be read"):
        files.add(next(model.stream(["missing.png"])))
    files.close()
    assert json.loads((tmp_path / "coco.json").read_text())["images"] == []
