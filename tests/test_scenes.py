"""Generated scenes: deterministic, exact, varied."""

import subprocess
import sys

import numpy as np
import pytest

from visdeploy import data, image
from visdeploy.data.scenes import KINDS, LABELS, draw_scene, scenes, write_scenes

SMALL = (96, 128)


def test_a_scene_is_the_same_in_another_process():
    code = (
        "import hashlib; from visdeploy.data.scenes import draw_scene; s = draw_scene(3, size=(96, 128), seed=7);"
        "print(hashlib.sha256(s.image.tobytes() + s.mask.tobytes() + s.objects.xyxy.tobytes()).hexdigest())"
    )
    prints = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(prints) == 1
    assert len(prints.pop().strip()) == 64


def test_seed_and_index_change_the_picture():
    pictures = [draw_scene(0, size=SMALL), draw_scene(1, size=SMALL), draw_scene(0, size=SMALL, seed=1)]
    assert len({picture.image.tobytes() for picture in pictures}) == 3


@pytest.mark.parametrize("index", range(12))
def test_mask_and_boxes_describe_the_same_vehicles(index):
    sample = draw_scene(index, size=SMALL)
    assert sample.image.shape == (*SMALL, 3)
    assert sample.image.dtype == sample.mask.dtype == np.uint8
    assert set(np.unique(sample.mask)) <= {0, 1}
    assert sample.objects.xyxy.dtype == np.float32
    covered = np.zeros(SMALL, bool)
    for x1, y1, x2, y2 in sample.objects.xyxy.astype(int):
        assert 0 <= x1 < x2 <= SMALL[1]
        assert 0 <= y1 < y2 <= SMALL[0]
        window = sample.mask[y1:y2, x1:x2]
        assert window[0].any() and window[-1].any() and window[:, 0].any() and window[:, -1].any()  # noqa: PT018
        covered[y1:y2, x1:x2] = True
    assert not (sample.mask.astype(bool) & ~covered).any()


def test_most_scenes_hold_vehicles_that_overlap_or_stand_apart():
    counts = [len(draw_scene(index, size=SMALL).objects.xyxy) for index in range(20)]
    assert sum(count > 0 for count in counts) >= 18
    assert len(set(counts)) >= 4


def test_a_vehicle_differs_from_what_lies_behind_it():
    """A mask drawn anywhere else than the vehicles would fail this."""
    contrasts = []
    for index in range(10):
        sample = draw_scene(index, size=SMALL)
        inside, outside = sample.image[sample.mask == 1], sample.image[sample.mask == 0]
        contrasts.append(np.abs(inside.mean(0) - outside.mean(0)).max())
    assert np.mean(contrasts) > 20


def test_the_written_folder_opens_as_any_other(tmp_path):
    write_scenes(tmp_path, 6, size=SMALL, seed=2)
    dataset = data.open(tmp_path)
    assert dataset.labels == LABELS
    assert (len(dataset.train), len(dataset.val)) == (4, 2)
    data.check_or_raise(dataset)
    sample = dataset.val[0].load()
    drawn = draw_scene(0, size=SMALL, seed=2)
    assert np.array_equal(sample.mask, drawn.mask)
    assert np.abs(sample.image.astype(int) - drawn.image).mean() < 10
    assert image.decode(tmp_path / "images" / "scene00000.jpg").shape == (*SMALL, 3)


def test_the_written_boxes_are_those_drawn(tmp_path):
    write_scenes(tmp_path, 6, size=SMALL, seed=2)
    dataset = data.open(tmp_path, task="detection")
    assert dataset.labels == KINDS
    data.check_or_raise(dataset)
    assert len(dataset.val) == 2
    for item in (*dataset.train, *dataset.val):
        drawn = draw_scene(int(item.name.removeprefix("scene")), size=SMALL, seed=2).objects
        found = item.load().objects
        assert np.array_equal(found.xyxy, drawn.xyxy)
        assert np.array_equal(found.labels, drawn.labels)


def test_every_kind_of_vehicle_is_drawn_and_long_ones_are_larger():
    sizes = {kind: [] for kind in range(1, len(KINDS))}
    for index in range(16):
        objects = draw_scene(index, size=SMALL).objects
        for (x1, y1, x2, y2), kind in zip(objects.xyxy, objects.labels, strict=True):
            sizes[kind].append((x2 - x1) * (y2 - y1))
    assert all(sizes.values())
    assert np.median(sizes[KINDS.index("bus")]) > 1.5 * np.median(sizes[KINDS.index("car")])


@pytest.mark.parametrize("task", ["segmentation", "detection", "localization", "classification"])
def test_scenes_are_drawn_when_loaded(task):
    dataset = scenes(10, size=SMALL, task=task)
    sample = dataset.val[1].load()
    assert sample.name == "scene00005"
    assert (sample.mask is not None) == (task == "segmentation")
    assert (sample.objects is not None) == (task != "segmentation")
    assert (sample.label is not None) == (task in ("localization", "classification"))
    assert dataset.labels == {"segmentation": LABELS, "detection": KINDS}.get(task, KINDS[1:])
