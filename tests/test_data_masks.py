"""Masks in colours and in other files' numbers: what they become, and what is said of an unknown one."""

import json
import re
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from visdeploy import data
from visdeploy.data import classes_of, colors_of, voc_colormap
from visdeploy.data.mask_files import read_mask
from visdeploy.errors import InputError

SIZE = (12, 16)
PHOTO = np.full((*SIZE, 3), 90, np.uint8)


def class_map(*values, size=SIZE):
    """Rows of the values in turn, from the top."""
    return np.repeat(np.resize(np.array(values), size[0])[:, None], size[1], 1).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_palette(path, classes, colours=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(classes, "P")
    picture.putpalette((voc_colormap() if colours is None else colours).tobytes())
    picture.save(path)


def save_voc(root, classes, stems="abcdef", *, images="JPEGImages", folder="SegmentationClass"):
    for stem in stems:
        save(root / images / f"{stem}.jpg", PHOTO)
        save_palette(root / folder / f"{stem}.png", classes)


def segmentation(root, **options):
    return data.open(root, task="segmentation", **options)


def everything(dataset):
    return {item.name: item for item in (*dataset.train, *dataset.val)}


# Colours


def test_the_colormap_is_vocs():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0)}
    known |= {15: (192, 128, 128), 20: (0, 64, 128), 64: (32, 0, 0), 254: (96, 224, 192), 255: (224, 224, 192)}
    table = voc_colormap()
    assert {index: tuple(table[index].tolist()) for index in known} == known
    assert len(np.unique(table, axis=0)) == 256
    np.testing.assert_array_equal(voc_colormap(21), table[:21])
    for n in (0, 257):
        with pytest.raises(InputError, match="n: expected 1 to 256"):
            voc_colormap(n)


@pytest.mark.parametrize("n", ["3", 3.5, None])
def test_a_number_of_colours_is_a_whole_one(n):
    with pytest.raises(InputError, match="n: expected 1 to 256, got"):
        voc_colormap(n)


@pytest.mark.parametrize("colormap", [None, voc_colormap(21), np.eye(3, dtype=np.uint8) * 200])
def test_classes_and_colours_go_both_ways(colormap):
    count = 256 if colormap is None else len(colormap)
    classes = np.random.default_rng(0).integers(0, count, (40, 30), np.uint8)
    classes[3:9] = 255
    painted = colors_of(classes, colormap)
    assert (painted.shape, painted.dtype) == ((40, 30, 3), np.uint8)
    assert painted[3, 0].tolist() == [224, 224, 192]
    np.testing.assert_array_equal(classes_of(painted, colormap), classes)


def test_an_unknown_colour_or_class_is_named_with_its_pixel():
    painted = colors_of(class_map(0, 15))
    painted[4, 9:] = 1, 2, 3
    with pytest.raises(InputError, match=r"unknown colour \(1, 2, 3\) at pixel x=9, y=4$"):
        classes_of(painted)
    painted[6:] = 3, 2, 1
    with pytest.raises(InputError, match=r"unknown colour \(1, 2, 3\) at pixel x=9, y=4, and 1 more unknown colours"):
        classes_of(painted)
    with pytest.raises(InputError, match="class 15 at pixel x=0, y=1 has no colour; 15 are given"):
        colors_of(class_map(0, 15), voc_colormap(15))
    with pytest.raises(InputError, match="class -1 at pixel x=1, y=0"):
        colors_of(np.array([[0, -1]]))


def test_wrong_arrays_are_refused():
    for wrong in (class_map(0), PHOTO.astype(np.float32), PHOTO[..., :2], [[1]]):
        with pytest.raises(InputError, match=r"rgb: expected uint8 \(H, W, 3\)"):
            classes_of(wrong)
    with pytest.raises(InputError, match=r"class_map: expected whole numbers \(H, W\)"):
        colors_of(PHOTO)
    with pytest.raises(InputError, match="a colour of its own for each class"):
        classes_of(PHOTO, [(1, 2, 3), (1, 2, 3)])
    for wrong in ([1, 2, 3], ["red"], [("r", "g", "b")], [(0.5, 0.5, 0.5)]):
        with pytest.raises(InputError, match=r"\(n, 3\) with n from 1 to 256"):
            classes_of(PHOTO, wrong)


# Palette files


def test_no_flipped_bit_of_a_palette_mask_changes_a_label(tmp_path):
    path = tmp_path / "a.png"
    classes = np.random.default_rng(0).integers(0, 5, SIZE).astype(np.uint8)
    save_palette(path, classes, np.zeros((5, 3), np.uint8))
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_mask(path)


def test_how_large_a_palette_mask_may_be_is_our_limit_and_not_pillows(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_palette(path, class_map(0, 1, 2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of which more are warned of, and twice as many refused
    np.testing.assert_array_equal(read_mask(path), class_map(0, 1, 2))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"expected at most max_pixels=.* got 20000 x 20000 pixels"):
        read_mask(path)


# Pascal VOC


def test_voc_reads_palettes_by_index_and_colours_by_the_colormap(tmp_path):
    classes = class_map(0, 15, 20, 255)
    save_voc(tmp_path, classes, "a")
    save(tmp_path / "JPEGImages" / "b.jpg", PHOTO)
    save(tmp_path / "SegmentationClass" / "b.png", colors_of(classes))
    save(tmp_path / "JPEGImages" / "c.jpg", PHOTO)
    save(tmp_path / "SegmentationClass" / "c.png", classes)
    save(tmp_path / "JPEGImages" / "d.jpg", PHOTO)
    save_palette(tmp_path / "SegmentationClass" / "d.png", classes, voc_colormap()[::-1].copy())
    save(tmp_path / "JPEGImages" / "e.jpg", PHOTO)
    save(tmp_path / "SegmentationClass" / "e.png", np.dstack([colors_of(classes), np.full(SIZE, 255, np.uint8)]))
    dataset = segmentation(tmp_path)
    assert data.check(dataset) == []
    assert (len(dataset.labels), dataset.labels[15], dataset.background) == (21, "person", 0)
    assert dataset.palette[15] == (192, 128, 128)
    for item in everything(dataset).values():
        np.testing.assert_array_equal(item.load_mask(), classes)


def test_vocs_lists_are_the_split_and_name_what_is_missing(tmp_path):
    save_voc(tmp_path, class_map(0, 1))
    save(tmp_path / "JPEGImages" / "without.jpg", PHOTO)
    dataset = segmentation(tmp_path)
    assert [item.name for item in dataset.val] == ["a", "f"]
    assert dataset.problems == ()
    assert dataset.notes == (f"{tmp_path / 'JPEGImages'}: 1 images have no mask, and are left out",)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c\na\n")
    (lists / "val.txt").write_text("b\nwithout\n\n")
    dataset = segmentation(tmp_path)
    assert [item.name for item in dataset.train] == ["c", "a"]
    assert [item.name for item in dataset.val] == ["b"]
    assert dataset.problems == (f"{tmp_path}: without of ImageSets has no image or no mask",)
    assert dataset.notes == ()
    (lists / "val.txt").write_text("a\nb\n")
    (note,) = segmentation(tmp_path).notes
    assert "1 of the 2 held-out images are trained on too" in note


def test_names_of_classes_come_from_the_folder_or_the_caller(tmp_path):
    save_voc(tmp_path, class_map(0, 1), images="images", folder="SegmentationClassPNG")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncell\n")
    assert segmentation(tmp_path).labels == ("background", "cell")
    (tmp_path / "class_names.txt").write_text("_background_\ncell\nnucleus")
    assert segmentation(tmp_path).labels == ("background", "cell", "nucleus")
    assert segmentation(tmp_path, labels=("no", "yes")).labels == ("no", "yes")
    with pytest.raises(InputError, match="at most 255 classes, got 256"):
        segmentation(tmp_path, labels=[str(index) for index in range(256)])


def test_what_is_wrong_with_voc_masks_is_named_with_file_and_pixel(tmp_path):
    save_voc(tmp_path, class_map(0, 1))
    folder = tmp_path / "SegmentationClass"
    save_palette(folder / "b.png", class_map(0, 0, 21))
    painted = colors_of(class_map(0, 15))
    painted[5, 7] = 9, 9, 8
    save(folder / "c.png", painted)
    save(folder / "d.png", colors_of(class_map(0, 40)))
    cv2.imwrite(str(folder / "e.png"), np.zeros((*SIZE, 3), np.uint16))
    faults = data.check(segmentation(tmp_path))
    expected = {
        "b": "unknown label values 21 (21 at pixel x=0, y=2); known are 0, 1, 2",
        "c": "unknown colour (9, 9, 8) at pixel x=7, y=5; expected the colours of the classes as",
        "d": "unknown label values 40 (40 at pixel x=0, y=1); known are 0, 1, 2",
        "e": "expected 8 bits per channel",
    }
    assert len(faults) == len(expected)
    for stem, said in expected.items():
        assert any(fault.startswith(f"{folder / stem}.png: {said}") for fault in faults), (said, faults)


def test_one_folder_of_voc_has_masks_for_one_task_and_boxes_for_another(tmp_path):
    save_voc(tmp_path, class_map(0, 1))
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    (tmp_path / "Annotations").mkdir()
    for stem in "abcdef":
        text = f"<annotation><object><name>dog</name>{box}</object></annotation>"
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
    for options in ({}, {"format": "voc"}):
        assert len(segmentation(tmp_path, **options).labels) == 21
        assert data.open(tmp_path, task="detection", **options).labels == ("background", "dog")
        assert data.open(tmp_path, **options).train[0].load_mask is not None


# Colours where the plain folder expects numbers


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (colors_of(class_map(0, 3)), "its colours are Pascal VOC's: --format voc --masks masks reads them"),
        (colors_of(class_map(0, 1, 2)) // 3, "its 3 colours look like a palette's that was saved as RGB"),
        (np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8), "looks like a photograph"),
    ],
)
def test_a_colour_picture_says_what_it_looks_like(tmp_path, mask, said):
    for stem in "abc":
        save(tmp_path / "images" / f"{stem}.png", np.zeros_like(mask))
        save(tmp_path / "masks" / f"{stem}.png", mask)
    faults = data.check(segmentation(tmp_path))
    assert len(faults) == 3
    assert all("a colour picture; expected a mask with one channel" in fault and said in fault for fault in faults)


def test_the_way_out_that_a_colour_picture_names_is_one(tmp_path):
    for stem in "abc":
        save(tmp_path / "images" / f"{stem}.png", PHOTO)
        save(tmp_path / "masks" / f"{stem}.png", colors_of(class_map(0, 3)))
    dataset = segmentation(tmp_path, format="voc", masks="masks")
    assert data.check(dataset) == []
    np.testing.assert_array_equal(dataset.train[0].load_mask(), class_map(0, 3))


def test_masks_of_16_bits_keep_their_values(tmp_path):
    for stem in "abc":
        save(tmp_path / "images" / f"{stem}.png", PHOTO)
        (tmp_path / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "masks" / f"{stem}.png"), class_map(0, 1).astype(np.uint16) * 65535)
    dataset = segmentation(tmp_path)
    assert data.check(dataset) == []
    np.testing.assert_array_equal(dataset.train[0].load_mask(), class_map(0, 1))


# COCO


CATEGORIES = {7: "train", 1: "person", 200: "rug-merged", 700: "late"}


def save_coco(root, ids, *, where="panoptic_{part}2017.json"):
    for part, stems in (("train", "abc"), ("val", "de")):
        document = {
            "images": [],
            "annotations": [{"segments_info": []}],
            "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
        }
        path = root / where.format(part=part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
        for stem in stems:
            save(root / "images" / f"{part}2017" / f"{stem}.png", PHOTO)
            mask = root / "semantic" / f"{part}2017" / f"{stem}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(mask), ids)


@pytest.mark.parametrize("where", ["panoptic_{part}2017.json", "annotations/panoptic_{part}2017.json"])
def test_ids_of_coco_become_dense_classes(tmp_path, where):
    save_coco(tmp_path, class_map(0, 1, 7, 200), where=where)
    wide = class_map(0, 1, 7).astype(np.uint16)
    wide[2] = 700
    cv2.imwrite(str(tmp_path / "semantic" / "train2017" / "b.png"), wide)
    dataset = segmentation(tmp_path)
    assert dataset.labels == ("person", "train", "rug-merged", "late")
    assert (len(dataset.palette), dataset.background) == (4, None)
    assert ([item.name for item in dataset.train], [item.name for item in dataset.val]) == (["a", "b", "c"], ["d", "e"])
    assert data.check(dataset) == []
    masks = {name: item.load_mask()[:4, 0].tolist() for name, item in everything(dataset).items()}
    assert masks["a"] == masks["d"] == [255, 0, 1, 2]
    assert masks["b"] == [255, 0, 3, 255]


def test_some_categories_of_coco_can_be_asked_for(tmp_path):
    save_coco(tmp_path, class_map(0, 1, 7, 200))
    kept = segmentation(tmp_path, labels=("train", "person"))
    assert kept.train[0].load_mask()[:4, 0].tolist() == [255, 1, 0, 255]
    kept = segmentation(tmp_path, labels=("background", "train"))
    assert (kept.background, kept.train[0].load_mask()[:4, 0].tolist()) == (0, [255, 0, 1, 0])
    with pytest.raises(InputError, match=r"'tram' is no category of .*; did you mean 'train'\?$"):
        segmentation(tmp_path, labels=("tram",))
    with pytest.raises(InputError, match=r"'zebu' is no category of .*person, train, rug-merged, late$"):
        segmentation(tmp_path, labels=("zebu",))


def test_ids_that_the_json_lacks_are_named(tmp_path):
    ids = class_map(0, 1)
    ids[6, 3:] = 12
    save_coco(tmp_path, class_map(0, 1))
    cv2.imwrite(str(tmp_path / "semantic" / "val2017" / "e.png"), ids)
    (tmp_path / "semantic" / "train2017" / "c.png").unlink()
    first, second = data.check(segmentation(tmp_path))
    assert first == f"{tmp_path / 'images' / 'train2017' / 'c.png'}: no mask in train2017/"
    assert second == (
        f"{tmp_path / 'semantic' / 'val2017' / 'e.png'}: unknown label values 12 (12 at pixel x=3, y=6); "
        "known are 0, 1, 7, 200, 700"
    )


def test_an_id_that_no_mask_can_have_neither_hides_a_value_nor_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "CATEGORIES", {-1: "none", 1: "person", 10**13: "late"})
    save_coco(tmp_path, class_map(0, 1, 7))
    assert "unknown label values 7" in data.check(segmentation(tmp_path))[0]


def test_a_category_that_has_the_id_of_no_label_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "CATEGORIES", {0: "person", 1: "train"})
    save_coco(tmp_path, class_map(0, 1))
    with pytest.raises(InputError, match="the category 'person' has the id 0, which means no label in masks"):
        segmentation(tmp_path)


def test_a_json_that_is_missing_or_of_other_categories_is_said(tmp_path):
    save_coco(tmp_path, class_map(0, 1))
    other = tmp_path / "panoptic_val2017.json"
    other.write_text(other.read_text().replace('"person"', '"people"'))
    with pytest.raises(
        InputError, match=r"val2017.json: expected the categories of panoptic_train2017.json, got others"
    ):
        segmentation(tmp_path)
    assert segmentation(tmp_path, json="panoptic_val2017.json").labels[0] == "people"
    for path in tmp_path.glob("*.json"):
        path.unlink()
    with pytest.raises(InputError, match="expected a panoptic JSON that names the ids in semantic/"):
        segmentation(tmp_path, format="coco")


# Real folders


@pytest.mark.realdata
def test_masks_of_voc(data_dir):
    dataset = segmentation(data_dir / "voc")
    data.check_or_raise(dataset)
    assert (len(dataset.train), len(dataset.val), len(dataset.labels)) == (2, 1, 21)
    assert (dataset.labels[0], dataset.labels[20]) == ("background", "tv/monitor")
    for name, item in everything(dataset).items():
        stored = Image.open(data_dir / "voc" / "SegmentationClass" / f"{name}.png")
        np.testing.assert_array_equal(item.load_mask(), np.array(stored))
        np.testing.assert_array_equal(colors_of(item.load_mask()), np.array(stored.convert("RGB")))
        np.testing.assert_array_equal(classes_of(np.array(stored.convert("RGB"))), item.load_mask())
    assert data.open(data_dir / "voc", task="detection").labels[-1] == "person"


@pytest.mark.realdata
def test_masks_of_coco(data_dir):
    dataset = segmentation(data_dir / "coco")
    data.check_or_raise(dataset)
    assert (len(dataset.train), len(dataset.val), len(dataset.labels)) == (55, 49, 133)
    document = json.loads((data_dir / "coco" / "panoptic_val2017.json").read_text())
    ids = {category["name"]: category["id"] for category in document["categories"]}
    item = dataset.val[0]
    stored = cv2.imread(str(data_dir / "coco" / "semantic" / "val2017" / f"{item.name}.png"), cv2.IMREAD_UNCHANGED)
    found = item.load_mask()
    back = np.zeros(256, np.uint8)
    back[: len(dataset.labels)] = [ids[name] for name in dataset.labels]
    np.testing.assert_array_equal(back[found], stored)
    assert (found == 255).any()
