"""Augmentation of boxes: every box frames its object in the new view, and no object that is seen loses its box."""

import numpy as np
import pytest
import torch

from visdeploy.data.augment import AugmentBoxes

SIZE = (80, 120)
OBJECTS = ((12, 8, 44, 30), (60, 40, 75, 70), (90, 5, 112, 25))


def picture() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three rectangles, red, green and blue; the label of each is its channel."""
    image = torch.full((3, *SIZE), 10, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(OBJECTS):
        image[channel, y1:y2, x1:x2] = 250
    return image, torch.tensor(OBJECTS).float(), torch.arange(3)


def frame(image: torch.Tensor, channel: int) -> tuple[np.ndarray | None, int]:
    """The corners of what is bright in a channel, and its pixels."""
    rows, columns = np.nonzero(image[channel].numpy() > 130)
    if not len(rows):
        return None, 0
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]), len(rows)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


@pytest.mark.parametrize(
    "options",
    [
        {"flip": True, "upside_down": True, "scale": (1.0, 1.0), "aspect": 1.0},
        {"flip": False, "scale": (0.5, 1.0)},
        {"flip": False, "scale": (1.0, 2.5), "aspect": 1.5},
        {"upside_down": True, "scale": (0.6, 2.0), "aspect": 1.3},
    ],
)
def test_a_box_frames_what_is_seen_of_its_object(options):
    augment = AugmentBoxes(lighting=0.0, **options)
    compared = 0
    for seed in range(40):
        torch.manual_seed(seed)
        image, boxes, labels = augment(*picture())
        assert len(boxes) == len(labels) > 0
        for box, channel in zip(boxes.numpy(), labels.tolist(), strict=True):
            seen, pixels = frame(image, channel)
            compared += 1
            assert pixels
            assert np.abs(box - seen).max() < 1.01, (seed, channel, box, seen)
    assert compared > 60


def test_only_what_is_mostly_gone_loses_its_box():
    augment = AugmentBoxes(scale=(2.0, 2.0), aspect=1.0, lighting=0.0, min_visible=0.5)
    shares = {True: [], False: []}
    for seed in range(30):
        torch.manual_seed(seed)
        image, _, labels = augment(*picture())
        for channel, (x1, y1, x2, y2) in enumerate(OBJECTS):
            shares[channel in labels].append(frame(image, channel)[1] / (4 * (x2 - x1) * (y2 - y1)))
    assert min(shares[True]) > 0.46
    assert max(shares[False]) < 0.54
    assert min(map(len, shares.values())) > 20


def test_a_round_object_keeps_its_frame_when_turned():
    yy, xx = np.mgrid[:120, :120]
    disc = ((xx - 50) / 24) ** 2 + ((yy - 66) / 12) ** 2 < 1
    image = torch.from_numpy(np.repeat(np.where(disc, 250, 10).astype(np.uint8)[None], 3, axis=0))
    rows, columns = np.nonzero(disc)
    box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
    augment = AugmentBoxes(rotate=40.0, scale=(1.0, 1.0), aspect=1.0, lighting=0.0)
    for seed in range(20):
        torch.manual_seed(seed)
        view, boxes, _ = augment(image, box, torch.ones(1))
        assert iou(boxes[0].numpy(), frame(view, 0)[0]) > 0.85


def test_everything_off_changes_nothing():
    before = picture()
    after = AugmentBoxes(flip=False, scale=(1.0, 1.0), aspect=1.0, lighting=0.0)(*before)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_shapes_types_and_no_boxes():
    image, boxes, labels = AugmentBoxes()(picture()[0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert image.shape == (3, *SIZE)
    assert image.dtype == torch.uint8
    assert boxes.shape == (0, 4)
    assert boxes.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_a_view_never_loses_every_object():
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    for seed in range(50):
        torch.manual_seed(seed)
        _, boxes, _ = AugmentBoxes(scale=(4.0, 6.0))(image, torch.tensor([[2.0, 2.0, 6.0, 6.0]]), torch.ones(1))
        assert len(boxes) == 1


def test_light_changes_colours_and_no_box():
    before = picture()
    before[0][0] += 20
    augment = AugmentBoxes(flip=False, scale=(1.0, 1.0), aspect=1.0, lighting=0.3)
    torch.manual_seed(1)
    image, boxes, _ = augment(*before)
    assert not torch.equal(image, before[0])
    assert torch.equal(boxes, before[1])
    colours = image.permute(1, 2, 0).reshape(-1, 3)
    assert len(torch.unique(colours, dim=0)) == len(OBJECTS) + 1


def test_one_seed_gives_one_view_and_the_callers_tensors_are_untouched():
    before, kept = picture(), picture()
    views = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        views.append(AugmentBoxes()(*before))
    assert all(torch.equal(a, b) for a, b in zip(views[0], views[1], strict=True))
    assert not torch.equal(views[0][0], views[2][0])
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
