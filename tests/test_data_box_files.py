"""Readers of boxes from COCO JSON, YOLO text and CSV: what they find, and what they say of faulty files."""

import json

import numpy as np
import pytest
from PIL import Image

from visdeploy import data
from visdeploy.errors import InputError

SIZE = (40, 60)


def save_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", SIZE[::-1], (90, 80, 70)).save(folder / f"{name}.png")


def found(dataset):
    """Name -> [(class name, corners)]."""
    items = (*dataset.train, *dataset.val)
    marked = {item.name: item.load().objects for item in items}
    return {
        name: [(dataset.labels[label], box) for label, box in zip(one.labels, one.xyxy.tolist(), strict=True)]
        for name, one in marked.items()
    }


def part_names(dataset):
    return [[item.name for item in part] for part in (dataset.train, dataset.val)]


# COCO

BOX = {"image_id": 1, "category_id": 90, "bbox": [5, 6, 10.5, 20], "iscrowd": 0}


def coco(names="ab", annotations=(BOX,), **fields):
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names, 1)]
    categories = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 0, "name": "_background_"}]
    return {"images": images, "annotations": list(annotations), "categories": categories} | fields


def save_coco(root, document, *, name="boxes.json", images="images"):
    if isinstance(document, dict) and images:
        save_images(root / images, [record["file_name"].removesuffix(".png") for record in document["images"]])
    root.mkdir(exist_ok=True)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(document if isinstance(document, str) else json.dumps(document))


def test_coco_boxes_categories_and_what_is_ignored(tmp_path):
    crowd = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 60, 40], "iscrowd": 1}
    of_the_course = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "ignore": 1}
    save_coco(tmp_path, coco(annotations=[BOX, crowd, of_the_course]))
    dataset = data.open(tmp_path, task="detection")
    assert dataset.labels == ("background", "cat", "dog")
    assert found(dataset) == {
        "a": [("dog", [5, 6, 15.5, 26]), ("cat", [0, 0, 60, 40]), ("cat", [1, 2, 4, 6])],
        "b": [],
    }
    assert dataset.val[0].load_objects().ignored.tolist() == [False, True, True]
    reordered = data.open(tmp_path, task="detection", labels=["dog", "cat"])
    assert reordered.labels == ("background", "dog", "cat")
    assert found(reordered)["a"] == found(dataset)["a"]
    assert data.check(dataset) == ["expected objects to learn from, got none in 1 images"]


def test_two_coco_files_or_the_word_split_divide_the_images(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    for part, names in (("train2017", "ab"), ("val2017", "b")):
        save_coco(two, coco(names), name=f"annotations/instances_{part}.json", images=f"images/{part}")
    assert part_names(data.open(two, task="detection")) == [["a", "b"], ["b"]]
    assert data.open(two, task="detection").val[0].image_path.parent.name == "val2017"
    document = coco("abc")
    for image, part in zip(document["images"], ("train", "train", "val"), strict=True):
        image["split"] = part
        save_images(one / part, [image["file_name"].removesuffix(".png")])
    save_coco(one, document, images=None)
    assert part_names(data.open(one, task="detection")) == [["a", "b"], ["c"]]


def test_every_faulty_coco_record_is_named(tmp_path):
    faulty = {
        "image_id 8 is not among the images": BOX | {"image_id": 8},
        "image_id [1] is not": BOX | {"image_id": [1]},
        "category_id 3 is an unknown class": BOX | {"category_id": 3},
        "category_id 0 is an unknown class": BOX | {"category_id": 0},
        "category_id {} is an": BOX | {"category_id": {}},
        "expected four numbers in bbox, got None": {"image_id": 1, "category_id": 7},
        "expected four numbers in bbox, got [1, 2, 3]": BOX | {"bbox": [1, 2, 3]},
        "expected four numbers in bbox, got [1, 2, 3, '4']": BOX | {"bbox": [1, 2, 3, "4"]},
        "expected four numbers in bbox, got [1, 2, True, 4]": BOX | {"bbox": [1, 2, True, 4]},
    }
    document = coco("abcd", faulty.values())
    save_coco(tmp_path, document)
    (tmp_path / "images" / "b.png").unlink()
    document["images"][2]["width"], document["images"][2]["height"] = 61, 40
    document["images"].append({"id": 5, "file_name": "../../a.png"})
    document["images"].append({"id": 6, "file_name": "d.png"})
    document["images"].append({"id": "7", "file_name": "d.png"})
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    faults = data.check(data.open(tmp_path, task="detection"))
    expected = [
        *faulty,
        "image 2: b.png is in none of",
        "image 5: expected a path below the folder in file_name, got '../../a.png'",
        "d.png already has this name",
        "expected a whole id in each image, and each once",
        "c: the image is 60x40, but its annotation says 61x40",
    ]
    for reason in expected:
        assert any(reason in fault for fault in faults), (reason, faults)
    assert len(faults) == len(expected)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"images": [], "annotations": [{"bbox": 1}], "categories"', "not valid JSON: "),
        ('["images", "annotations", "bbox", "categories"]', "expected COCO's object .* got a list"),
        (coco(annotations=["bbox"]), "expected a list of objects in 'annotations'"),
        (coco(categories=[{"id": "1", "name": "a"}]), "expected a whole id and a name in each category"),
        (coco(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "each id and each name of a category once"),
        (coco("", categories=[]), "no image with boxes could be read"),
        ('["images", "annotations", "bbox", "categories", ' + "[" * 100_000, "not valid JSON: "),
    ],
)
def test_a_coco_file_of_another_shape_gets_one_sentence(tmp_path, document, message):
    save_coco(tmp_path, document)
    with pytest.raises(InputError, match=message) as raised:
        data.open(tmp_path, task="detection")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("task", ["detection", None])
@pytest.mark.parametrize(
    ("document", "message"),
    [
        (json.dumps(coco())[:90], "instances.json: not valid JSON: .* line 1 column"),
        ("", "instances.json: not valid JSON: the file is empty"),
        ("[]", "instances.json: expected COCO's object .* got a list"),
        (json.dumps({"images": [], "annotations": [BOX]}), "instances.json: no 'categories' in it"),
        (
            json.dumps(coco() | {"annotations": {}}),
            "instances.json: expected a list of objects in 'annotations', got {}",
        ),
        (json.dumps(coco(annotations=[])), "instances.json: no box"),
    ],
)
def test_a_json_that_cannot_be_told_by_its_words_is_named(tmp_path, document, message, task):
    save_images(tmp_path / "images", "ab")
    save_coco(tmp_path, document, name="annotations/instances.json")
    with pytest.raises(InputError, match=message):
        data.open(tmp_path, task=task)


def test_masks_do_not_hide_a_broken_json_and_bare_images_have_no_labels(tmp_path):
    save_images(tmp_path / "images", "ab")
    with pytest.raises(InputError, match=r"has none of the known layouts: .*COCO"):
        data.open(tmp_path, task="detection")
    save_images(tmp_path / "masks", "ab")
    with pytest.raises(InputError, match=r"no labels for detection, only for segmentation \(folder\)"):
        data.open(tmp_path, task="detection")
    save_coco(tmp_path, "{", name="annotations/instances.json")
    with pytest.raises(InputError, match=r"instances.json: not valid JSON"):
        data.open(tmp_path, task="detection")


def test_half_a_split_is_not_taken_for_all(tmp_path):
    save_coco(tmp_path, coco(), name="annotations/instances_val.json")
    (tmp_path / "annotations" / "instances_train.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"instances_train.json: not valid JSON"):
        data.open(tmp_path, task="detection")


def test_images_in_folders_are_not_for_segmentation(tmp_path):
    save_coco(tmp_path, coco(), images="images/train")
    with pytest.raises(InputError, match=r"no labels for segmentation, only for .* \(coco\)"):
        data.open(tmp_path, task="segmentation")
    (tmp_path / "boxes.json").unlink()
    with pytest.raises(InputError, match=r"images: expected images directly in it, found folders \(train\)"):
        data.open(tmp_path, task="segmentation")


def test_several_coco_files_have_to_be_named(tmp_path):
    save_coco(tmp_path, coco())
    save_coco(tmp_path, coco("a"), name="more.json")
    with pytest.raises(InputError, match=r"found boxes.json, more.json; name it with json="):
        data.open(tmp_path, task="detection")
    assert len(found(data.open(tmp_path, task="detection", json="more.json"))) == 1
    assert len(found(data.open(tmp_path / "more.json", task="detection"))) == 1
    save_coco(tmp_path, coco("b"), name="annotations/third.json")
    assert list(found(data.open(tmp_path / "annotations" / "third.json"))) == ["b"]
    with pytest.raises(InputError, match="cannot be read"):
        data.open(tmp_path, task="detection", format="coco", json="absent.json")


# YOLO


def save_yolo(root, texts, *, part="", names="cat\ndog\n", yaml=None):
    save_images(root / "images" / part, texts)
    (root / "labels" / part).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if text is not None:
            (root / "labels" / part / f"{name}.txt").write_text(text)
    if names:
        (root / "labels" / "classes.txt").write_text(names)
    if yaml:
        (root / "data.yaml").write_text(yaml)


def test_yolo_boxes_polygons_and_images_without_objects(tmp_path):
    texts = {"a": "1 0.5 0.5 0.5 0.25\n\n0 0.25 0.25 0.1 0.1 0.5 0.75", "b": "", "c": None}
    save_yolo(tmp_path, texts)
    dataset = data.open(tmp_path, task="detection")
    assert dataset.labels == ("background", "cat", "dog")
    marked = found(dataset)
    assert marked == {"a": [("dog", [15, 15, 45, 25]), ("cat", [6, 4, 30, 30])], "b": [], "c": []}
    (note,) = dataset.notes
    assert "1 images have no text file" in note
    assert data.check(dataset) == ["expected objects to learn from, got none in 2 images"]


@pytest.mark.parametrize("names", ["{3: cat, 8: dog}", "[N/A, N/A, N/A, cat, 4, 5, 6, 7, dog]"])
def test_a_yaml_names_classes_and_folders(tmp_path, names):
    yaml = f"path: /elsewhere\ntrain: images/train\nval: [images/val]\nnames: {names}\n"
    save_yolo(tmp_path, {"a": "8 0.5 0.5 1 1"}, part="train", names=None, yaml=yaml)
    save_yolo(tmp_path, {"b": "3 0.5 0.5 0.5 0.5"}, part="val", names=None)
    dataset = data.open(tmp_path, task="detection")
    assert found(dataset) == {"a": [("dog", [0, 0, 60, 40])], "b": [("cat", [15, 10, 45, 30])]}
    assert part_names(dataset) == [["a"], ["b"]]


@pytest.mark.parametrize("names", ["background\ncat\ndog\n", "cat\nbackground\ndog\n"])
def test_a_class_that_is_called_background_moves_no_other(tmp_path, names):
    lines = [f"{names.split().index(name)} 0.5 0.5 0.5 0.5" for name in ("dog", "cat")]
    save_yolo(tmp_path, {"a": "\n".join(lines), "b": f"{names.split().index('background')} 0.5 0.5 1 1"}, names=names)
    dataset = data.open(tmp_path, task="detection")
    assert dataset.labels == ("background", "cat", "dog")
    assert [name for name, _ in found(dataset)["a"]] == ["dog", "cat"]
    assert [problem for problem in dataset.problems if "unknown class id" in problem] == list(dataset.problems) != []


def test_a_folder_without_masks_is_read_for_its_boxes(tmp_path):
    save_yolo(tmp_path, {"a": "0 0.5 0.5 1 1", "b": ""})
    assert data.open(tmp_path).labels == ("background", "cat", "dog")
    for part in ("train", "val"):
        save_yolo(tmp_path / "deeper", {f"{part}": "1 0.5 0.5 1 1"}, part=part)
    assert data.open(tmp_path / "deeper").labels == ("background", "cat", "dog")
    save_images(tmp_path / "masks", "ab")
    assert all(item.load_mask for item in data.open(tmp_path).train)


def test_images_that_are_trained_on_and_held_out_are_noted(tmp_path):
    save_yolo(tmp_path, {"a": "0 0.5 0.5 1 1", "b": ""}, names=None, yaml="train: images\nval: images\nnames: [cat]")
    (note,) = data.open(tmp_path, task="detection").notes
    assert "2 of the 2 held-out images are trained on too" in note


def test_every_faulty_text_file_is_named(tmp_path):
    faulty = {
        "a": ("2 0.5 0.5 1 1", "unknown class id 2"),
        "b": ("0.5 0.5 0.5 1 1", "unknown class id 0.5"),
        "c": ("nan 0.5 0.5 1 1", "unknown class id nan"),
        "d": ("0 0.5 0.5 1", "expected 4 numbers after the class, or a polygon, got 3"),
        "e": ("0 0.5 0.5 1 1 0.9", "got 5"),
        "f": ("0 0.5 x 1 1", "expected numbers"),
        "g": ("0 0.5 0.5 1 1", "not an image"),
    }
    save_yolo(tmp_path, {name: text for name, (text, _) in faulty.items()} | {"h": ""})
    (tmp_path / "labels" / "alone.txt").write_text("")
    (tmp_path / "images" / "g.png").write_bytes(b"none")
    faults = data.check(data.open(tmp_path, task="detection"))
    for name, reason in [*((name, reason) for name, (_, reason) in faulty.items()), ("alone.txt", "no image of this")]:
        assert any(name in fault and reason in fault for fault in faults), (reason, faults)
    assert len(faults) == len(faulty) + 1


# A billion words, were they written out.
BOMB = "i0: &i0 [x]\n" + "".join(f"i{k}: &i{k} [{', '.join([f'*i{k - 1}'] * 10)}]\n" for k in range(1, 10))


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\nnames: [", "not YAML: "),
        ("train: 3\nnames: [a]", "expected folders of images in train, got 3"),
        ("train: nowhere\nnames: [a]", "nowhere: no such folder"),
        ("train: images\nnames: 3", "expected class names in a YAML, in classes.txt or as labels=, got 3"),
        ("- 'train:'\n- 'names:'", "expected train, val and names, got list"),
        ("names:\ntrain: images", "expected class names"),
        ("train: images\nnames: [a, ~]", "expected class names"),
        (BOMB + "train: images\nnames: [*i9]", "expected class names"),
        (BOMB + "train: [*i9]\nnames: [a]", "expected folders of images in train"),
    ],
)
def test_a_faulty_yaml_gets_one_sentence(tmp_path, yaml, message):
    save_yolo(tmp_path, {"a": ""}, names=None, yaml=yaml)
    with pytest.raises(InputError, match=message) as raised:
        data.open(tmp_path, task="detection")
    assert "\n" not in str(raised.value)


def test_a_yaml_without_the_words_of_yolo_is_named(tmp_path):
    save_yolo(tmp_path, {"a": ""}, names=None, yaml="train: images\nnames [a: b: c")
    with pytest.raises(InputError, match=r"data.yaml: not YAML: .* line 2"):
        data.open(tmp_path, task="detection")
    (tmp_path / "data.yaml").write_text("train: images\nnc: 2")
    with pytest.raises(InputError, match=r"data.yaml: expected train, val and names, found no names"):
        data.open(tmp_path, task="detection")


def test_counts_of_classes_that_differ_are_noted_and_no_line_comes_twice(tmp_path):
    text = "0 .5 .5 .1 .1\n1 .5 .5 0 0\n"
    yaml = "train: images\nval: images\nnc: 3\nnames: [a, b]"
    save_yolo(tmp_path, {"a": text, "b": "7 .5 .5 .1 .1"}, names=None, yaml=yaml)
    dataset = data.open(tmp_path, task="detection")
    assert any("nc is 3, but names has 2" in line for line in dataset.notes)
    assert len(set(dataset.notes)) == len(dataset.notes) == 3
    assert len(data.check(dataset)) == len(dataset.problems) == 1


# CSV


@pytest.mark.parametrize("columns", ["filename,xmin,ymin,xmax,ymax,class", "image_id,width,height,bbox"])
@pytest.mark.parametrize("name", ["", "boxes.csv"])
def test_a_table_of_other_columns_is_named_with_those_it_should_have(tmp_path, columns, name):
    save_images(tmp_path / "images", "a")
    (tmp_path / "boxes.csv").write_text(f"{columns}\n")
    with pytest.raises(InputError, match=rf"boxes.csv: .* fn .* bbox .top left bottom right .* cat .* got {columns}"):
        data.open(tmp_path / name, task="detection")


def save_csv(root, **tables):
    save_images(root / "pictures", "abcdef")
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)


def test_boxes_and_classes_of_the_course(tmp_path):
    save_csv(tmp_path, bb="fn,bbox\na.png,2 5 20 30\nb.png,0 0 39 59\n", lrg="fn,cat\na.png,pottedplant\nb.png,tv\n")
    dataset = data.open(tmp_path, task="detection")
    assert dataset.labels == ("background", "pottedplant", "tv")
    assert found(dataset) == {"a": [("pottedplant", [5, 2, 31, 21])], "b": [("tv", [0, 0, 60, 40])]}
    assert "4 images are in no row" in dataset.notes[0]
    data.check_or_raise(dataset)


def test_rows_with_many_boxes_and_many_rows(tmp_path):
    save_csv(tmp_path, boxes="fn,cat,bbox\na.png,x,2 5 20 30 1 1 3 3\na.png,y,0 0 9 9\nb.png,x,\n")
    dataset = data.open(tmp_path, task="detection")
    assert found(dataset) == {"a": [("x", [5, 2, 31, 21]), ("x", [1, 1, 4, 4]), ("y", [0, 0, 10, 10])], "b": []}
    save_csv(tmp_path, boxes="fn,bbox\na.png,2 5 20 30\n")
    assert found(data.open(tmp_path, task="detection")) == {"a": [("object", [5, 2, 31, 21])]}


def test_classes_alone_are_for_classification(tmp_path):
    save_csv(tmp_path, classes="fn,cat\na.png,two words\nb.png,a\nc.png,a\n")
    dataset = data.open(tmp_path, task="classification")
    assert dataset.labels == ("a", "two words")
    assert {item.name: item.load().label for item in (*dataset.train, *dataset.val)} == {"a": 1, "b": 0, "c": 0}
    with pytest.raises(InputError, match="names classes of images, but no boxes, which detection needs"):
        data.open(tmp_path, task="detection")


def test_a_table_of_a_spreadsheet_is_read(tmp_path):
    save_csv(tmp_path, boxes="\ufefffn,bbox,cat\na.png,1 2 3 4,x\n")
    assert data.open(tmp_path, task="detection").labels == ("background", "x")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"t": "fn,bbox\na.png,1 2 3\n"}, "line 2: expected top, left, bottom and right in bbox, got '1 2 3'"),
        ({"t": "fn,bbox\na.png,1 2 3 x\n"}, "line 2: expected top"),
        ({"t": "fn,cat\n../a.png,x\n"}, "line 2: expected the name of a file and a class"),
        ({"t": "fn,cat\na.png\n"}, "line 2: expected the name of a file and a class"),
        ({"t": "fn,cat\n"}, "expected a row per image, found none"),
        ({"t": "fn,cat\na.png,x\n", "u": "fn,cat\na.png,x\n"}, "found t.csv, u.csv; name it with table="),
        ({"t": "fn,cat\nz.png,x\n"}, "z.png: no such image"),
        (
            {"t": "fn,bbox\na.png,1 2 3 4\n", "u": "fn,cat\nb.png,x\n"},
            "expected a row for a.png, which has one in t.csv",
        ),
    ],
)
def test_a_faulty_table_gets_one_sentence(tmp_path, tables, message):
    save_csv(tmp_path, **tables)
    with pytest.raises(InputError, match=message):
        data.check_or_raise(data.open(tmp_path, task="classification"))


# Real folders


@pytest.mark.realdata
def test_coco_in_json_and_in_yolo_are_the_same_objects(data_dir):
    as_json = data.open(data_dir / "coco", task="detection")
    as_yolo = data.open(data_dir / "coco" / "det_yolo.yaml", task="detection")
    assert as_json.labels == as_yolo.labels
    assert part_names(as_json) == part_names(as_yolo)
    assert [len(as_json.labels), len(as_json.train), len(as_json.val)] == [81, 55, 49]
    assert sum(len(item.load_objects().labels) for item in (*as_json.train, *as_json.val)) == 689
    data.check_or_raise(as_json)
    distances = []
    for a, b in zip(as_json.train, as_yolo.train, strict=True):
        ours, theirs = a.load_objects(), b.load_objects()
        for box in ours.xyxy[~ours.ignored] if len(theirs.xyxy) else ():
            distances.append(np.abs(theirs.xyxy - box).max(1).min())
    # Half of the boxes of masks agree with those drawn by hand within a pixel.
    assert np.median(distances) < 1


@pytest.mark.realdata
def test_voc_in_xml_and_in_coco_json_are_the_same_objects(data_dir):
    as_xml = found(data.open(data_dir / "voc", task="detection"))
    as_json = found(data.open(data_dir / "voc", task="detection", format="coco"))
    assert as_xml.keys() == as_json.keys()
    # Two hands drew them, and the one of the JSON drew more.
    for name, marked in as_xml.items():
        for kind, box in marked:
            assert min(np.abs(np.subtract(box, other)).max() for word, other in as_json[name] if word == kind) < 15
