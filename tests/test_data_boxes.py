"""Boxes in data sets: their conventions, which of them count, the largest, and Pascal VOC's XML."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visdeploy import data
from visdeploy.cli.options import open_data
from visdeploy.data import box_formats
from visdeploy.data.dataset import Objects
from visdeploy.data.marked import keep_valid, read_size
from visdeploy.errors import InputError

SIZE = (40, 60)


def save_images(folder, names, size=SIZE):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size[::-1], (90, 80, 70)).save(folder / name)


def everything(dataset):
    return {item.name: item for item in (*dataset.train, *dataset.val)}


def objects(xyxy, labels=None, ignored=None):
    count = len(xyxy)
    return Objects(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array(labels or [1] * count, np.int64),
        np.array(ignored or [False] * count, bool),
    )


# Conventions

WAYS = {
    "xywh": (box_formats.from_xywh, box_formats.to_xywh),
    "inclusive yxyx": (box_formats.from_inclusive_yxyx, box_formats.to_inclusive_yxyx),
    "pascal": (box_formats.from_pascal, box_formats.to_pascal),
    "yolo": (lambda boxes: box_formats.from_yolo(boxes, SIZE), lambda boxes: box_formats.to_yolo(boxes, SIZE)),
}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-1000, 1000)] * 4), max_size=5))
def test_every_convention_goes_round(way, boxes):
    there, back = WAYS[way]
    expected = np.array(boxes, float).reshape(-1, 4)
    np.testing.assert_allclose(back(there(boxes)), expected, atol=1e-9)
    np.testing.assert_allclose(there(back(boxes)), expected, atol=1e-9)


def test_one_box_in_every_convention():
    """The first is the example of fast.ai's lesson 8: its hw_bb and bb_hw."""
    corners = np.array([[155.0, 96, 351, 270]])
    assert (box_formats.from_xywh([155, 96, 196, 174]) == corners).all()
    assert (box_formats.from_inclusive_yxyx([96, 155, 269, 350]) == corners).all()
    assert (box_formats.to_inclusive_yxyx(box_formats.from_xywh([155, 96, 196, 174])) == [96, 155, 269, 350]).all()
    assert (box_formats.to_xywh(box_formats.from_inclusive_yxyx([96, 155, 269, 350])) == [155, 96, 196, 174]).all()
    assert (box_formats.from_pascal([156, 97, 351, 270]) == corners).all()
    assert (box_formats.from_yolo([0.5, 0.25, 0.2, 0.5], (40, 100)) == [[40, 0, 60, 20]]).all()


# Which boxes count


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((5, 5, 5, 9), "no area"),
        ((5, 5, 9, 5), "no area"),
        ((9, 5, 5, 9), "no area"),
        ((5, 9, 9, 5), "no area"),
        ((float("nan"), 5, 9, 9), "not finite"),
        ((5, 5, float("inf"), 9), "not finite"),
        ((5, 5, 1e300, 9), "not finite"),
        ((60, 5, 70, 9), "outside"),
        ((-9, 5, 0, 9), "outside"),
        ((5, 40, 9, 50), "outside"),
        ((5, -9, 9, 0), "outside"),
        ((59.999999999, 5, 70, 9), "outside"),
    ],
)
def test_what_is_dropped(box, reason):
    _, (said,) = keep_valid([box], SIZE)
    assert reason in said


@pytest.mark.parametrize("convention", [np.array, box_formats.from_xywh, WAYS["yolo"][0]])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-200, 200) | st.floats()] * 4), max_size=8))
def test_what_is_kept_lies_inside_and_has_area(convention, boxes):
    corners, reasons = keep_valid(convention(boxes), SIZE)
    x1, y1, x2, y2 = corners[reasons == ""].T
    assert corners.dtype == np.float32
    assert ((x1 >= 0) & (x1 < x2) & (x2 <= 60) & (y1 >= 0) & (y1 < y2) & (y2 <= 40)).all()


def test_boxes_at_the_border_stay_as_they_are():
    corners, reasons = keep_valid([[0, 0, 60, 40], [59, 39, 60, 40]], SIZE)
    assert (reasons == "").all()
    assert corners.tolist() == [[0, 0, 60, 40], [59, 39, 60, 40]]


# The largest


def test_the_largest_object():
    assert data.largest_object(objects([])) is None
    assert data.largest_object(objects([[0, 0, 4, 4], [0, 0, 2, 20], [5, 5, 45, 6]])) == 1
    assert data.largest_object(objects([[0, 0, 9, 9], [0, 0, 2, 2]], ignored=[True, False])) == 1
    assert data.largest_object(objects([[0, 0, 9, 9]], ignored=[True])) is None


# Pascal VOC

XML = """<annotation><filename>{name}.jpg</filename>{source}
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>
<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def save_voc(root, marked, *, size=SIZE, source=""):
    """`marked`: name -> [(kind, box, difficult)]."""
    save_images(root / "JPEGImages", [f"{name}.jpg" for name in marked])
    (root / "Annotations").mkdir(exist_ok=True)
    for name, found in marked.items():
        inside = "".join(OBJECT.format(kind=kind, box=box, difficult=difficult) for kind, box, difficult in found)
        text = XML.format(name=name, source=source, width=size[1], height=size[0], objects=inside)
        (root / "Annotations" / f"{name}.xml").write_text(text)


CELLS = {
    "a": [("red", (5, 6, 20, 30), 0), ("white", (1, 1, 9, 9), 1)],
    "b": [],
    "c": [("platelet", (10.5, 2, 12, 4), 0), ("red", (7, 7, 7, 7), 0), ("red", (50, 30, 63, 39), 0)],
    **{name: [("red", (1, 1, 8, 8), 0)] for name in "defgh"},
}


def test_voc_boxes_labels_and_difficult_ones(tmp_path):
    save_voc(tmp_path, CELLS)
    dataset = data.open(tmp_path, task="detection")
    assert dataset.labels == ("background", "platelet", "red", "white")
    assert [item.name for item in dataset.val] == ["a", "f"]
    data.check_or_raise(dataset)
    sample = everything(dataset)["a"].load()
    assert sample.image.shape == (*SIZE, 3)
    assert sample.objects.xyxy.tolist() == [[5, 6, 20, 30], [1, 1, 9, 9]]
    assert sample.objects.labels.tolist() == [2, 3]
    assert sample.objects.ignored.tolist() == [False, True]
    assert everything(dataset)["b"].load().objects.xyxy.shape == (0, 4)
    assert everything(dataset)["c"].load().objects.xyxy.tolist() == [[10.5, 2, 12, 4], [50, 30, 60, 39]]
    dropped, clipped = dataset.notes
    assert dropped == "c: red at (7, 7, 7, 7) is dropped: it has no area"
    assert clipped.endswith("1 boxes in 1 images reach beyond the image, and are clipped")
    assert pickle.loads(pickle.dumps(dataset.train[0])).load().objects is not None


def test_pascals_own_files_count_from_one_and_include_the_last_pixel(tmp_path):
    save_voc(
        tmp_path,
        {"a": [("cat", (1, 1, 60, 40), 0)]},
        source="<source><database>The VOC2007 Database</database></source>",
    )
    (item,) = data.open(tmp_path, task="detection").val
    assert item.load_objects().xyxy.tolist() == [[0, 0, 60, 40]]
    (item,) = data.open(tmp_path, task="detection", inclusive=False).val
    assert item.load_objects().xyxy.tolist() == [[1, 1, 60, 40]]


def test_image_sets_are_the_split(tmp_path):
    save_voc(tmp_path, CELLS)
    sets = tmp_path / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("a\nc 1\n\nmissing\n")
    (sets / "val.txt").write_text("b\n")
    dataset = data.open(tmp_path, task="detection")
    assert [[item.name for item in part] for part in (dataset.train, dataset.val)] == [["a", "c"], ["b"]]
    (problem,) = dataset.problems
    assert "missing.xml: cannot be read" in problem


def test_largest_objects_make_a_task_with_one_answer(tmp_path):
    save_voc(tmp_path, CELLS)
    dataset = data.open(tmp_path, task="localization")
    assert dataset.labels == ("platelet", "red", "white")
    assert len(dataset.palette) == 3
    assert dataset.notes[-1] == "1 images without an object are left out"
    sample = everything(dataset)["c"].load()
    assert (sample.label, sample.objects.labels.tolist()) == (1, [1])
    assert sample.objects.xyxy.tolist() == [[50, 30, 60, 39]]
    assert data.largest_objects(dataset) is dataset
    assert everything(data.open(tmp_path, task="classification"))["a"].label == 1


def test_the_command_line_says_what_was_left_out(tmp_path, capsys):
    boxes = [("red", (5, 5, 5, bottom), 0) for bottom in range(9, 22)]
    save_voc(tmp_path, {"a": [*boxes, ("red", (5, 5, 9, 9), 0)]})
    assert len(open_data(tmp_path, "auto", task="detection").val) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"a: red at (5, 5, 5, {bottom}) is dropped: it has no area" for bottom in range(9, 19)] + [
        "and 3 more such lines"
    ]


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
<!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">]><annotation><filename>&d;</filename></annotation>"""


def test_the_command_line_says_which_images_are_in_both_lists(tmp_path, capsys):
    save_voc(tmp_path, {name: [("red", (5, 5, 9, 9), 0)] for name in "abc"})
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for part, names in (("train", "a\nb\n"), ("val", "b\nc\n")):
        (tmp_path / "ImageSets" / "Main" / f"{part}.txt").write_text(names)
    open_data(tmp_path, "auto", task="detection")
    assert "1 of the 2 held-out images are trained on too" in capsys.readouterr().err


def test_every_faulty_annotation_is_named(tmp_path):
    save_voc(tmp_path, CELLS)
    faulty = {
        "b": (BOMB, "without a DOCTYPE"),
        "d": ("<annotation><object>", "no element found"),
        "e": (
            XML.format(name="e", source="", width=60, height=40, objects="<object><name>red</name></object>"),
            "bndbox/xmin",
        ),
        "f": (XML.format(name="f", source="", width=60, height=40, objects="<object/>"), "object 1: expected a name"),
        "g": (
            XML.format(name="g", source="", width=61, height=40, objects=""),
            "g: the image is 60x40, but its annotation says 61x40",
        ),
    }
    for name, (text, _) in faulty.items():
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    (tmp_path / "JPEGImages" / "h.jpg").unlink()
    found = data.check(data.open(tmp_path, task="detection"))
    for name, reason in [*((name, reason) for name, (_, reason) in faulty.items()), ("h", "no image h in JPEGImages/")]:
        assert any(reason in fault and name in fault for fault in found), (reason, found)
    assert len(found) == len(faulty) + 1
    (fault,) = (
        fault
        for fault in data.check(data.open(tmp_path, labels=["red", "white"], task="detection"))
        if "c.xml" in fault
    )
    assert "unknown class platelet; known are red, white" in fault


def test_sizes_that_the_xml_does_not_know_come_from_the_image(tmp_path):
    save_voc(tmp_path, {"a": [("cat", (5, 5, 70, 20), 0)]}, size=(0, 0))
    dataset = data.open(tmp_path, task="detection")
    assert dataset.val[0].size == SIZE
    assert data.check(dataset) == ["expected some of each, got 0 images to train on and 1 held out"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_size(tmp_path / "turned.jpg") == (60, 40)


def test_pillow_does_not_warn_of_a_large_image(tmp_path, monkeypatch):
    save_images(tmp_path, ["a.jpg"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)
    assert read_size(tmp_path / "a.jpg") == SIZE


def test_images_without_annotation_are_left_out_and_counted(tmp_path):
    save_voc(tmp_path, CELLS)
    (tmp_path / "Annotations" / "h.xml").unlink()
    dataset = data.open(tmp_path, task="detection")
    assert len(everything(dataset)) == 7
    assert any("1 images have no XML file" in note for note in dataset.notes)


def test_a_folder_for_another_task_says_what_it_is_for(tmp_path):
    save_voc(tmp_path, CELLS)
    with pytest.raises(InputError, match=r"no labels for segmentation, only for .*detection.* \(voc\)"):
        data.open(tmp_path, task="segmentation")
    with pytest.raises(
        InputError, match=r"expected masks in SegmentationClass/.* boxes are read with --task detection"
    ):
        data.open(tmp_path, format="voc", task="segmentation")
    with pytest.raises(InputError, match="task: expected segmentation"):
        data.open(tmp_path, task="detecting")
    assert len(everything(data.open(tmp_path))) == 8


@pytest.mark.realdata
def test_blood_cells(data_dir):
    dataset = data.open(data_dir / "det_bccd", task="detection")
    assert (len(dataset.train), len(dataset.val)) == (232, 59)
    every = sorted(everything(dataset))
    assert sorted(item.name for item in dataset.val) == every[::5]
    counts = np.bincount([label for item in everything(dataset).values() for label in item.load_objects().labels])
    assert dict(zip(dataset.labels, counts.tolist(), strict=True)) == {
        **{"background": 0, "Platelets": 310},
        **{"RBC": 3348 - 2, "WBC": 298},
    }
    assert [note.partition(":")[0] for note in dataset.notes] == ["BloodImage_00338", "BloodImage_00343"]
    data.check_or_raise(dataset)
