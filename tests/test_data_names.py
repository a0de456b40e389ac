"""Names of classes and lists of names, whatever the format: which are refused, and what editors put before them."""

import json

import numpy as np
import pytest
from PIL import Image

from visdeploy import data
from visdeploy.errors import InputError

MARK = b"\xef\xbb\xbf"
STEMS = "abcdef"


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_images(folder, names=STEMS):
    for name in names:
        save(folder / f"{name}.png", np.full((8, 8, 3), 90, np.uint8))


def save_masks(folder, values=(0, 1, 2)):
    for name in STEMS:
        save(folder / f"{name}.png", np.resize(np.array(values, np.uint8), (8, 8)))


def save_text(root, texts):
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def folder(root, names="background\ncell\nnucleus\n"):
    save_images(root / "images")
    save_masks(root / "masks")
    save_text(root, {"labels.txt": names})


def voc_masks(root, names="background\ncell\nnucleus\n"):
    save_images(root / "JPEGImages")
    save_masks(root / "SegmentationClass")
    lists = {f"ImageSets/Segmentation/{part}.txt": stems for part, stems in (("train", "a\nb\nc"), ("val", "d\ne"))}
    save_text(root, {"class_names.txt": names} | lists)


def camvid(root, names="cell\nnucleus\nvoid"):
    for part in ("train", "val"):
        save_images(root / part)
        save_masks(root / f"{part}annot")
    rows = [f"{number},{name},0,0,0,0" for number, name in enumerate(names.splitlines())]
    save_text(root, {"classes.csv": "\n".join(["id,name,r,g,b,ignore", *rows])})


def carvana(root):
    save_images(root / "train")
    rows = [f"{name}.png,1 9" for name in STEMS]
    save_text(root, {"train_masks.csv": "\n".join(["img,rle_mask", *rows])})


def voc_boxes(root, names="cat\ndog\n"):
    save_images(root / "JPEGImages")
    found = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    save_text(root, {f"Annotations/{name}.xml": f"<annotation>{found}</annotation>" for name in STEMS})
    lists = {f"ImageSets/Main/{part}.txt": stems for part, stems in (("train", "a\nb\nc"), ("val", "d\ne"))}
    save_text(root, {"labels.txt": names} | lists)


def coco_boxes(root, names="cat\ndog"):
    save_images(root / "images")
    box = {"category_id": 0, "bbox": [1, 1, 5, 5]}
    document = {
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(STEMS)],
        "annotations": [{"id": number, "image_id": number, **box} for number in range(len(STEMS))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names.split("\n"))],
    }
    save_text(root, {"boxes.json": json.dumps(document)})


def yolo(root, names="cat\ndog\n"):
    save_images(root / "images")
    save_text(root, {f"labels/{name}.txt": "0 0.5 0.5 0.5 0.5\n" for name in STEMS})
    save_text(root, {"classes.txt": names})


def yolo_yaml(root):
    yolo(root)
    save_text(root, {"data.yaml": "names: [cat, dog]\ntrain: images\nval: images\n"})


def boxes_csv(root, names="cat\ndog\n"):
    save_images(root / "images")
    rows = [f"{name}.png,1 1 5 5,cat" for name in STEMS]
    save_text(root, {"table.csv": "\n".join(["fn,bbox,cat", *rows]), "labels.txt": names})


NAMED = (folder, voc_masks, camvid, voc_boxes, coco_boxes, yolo, boxes_csv)


@pytest.mark.parametrize("make", [*NAMED, carvana, yolo_yaml])
def test_a_mark_at_the_beginning_of_a_text_is_no_part_of_it(tmp_path, make):
    make(tmp_path)
    options = {"size": (8, 8)} if make is carvana else {}
    before = data.open(tmp_path, **options)
    texts = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"]
    for path in texts:
        path.write_bytes(MARK + path.read_bytes())
    after = data.open(tmp_path, **options)
    assert data.check(after) == data.check(before) == []
    assert (after.labels, len(after.train), len(after.val)) == (before.labels, len(before.train), len(before.val))


@pytest.mark.parametrize("make", NAMED)
@pytest.mark.parametrize(
    ("names", "said"),
    [("cat\nb\ncat", "each (class|id).* once"), ("cat\na\tb\nc", r"printable names of classes, got 'a\\tb'")],
)
def test_names_that_no_bundle_can_have_are_refused(tmp_path, make, names, said):
    make(tmp_path, names)
    with pytest.raises(InputError, match=said):
        data.open(tmp_path)


@pytest.mark.parametrize("make", [folder, voc_masks, voc_boxes, coco_boxes, yolo, boxes_csv])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["cat", "cat"], "expected each class once, got 'cat' 2 times"),
        (["cat", ""], "expected printable names of classes, got ''"),
        ([], "labels: expected the names of the classes, got none"),
        ([1], r"labels: expected Sequence\[str\] \| None, got \[1\]"),
        ("ab", r"labels: expected Sequence\[str\] \| None, got 'ab'"),
        (5, r"labels: expected Sequence\[str\] \| None, got 5"),
    ],
)
def test_labels_that_no_bundle_can_have_are_refused(tmp_path, make, labels, said):
    make(tmp_path)
    with pytest.raises(InputError, match=said):
        data.open(tmp_path, labels=labels)


@pytest.mark.parametrize("make", [folder, voc_masks, voc_boxes, yolo, boxes_csv])
@pytest.mark.parametrize(
    ("names", "said"), [("", "an empty file"), ("cat\n\nb\n", "printable names of classes, got ''")]
)
def test_a_list_of_names_has_no_gap(tmp_path, make, names, said):
    make(tmp_path, names)
    with pytest.raises(InputError, match=said):
        data.open(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": None}, r"path: expected str \| PathLike\[str\], got None"),
        ({"format": None}, "format: expected text, got None"),
        ({"task": 3}, "task: expected text, got 3"),
        ({"masks": 5}, "masks: expected text, got 5"),
        ({"path": "a" * 5000}, "cannot be read: .*too long"),
        ({"path": "a" * 5000 + ".json"}, "cannot be read: .*too long"),
    ],
)
def test_arguments_of_another_kind_are_refused(tmp_path, options, said):
    voc_masks(tmp_path)
    with pytest.raises(InputError, match=rf"\[data.open\] {said}" if "long" not in said else said):
        data.open(**{"path": tmp_path, **options})


def test_the_name_of_a_folder_may_be_a_path(tmp_path):
    voc_masks(tmp_path)
    masks = (tmp_path / "SegmentationClass").relative_to(tmp_path)
    assert len(data.open(tmp_path, masks=masks).train) == 3


@pytest.mark.parametrize(
    ("part", "counts"), [("train", "0 images to train on and 2"), ("val", "3 images to train on and 0")]
)
@pytest.mark.parametrize(("make", "purpose"), [(voc_masks, "Segmentation"), (voc_boxes, "Main")])
def test_check_says_that_a_part_is_empty(tmp_path, make, purpose, part, counts):
    make(tmp_path)
    (tmp_path / "ImageSets" / purpose / f"{part}.txt").write_text("")
    assert data.check(data.open(tmp_path)) == [f"expected some of each, got {counts} held out"]


def test_check_says_that_there_is_nothing_to_tell_apart_or_to_find(tmp_path):
    folder(tmp_path / "one", "cell\n")
    for name in STEMS:
        save(tmp_path / "one" / "masks" / f"{name}.png", np.zeros((8, 8), np.uint8))
    assert data.check(data.open(tmp_path / "one")) == ["expected at least 2 classes, with the background, got cell"]
    yolo(tmp_path / "none")
    for path in (tmp_path / "none" / "labels").iterdir():
        path.write_text("")
    assert data.check(data.open(tmp_path / "none")) == ["expected objects to learn from, got none in 4 images"]
    boxes_csv(tmp_path / "any", "cat\n")
    assert data.check(data.open(tmp_path / "any", task="localization")) == []
