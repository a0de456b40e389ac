"""Pictures to restore: what is done to them, which pairs are found, and what is said of those that are none."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from visdeploy import data
from visdeploy.cli.options import open_data
from visdeploy.data import Degrade
from visdeploy.errors import InputError
from visdeploy.image import write

ALL = Degrade(scale=2, jpeg=(20, 70), text=True, gray=True, holes=True)


def photo(height=48, width=64, seed=0):
    """Smooth, as photographs mostly are."""
    rough = np.random.default_rng(seed).integers(40, 200, (6, 8, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, picture)


def save_all(folder, stems, suffix="png", size=(48, 64)):
    for seed, stem in enumerate(stems):
        save(folder / f"{stem}.{suffix}", photo(*size, seed=seed))


def restore(root, **options):
    return data.open(root, task="restoration", **options)


def names(items):
    return [item.name for item in items]


# What is done to a picture


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_small_pixel_is_the_mean_of_a_square(scale):
    picture = photo(47, 65)
    small = Degrade(scale=scale)(picture, 0)
    height, width = 47 // scale, 65 // scale
    squares = picture[: height * scale, : width * scale].reshape(height, scale, width, scale, 3)
    assert small.shape == (height, width, 3)
    assert np.abs(small - squares.mean((1, 3))).max() <= 0.5
    area = cv2.resize(picture[: height * scale, : width * scale], (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - area).max() <= 1


@pytest.mark.parametrize("how", [{"text": True}, {"holes": True}, {"jpeg": (5, 90)}, {"text": True, "jpeg": (9, 9)}])
def test_what_is_drawn_by_lot_depends_on_the_seed_alone(how):
    picture = photo(96, 128)
    before = picture.copy()
    degrade = Degrade(**how)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: degrade(picture, seed), [7] * 8 + list(range(10, 16))))
    assert all(np.array_equal(one, found[0]) for one in found[:8])
    assert len({one.tobytes() for one in found}) == 7 or how == {"text": True, "jpeg": (9, 9)}
    np.testing.assert_array_equal(picture, before)
    assert all(one.shape == picture.shape and one.flags.c_contiguous for one in found)


def test_holes_are_white_and_leave_the_rest_alone():
    picture = photo(256, 256)
    worse = Degrade(holes=True)(picture, 3)
    changed = (worse != picture).any(2)
    assert (worse[changed] == 255).all()
    assert 0.002 < changed.mean() < 0.2


def test_text_leaves_most_of_the_picture_alone():
    picture = photo(256, 256)
    shares = [(Degrade(text=True)(picture, seed) != picture).any(2).mean() for seed in range(8)]
    assert 0.001 < np.mean(shares) < 0.2
    tiny = photo(24, 24)
    assert all((Degrade(text=True)(tiny, seed) != tiny).any() for seed in range(50))


def test_a_crop_is_hurt_as_much_as_a_whole_photograph():
    large, small = photo(512, 512), photo(128, 128)
    for how in (Degrade(text=True), Degrade(holes=True)):
        one = np.mean([(how(large, seed) != large).any(2).mean() for seed in range(10)])
        many = np.mean([(how(small, seed) != small).any(2).mean() for seed in range(60)])
        assert 0.5 < one / many < 2


@pytest.mark.parametrize("how", [Degrade(text=True), Degrade(holes=True)])
def test_all_edges_are_hurt(how):
    picture = photo(128, 128)
    changed = np.mean([(how(picture, seed) != picture).any(2) for seed in range(300)], 0)
    middle = changed[32:-32, 32:-32].mean()
    for edge in (changed[:16], changed[-16:], changed[:, :16], changed[:, -16:]):
        assert 0.4 < edge.mean() / middle < 1.5


def test_gray_is_luma_in_three_channels_whatever_else_is_done():
    picture = photo()
    gray = Degrade(gray=True)(picture, 0)
    assert np.abs(gray - picture @ [[0.299], [0.587], [0.114]]).max() < 1
    for seed in range(5):
        every = ALL(photo(128, 128), seed)
        assert (every == every[..., :1]).all()


def test_lower_quality_is_farther_from_the_picture():
    picture = photo(128, 128) // 2 + np.random.default_rng(1).integers(0, 99, (128, 128, 3), np.uint8)
    good, bad = (Degrade(jpeg=(quality, quality))(picture, 0).astype(int) for quality in (95, 10))
    assert np.abs(good - picture).mean() < np.abs(bad - picture).mean()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": 0}, "scale: expected a whole number from 1 to 8, got 0"),
        ({"scale": 1.5}, "scale: expected a whole number"),
        ({"jpeg": (70, 20)}, r"jpeg: expected the lowest quality, then the highest, .* got \(70, 20\)"),
        ({"jpeg": 30}, "jpeg: expected"),
        ({"jpeg": "20,70"}, "jpeg: expected"),
        ({"text": "hello"}, "text: expected True or False, got 'hello'"),
        ({}, "expected something to do"),
    ],
)
def test_wrong_arguments_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Degrade(**wrong)


def test_a_picture_that_is_none_or_too_small_is_refused():
    with pytest.raises(InputError, match=r"expected uint8 \(H, W, 3\), got float64"):
        Degrade(gray=True)(np.zeros((4, 4, 3)), 0)
    with pytest.raises(InputError, match=r"expected uint8 \(H, W, 3\), got int64"):
        Degrade(gray=True)([[1]], 0)
    with pytest.raises(InputError, match="at least 4x4 pixels for scale 4, got 9x3"):
        Degrade(scale=4)(np.zeros((3, 9, 3), np.uint8), 0)


def test_a_command_line_says_it_in_parts():
    assert Degrade.parse(["scale=2", "jpeg=20,70", "text", "gray", "holes"]) == ALL
    assert Degrade.parse(["jpeg=30"]) == Degrade(jpeg=(30, 30))
    for wrong in (
        "scale",
        "scale=2,3",
        "scale=-2",
        "jpeg=",
        "jpeg=1,2,3",
        "jpeg=a",
        "text=1",
        "blur",
        "",
        "parse",
        "scale=" + 5000 * "9",
    ):
        with pytest.raises(InputError, match="--degrade: expected scale=2, jpeg=20,70, text, gray or holes, got"):
            Degrade.parse([wrong])
    with pytest.raises(InputError, match="scale once, got it twice"):
        Degrade.parse(["scale=2", "scale=3"])


# Photographs


def test_bad_pictures_are_the_same_in_every_run(tmp_path):
    save_all(tmp_path, "abcdef", size=(49, 65))
    dataset = restore(tmp_path, degrade=ALL)
    assert (dataset.labels, dataset.palette, dataset.enlarge, dataset.degrade) == ((), (), 2, ALL)
    assert names(dataset.val) == ["a", "f"]
    assert data.check(dataset) == []
    again = pickle.loads(pickle.dumps(restore(tmp_path, degrade=ALL)))
    for one, other in zip(dataset.val, again.val, strict=True):
        sample = one.load()
        np.testing.assert_array_equal(sample.image, other.load_image())
        assert (sample.image.shape, sample.target.shape) == ((24, 32, 3), (48, 64, 3))
        np.testing.assert_array_equal(sample.target, cv2.imread(str(one.image_path))[:48, :64, ::-1])


@pytest.mark.parametrize("inside", ["", "images/", "JPEGImages/"])
@pytest.mark.parametrize("year", ["", "2017"])
def test_train_and_val_are_the_split_wherever_they_are(tmp_path, inside, year):
    save_all(tmp_path / f"{inside}train{year}" / "deeper", "abc", "jpg")
    save_all(tmp_path / f"{inside}val{year}", "de", "jpg")
    save_all(tmp_path / f"{inside}test{year}", "g", "jpg")
    dataset = restore(tmp_path, degrade=Degrade(gray=True))
    assert names(dataset.train) == ["deeper/a", "deeper/b", "deeper/c"]
    assert names(dataset.val) == ["d", "e"]


def test_only_what_is_in_images_counts(tmp_path):
    save_all(tmp_path / "images", "ab")
    save_all(tmp_path / "masks", "ab")
    save_all(tmp_path / "train" / "images", "cd")
    (tmp_path / "images" / ".cache").mkdir()
    save_all(tmp_path / "images" / ".cache", "x")
    assert names(restore(tmp_path, degrade=ALL).train) == ["b"]


def test_a_name_that_is_there_twice_is_left_out_and_noted(tmp_path):
    save_all(tmp_path, "ab")
    save_all(tmp_path, "a", "webp")
    dataset = restore(tmp_path, degrade=ALL)
    assert names([*dataset.train, *dataset.val]) == ["b", "a"]
    assert dataset.notes == (f"{tmp_path / 'a.webp'} is left out: a.png already has this name",)


def test_unreadable_and_tiny_photographs_are_all_named(tmp_path):
    save_all(tmp_path, "abc")
    (tmp_path / "b.png").write_bytes(b"no picture")
    save(tmp_path / "c.png", photo(3, 3))
    faults = data.check(restore(tmp_path, degrade=Degrade(scale=4)))
    assert len(faults) == 2
    assert any("b.png: expected a JPEG, PNG" in fault for fault in faults)
    assert any("c.png: [degrade] picture: expected at least 4x4" in fault for fault in faults)


def test_photographs_win_for_no_other_task(tmp_path):
    save_all(tmp_path, "ab")
    for task in (None, "segmentation", "detection", "classification"):
        with pytest.raises(InputError):
            data.open(tmp_path, task=task)
    assert data.open(tmp_path, degrade=ALL).degrade == ALL
    assert data.open(tmp_path, format="photos", degrade=ALL).degrade == ALL
    with pytest.raises(InputError, match="'photos' is for restoration, not for segmentation"):
        data.open(tmp_path, format="photos", task="segmentation")


# Pairs


def save_pairs(root, times=2, stems="abcdef"):
    save_all(root / "images", stems, "jpg", (24, 32))
    save_all(root / "clean", stems, "png", (24 * times, 32 * times))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_pairs_of_one_name_are_found_with_how_much_larger_the_clean_ones_are(tmp_path, times):
    save_pairs(tmp_path, times)
    dataset = restore(tmp_path, clean="clean")
    assert (dataset.enlarge, dataset.degrade, names(dataset.val)) == (times, None, ["a", "f"])
    assert data.check(dataset) == []
    sample = dataset.train[0].load()
    np.testing.assert_array_equal(sample.target, photo(24 * times, 32 * times, seed=1))


@pytest.mark.parametrize("where", ["{part}/{folder}", "{folder}/{part}"])
def test_pairs_have_a_split_inside_or_around(tmp_path, where):
    for part, stems in (("train", "abc"), ("val", "de")):
        for folder, size in (("low", (24, 32)), ("high", (48, 64))):
            save_all(tmp_path / where.format(part=part, folder=folder), stems, size=size)
    dataset = restore(tmp_path, images="low", clean="high")
    assert (names(dataset.train), names(dataset.val), dataset.enlarge) == (["a", "b", "c"], ["d", "e"], 2)


def test_every_mismatch_of_pairs_is_named(tmp_path):
    save_pairs(tmp_path, 2)
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "clean" / "b.png").unlink()
    save(tmp_path / "clean" / "c.png", photo(48, 63))
    save(tmp_path / "clean" / "d.png", photo(24, 32))
    (tmp_path / "clean" / "e.png").write_bytes(b"")
    save_all(tmp_path / "images", "gh", size=(24, 32))
    save_all(tmp_path / "clean", "gh", size=(48, 64))
    faults = data.check(restore(tmp_path, clean="clean"))
    assert sorted(faults) == sorted(
        [
            f"{tmp_path / 'clean' / 'a.png'}: no bad picture in {tmp_path / 'images'}",
            f"{tmp_path / 'images' / 'b.jpg'}: no clean picture in {tmp_path / 'clean'}",
            "c: the clean picture is 63x48, expected 64x48, 2 times the bad one (width x height)",
            "d: the clean picture is 32x24, expected 64x48, 2 times the bad one (width x height)",
            f"[decode] {tmp_path / 'clean' / 'e.png'}: the file is empty",
        ]
    )


@pytest.mark.parametrize("seed", [-1, None, 0.5])
def test_a_seed_is_a_whole_number_from_0(seed):
    with pytest.raises(InputError, match="seed: expected a whole number from 0, got"):
        Degrade(gray=True)(np.zeros((8, 8, 3), np.uint8), seed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either say what makes bad pictures.*--degrade scale=2.*--clean FOLDER.*got neither"),
        ({"clean": "clean", "degrade": ALL}, "got both"),
        ({"degrade": "scale=2"}, r"degrade: expected Degrade \| None, got 'scale=2'"),
        ({"clean": "sharp"}, "sharp: no such folder of clean pictures"),
        ({"clean": "images"}, "expected the bad pictures in images/ beside"),
        ({"clean": "odd"}, "expected clean pictures of the size of the bad ones, or a whole multiple .* not one of 2"),
        ({"clean": "others"}, "none of its 6 pictures has its name in .*others"),
        ({"clean": "empty"}, "empty: no images in it"),
        ({"images": "absent", "degrade": ALL}, "absent: no such folder"),
        ({"masks": "clean", "degrade": ALL}, "masks: the format 'photos', which .* has, takes degrade, clean, images"),
    ],
)
def test_what_cannot_be_restored_is_said_in_one_sentence(tmp_path, options, said):
    save_pairs(tmp_path)
    save_all(tmp_path / "odd", "ab", size=(30, 32))
    save_all(tmp_path / "others", "xy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=said):
        restore(tmp_path, **options)


def test_the_command_line_says_how_to_give_either(tmp_path):
    save_pairs(tmp_path)
    assert open_data(tmp_path, "auto", None, "restoration", clean="clean").enlarge == 2
    assert open_data(tmp_path, "auto", None, "restoration", degrade=["scale=3", "text"]).degrade == Degrade(
        3, text=True
    )
    with pytest.raises(InputError, match="--degrade scale=2"):
        open_data(tmp_path, "auto", None, "restoration")
    with pytest.raises(InputError, match="--degrade goes with the task restoration, got segmentation"):
        open_data(tmp_path, "auto", None, "segmentation", degrade=["text"])
    with pytest.raises(InputError, match="--clean goes with the task restoration, got detection"):
        open_data(tmp_path, "auto", None, "detection", clean="clean")


@pytest.mark.realdata
def test_photographs_of_coco(data_dir):
    dataset = restore(data_dir / "coco", degrade=Degrade(scale=2, jpeg=(20, 70)))
    assert (len(dataset.train), len(dataset.val)) == (55, 49)
    sample = dataset.val[0].load()
    larger = cv2.resize(sample.image, sample.target.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert 20 < cv2.PSNR(larger, sample.target) < 40
