"""Augmentation: image and mask move together, and what comes from outside carries no label."""

import numpy as np
import torch

from visdeploy.data.augment import Augment


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square whose mask is the square."""
    image = torch.full((3, 64, 96), 20, dtype=torch.uint8)
    mask = torch.zeros(64, 96, dtype=torch.uint8)
    image[:, 20:44, 10:40] = 220
    mask[20:44, 10:40] = 1
    return image, mask


def test_shapes_types_and_plain_tensors():
    image, mask = Augment()(*pair())
    assert type(image) is type(mask) is torch.Tensor
    assert image.shape == (3, 64, 96)
    assert mask.shape == (64, 96)
    assert image.dtype == mask.dtype == torch.uint8


def test_the_mask_follows_the_image():
    augment = Augment(rotate=15.0, scale=(0.7, 1.5), lighting=0.0)
    for seed in range(30):
        torch.manual_seed(seed)
        image, mask = augment(*pair())
        bright, square = (image[0] > 120).numpy(), (mask == 1).numpy()
        union = (bright | square).sum()
        assert union == 0 or (bright & square).sum() / union > 0.85


def test_pixels_from_outside_are_ignored():
    torch.manual_seed(0)
    image, mask = Augment(flip=False, scale=(0.5, 0.5), lighting=0.0)(*pair())
    outside = (mask == 255).numpy()
    assert outside.mean() > 0.5
    assert image.numpy()[:, outside].mean() < 5
    assert set(np.unique(mask)) <= {0, 1, 255}


def test_one_seed_gives_one_view_and_others_differ():
    augment = Augment()
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(augment(*pair())[0])
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_everything_off_changes_nothing():
    image, mask = pair()
    same_image, same_mask = Augment(flip=False, rotate=0.0, scale=(1.0, 1.0), shift=0.0, lighting=0.0)(image, mask)
    assert torch.equal(image, same_image)
    assert torch.equal(mask, same_mask)


def test_the_callers_tensors_are_untouched():
    image, mask = pair()
    before = image.clone(), mask.clone()
    torch.manual_seed(3)
    Augment()(image, mask)
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])
