"""Readers: what they pair, what classes they find, and what they say when a folder is wrong."""

import csv
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from visdeploy import data, mask
from visdeploy.data.scenes import scenes
from visdeploy.errors import InputError

SIZE = (12, 16)


def blob(low=0, high=1):
    values = np.full(SIZE, low, np.uint8)
    values[3:8, 5:12] = high
    return values


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, lossless=True)


def save_pairs(root, masks, *, images="images", folder="masks", suffix="", ending="png"):
    """One grey image per mask, named a, b, c, ..."""
    for name, values in zip("abcdefghijkl", masks, strict=False):
        save(root / images / f"{name}.png", np.full((*SIZE, 3), 90, np.uint8))
        save(root / folder / f"{name}{suffix}.{ending}", values)


def names(items):
    return [item.name for item in items]


# Plain folders


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (7, 40), (0, 100)])
def test_masks_of_any_two_values_are_background_and_foreground(tmp_path, values):
    save_pairs(tmp_path, [blob(*values)] * 3)
    dataset = data.open(tmp_path)
    assert dataset.labels == ("background", "foreground")
    assert dataset.background == 0
    np.testing.assert_array_equal(dataset.train[0].load_mask(), blob())


def test_an_empty_and_a_full_mask_keep_their_meaning(tmp_path):
    save_pairs(tmp_path, [blob(0, 0), blob(255, 255), blob(0, 255)])
    found = [item.load_mask().mean() for item in sorted(everything(tmp_path), key=lambda item: item.name)]
    assert found == [0, 1, blob().mean()]


def everything(root, **options):
    dataset = data.open(root, **options)
    return [*dataset.train, *dataset.val]


def test_all_masks_empty_is_still_a_binary_task(tmp_path):
    save_pairs(tmp_path, [blob(0, 0)] * 3)
    assert {int(item.load_mask().max()) for item in everything(tmp_path)} == {0}


def test_indexed_masks_keep_their_indices_and_255_is_ignored(tmp_path):
    values = blob(0, 3)
    values[0] = 255
    save_pairs(tmp_path, [values, blob(1, 2)])
    dataset = data.open(tmp_path)
    assert dataset.labels == ("background", "class 1", "class 2", "class 3")
    assert len(dataset.palette) == 4
    by_name = {item.name: item for item in [*dataset.train, *dataset.val]}
    np.testing.assert_array_equal(by_name["a"].load_mask(), values)


def test_two_labels_mean_the_two_commonest_values(tmp_path):
    values = blob(0, 1)
    values[0] = 255
    save_pairs(tmp_path, [blob(), blob(), values])
    by_name = {item.name: item for item in everything(tmp_path, labels=("background", "cell"))}
    assert (by_name["c"].load_mask()[0] == 255).all()
    save(tmp_path / "masks" / "c.png", blob(0, 77))
    (fault,) = data.check(data.open(tmp_path, labels=("background", "cell")))
    assert "c.png: unknown label values 77" in fault


def test_labels_name_the_classes_and_bound_the_indices(tmp_path):
    save_pairs(tmp_path, [blob(0, 2), blob(1, 3)])
    dataset = data.open(tmp_path, labels=("sky", "road", "car"))
    assert dataset.labels == ("sky", "road", "car")
    assert dataset.background is None
    (fault,) = data.check(dataset)
    assert "b.png: unknown label values 3 (3 at pixel x=5, y=3); known are 0, 1, 2, 255" in fault


@pytest.mark.parametrize("text", ["background\nnucleus\n", "background\nnucleus", "background\r\nnucleus\r\n"])
def test_labels_come_from_a_file_where_there_is_one(tmp_path, text):
    save_pairs(tmp_path, [blob()] * 2)
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert data.open(tmp_path).labels == ("background", "nucleus")


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif", "webp", "jpg"])
def test_mask_files_of_every_kind(tmp_path, ending):
    save_pairs(tmp_path, [blob(0, 255)] * 2, suffix="_mask", ending=ending)
    dataset = data.open(tmp_path)
    assert dataset.labels == ("background", "foreground")
    found = dataset.train[0].load_mask()
    assert (found != blob()).mean() < (0.1 if ending == "jpg" else 1e-9)


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_palette_files_give_indices_not_colours(tmp_path, ending):
    picture = Image.new("P", SIZE[::-1])
    picture.putdata(blob(1, 2).ravel().tolist())
    picture.putpalette([0, 0, 0, 200, 10, 20, 30, 40, 250, 9, 8, 7])
    save(tmp_path / "images" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "masks").mkdir()
    picture.save(tmp_path / "masks" / f"a.{ending}", optimize=False)
    (item,) = everything(tmp_path, labels=("a", "b", "c"))
    np.testing.assert_array_equal(item.load_mask(), blob(1, 2))


def test_gray_masks_saved_as_colour_and_16_bit_masks_are_read(tmp_path):
    save_pairs(tmp_path, [np.dstack([blob(0, 255)] * 3), np.dstack([blob(0, 255)] * 4)])
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), blob(0, 255).astype(np.uint16))
    assert data.check(data.open(tmp_path)) == []


def test_train_and_val_folders_are_the_split(tmp_path):
    save_pairs(tmp_path / "train", [blob()] * 4)
    save_pairs(tmp_path / "val", [blob()] * 2)
    dataset = data.open(tmp_path)
    assert names(dataset.train) == ["a", "b", "c", "d"]
    assert names(dataset.val) == ["a", "b"]


def test_every_fifth_name_is_held_out(tmp_path):
    save_pairs(tmp_path, [blob()] * 11)
    dataset = data.open(tmp_path)
    assert names(dataset.val) == ["a", "f", "k"]
    assert names(dataset.train) == list("bcdeghij")


def test_the_mask_folder_is_found_named_or_asked_for(tmp_path):
    save_pairs(tmp_path, [blob()] * 2, folder="annotations")
    assert len(everything(tmp_path)) == 2
    save_pairs(tmp_path, [blob()] * 2, folder="instances")
    with pytest.raises(InputError, match="found annotations, instances; name it with --masks, or masks="):
        data.open(tmp_path)
    assert len(everything(tmp_path, masks="instances")) == 2
    save_pairs(tmp_path, [blob()] * 2, folder="masks_union")
    assert len(everything(tmp_path)) == 2


def test_items_travel_to_worker_processes(tmp_path):
    save_pairs(tmp_path, [blob()] * 2)
    for item in (*everything(tmp_path), *scenes(1, size=SIZE).val):
        assert pickle.loads(pickle.dumps(item)).load().mask.shape == SIZE


# What is wrong with a folder


def test_all_faults_are_reported_together(tmp_path):
    save_pairs(tmp_path, [blob(0, 255)] * 12)
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "images" / "c.png").write_bytes(b"not an image")
    (tmp_path / "masks" / "d.png").write_bytes((tmp_path / "masks" / "d.png").read_bytes()[:40])
    save(tmp_path / "masks" / "e.png", np.zeros((5, 6), np.uint8))
    save(tmp_path / "masks" / "f.png", np.dstack([blob(0, 9), blob(), blob()]))
    save(tmp_path / "masks" / "l.png", blob(0, 77))
    cv2.imwrite(str(tmp_path / "masks" / "h.png"), np.full(SIZE, 300, np.uint16))
    (tmp_path / "masks" / "i.png").write_bytes(b"")
    save(tmp_path / "images" / "j.bmp", np.zeros((*SIZE, 3), np.uint8))
    faults = data.check(data.open(tmp_path, labels=("background", "cell")))
    expected = {
        "masks/a.png": "no image",
        "images/b.png": "no mask",
        "images/c.png": "JPEG",
        "masks/d.png": "cut short",
        "e: ": "differ in size, 16x12 against 6x5",
        "masks/f.png": "a colour picture",
        "masks/l.png": "unknown label values 77",
        "masks/h.png": "unknown label values 300 (300 at pixel x=0, y=0)",
        "masks/i.png": "the file is empty",
        "images/j.png": "already has this name",
    }
    for place, reason in expected.items():
        assert any(place in fault and reason in fault for fault in faults), (place, "\n".join(faults))
    assert len(faults) == len(expected)


def test_the_raised_list_is_limited(tmp_path):
    save_pairs(tmp_path, [blob()] * 12)
    for path in list((tmp_path / "images").iterdir())[:11]:
        path.write_bytes(b"")
    with pytest.raises(InputError) as raised:
        data.check_or_raise(data.open(tmp_path), limit=4)
    lines = str(raised.value).splitlines()
    assert lines[0] == "[data] 11 problems to mend before training:"
    assert len(lines) == 6
    assert lines[-1].strip() == "and 7 more"


def test_a_sound_folder_passes(tmp_path):
    save_pairs(tmp_path, [blob()] * 3)
    data.check_or_raise(data.open(tmp_path))


def test_loading_a_pair_of_different_sizes_fails_by_name(tmp_path):
    save_pairs(tmp_path, [blob()] * 2)
    save(tmp_path / "masks" / "a.png", np.zeros((5, 6), np.uint8))
    (item,) = data.open(tmp_path).val
    with pytest.raises(InputError, match="a: image and mask differ in size"):
        item.load()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "is an empty folder"),
        (["notes.txt"], r"none of the known layouts: .*CamVid.*Carvana.*images/"),
        (["images/", "masks/"], "images: no images in it"),
        (["images/a.png"], "expected one folder of masks beside images/, found none"),
        (["images/a.png", "masks/b.png"], "expected one folder of masks"),
    ],
)
def test_a_folder_that_does_not_fit_gets_one_sentence(tmp_path, made, message):
    for name in made:
        if name.endswith(".png"):
            save(tmp_path / name, blob())
        elif name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=message) as raised:
        data.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_wrong_arguments_are_named(tmp_path):
    save_pairs(tmp_path, [blob()])
    with pytest.raises(InputError, match="expected a folder"):
        data.open(tmp_path / "absent")
    with pytest.raises(InputError, match="no format 'foldr'; did you mean 'folder'"):
        data.open(tmp_path, format="foldr")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        data.open(tmp_path, masks="nowhere")
    save_pairs(tmp_path, [blob()], folder="other")
    (tmp_path / "other" / "a.png").rename(tmp_path / "other" / "z.png")
    with pytest.raises(InputError, match="no image has a mask"):
        data.open(tmp_path, masks="other")


# CamVid


def save_camvid(root, classes="id,name,r,g,b,ignore\n0,Sky,128,128,128,0\n4,Void,0,0,0,1\n9,Car,64,0,128,0\n"):
    values = blob(0, 9)
    values[0] = 4
    save_pairs(root, [values] * 6, images="train", folder="trainannot")
    (root / "classes.csv").write_text(classes)


def test_camvid_ids_become_indices_and_ignored_ones_255(tmp_path):
    save_camvid(tmp_path)
    dataset = data.open(tmp_path)
    assert dataset.labels == ("Sky", "Car")
    assert dataset.palette == ((128, 128, 128), (64, 0, 128))
    assert dataset.background is None
    assert (len(dataset.train), len(dataset.val)) == (4, 2)
    found = dataset.train[0].load_mask()
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1:], blob()[1:])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("id,name,r,g,b,ignore\n", "found no class"),
        ("id,name\n0,Sky\n", "line 2: expected id,name,r,g,b,ignore"),
        ("id,name,r,g,b,ignore\n0,Sky,1,2,300,0\n", "line 2: expected"),
    ],
)
def test_a_bad_class_table_is_refused(tmp_path, classes, message):
    save_camvid(tmp_path, classes)
    with pytest.raises(InputError, match=message):
        data.open(tmp_path)


# Carvana


def save_carvana(root: Path, *, as_csv: bool):
    shapes = {}
    for number, car in enumerate("abcdef"):
        for view in (1, 2):
            name = f"{car}_{view:02}"
            shapes[name] = np.roll(blob(), (number, view), axis=(0, 1))
            (root / "train").mkdir(exist_ok=True, parents=True)
            Image.new("RGB", SIZE[::-1]).save(root / "train" / f"{name}.jpg")
            if not as_csv:
                save(root / "train_masks" / f"{name}_mask.gif", shapes[name])
    if as_csv:
        with (root / "train_masks.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["img", "rle_mask"])
            rows.writerows([f"{name}.jpg", mask.to_kaggle(mask.encode(shape))] for name, shape in shapes.items())
    return shapes


@pytest.mark.parametrize("as_csv", [True, False])
def test_carvana_masks_from_files_and_from_run_lengths(tmp_path, as_csv):
    shapes = save_carvana(tmp_path, as_csv=as_csv)
    dataset = data.open(tmp_path, **({"size": SIZE} if as_csv else {}))
    assert dataset.labels == ("background", "car")
    assert names(dataset.val) == ["a_01", "a_02", "f_01", "f_02"]
    for item in (*dataset.train, *dataset.val):
        np.testing.assert_array_equal(item.load().mask, shapes[item.name])
    data.check_or_raise(dataset)


def test_carvana_rows_and_images_that_miss_each_other_are_reported(tmp_path):
    save_carvana(tmp_path, as_csv=True)
    (tmp_path / "train" / "b_01.jpg").unlink()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "train" / "x_01.jpg")
    table = tmp_path / "train_masks.csv"
    table.write_text(table.read_text() + "y_01.jpg,1 2\n")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "train" / "z_01.jpg")
    table.write_text(table.read_text() + "z_01.jpg,1 x\n")
    faults = "\n".join(data.check(data.open(tmp_path, size=SIZE)))
    assert "x_01.jpg: no mask in train_masks.csv" in faults
    assert "b_01.jpg is not in train/" in faults
    assert "y_01.jpg is not in train/" in faults
    assert "z_01.jpg in train_masks.csv: " in faults
    assert len(faults.splitlines()) == 4


def test_a_carvana_table_without_its_columns_is_refused(tmp_path):
    save_carvana(tmp_path, as_csv=True)
    (tmp_path / "train_masks.csv").write_text("image,mask\n")
    with pytest.raises(InputError, match="expected the columns img,rle_mask"):
        data.open(tmp_path)


# Real folders


@pytest.mark.realdata
def test_camvid(data_dir):
    dataset = data.open(data_dir / "camvid")
    assert (len(dataset.train), len(dataset.val), len(dataset.labels)) == (94, 24, 11)
    assert dataset.labels[8] == "Car"
    data.check_or_raise(dataset)
    seen = set().union(*(np.unique(item.load_mask()).tolist() for item in dataset.train))
    assert seen == {*range(11), 255}


@pytest.mark.realdata
def test_nuclei(data_dir):
    dataset = data.open(data_dir / "binary_nuclei")
    assert dataset.labels == ("background", "foreground")
    every = sorted(names([*dataset.train, *dataset.val]))
    assert len(every) == 121
    assert names(dataset.val) == every[::5]
    data.check_or_raise(dataset)
    sample = dataset.val[0].load()
    stored = cv2.imread(str(data_dir / "binary_nuclei" / "masks_union" / f"{sample.name}.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sample.mask, stored > 0)


@pytest.mark.realdata
def test_voc_palette_masks(data_dir, tmp_path):
    (tmp_path / "images").symlink_to(data_dir / "voc" / "JPEGImages")
    (tmp_path / "masks").symlink_to(data_dir / "voc" / "SegmentationClass")
    dataset = data.open(tmp_path)
    data.check_or_raise(dataset)
    assert 2 < len(dataset.labels) <= 21
