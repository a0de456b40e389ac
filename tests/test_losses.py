"""Losses against torch's own and against the definition; ignored pixels count for nothing."""

import pytest
import torch
from torch.nn import functional

from visdeploy.train.losses import binary_loss, dice_loss, multiclass_loss


def test_binary_loss_is_bce_over_the_labelled_pixels():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 5, 7), torch.randint(0, 2, (2, 5, 7))
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], target.float(), pos_weight=torch.tensor(3.0))
    torch.testing.assert_close(binary_loss(logits, target, pos_weight=3.0), expected)
    target[0] = 255
    expected = functional.binary_cross_entropy_with_logits(logits[1:, 0], target[1:].float())
    torch.testing.assert_close(binary_loss(logits, target), expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 4.0])])
def test_multiclass_loss_is_weighted_cross_entropy(weights):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 5, 7))
    target[0, 2:] = 255
    expected = functional.cross_entropy(logits, target, weights, ignore_index=255)
    torch.testing.assert_close(multiclass_loss(logits, target, class_weights=weights), expected)


def test_nothing_labelled_is_a_finite_loss_with_a_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = multiclass_loss(logits, torch.full((1, 4, 4), 255), dice=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_dice_loss_by_hand():
    probability = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    truth = torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]])
    keep = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    assert dice_loss(probability, truth, keep).item() == pytest.approx(1 - (2 * 1 + 1) / (4 + 1))
    keep[..., 1] = False
    assert dice_loss(probability, truth, keep).item() == pytest.approx(1 - (2 * 1 + 1) / (3 + 1))
