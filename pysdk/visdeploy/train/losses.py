"""Segmentation losses on logits; pixels with the ignore index count for nothing."""

import torch
from torch import Tensor
from torch.nn import functional

from visdeploy.data.dataset import IGNORE_INDEX


def binary_loss(logits: Tensor, target: Tensor, *, pos_weight: float = 1.0, dice: float = 0.0) -> Tensor:
    """Binary cross-entropy, plus `dice` times the Dice loss.

    Args:
        logits: (B, 1, H, W) float32.
        target: (B, H, W) int64 of 0, 1 and `IGNORE_INDEX`.
        pos_weight: Factor on foreground pixels.
        dice: Weight of the Dice loss.
    """
    keep = target != IGNORE_INDEX
    truth = (target == 1).float()
    flat = logits[:, 0]
    weight = flat.new_tensor(pos_weight)
    pixelwise = functional.binary_cross_entropy_with_logits(flat, truth, pos_weight=weight, reduction="none")
    loss = (pixelwise * keep).sum() / keep.sum().clamp(min=1)
    if dice:
        loss = loss + dice * dice_loss(torch.sigmoid(flat)[:, None], truth[:, None], keep[:, None])
    return loss


def multiclass_loss(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, dice: float = 0.0
) -> Tensor:
    """Cross-entropy, plus `dice` times the Dice loss averaged over the classes present.

    Args:
        logits: (B, C, H, W) float32.
        target: (B, H, W) int64 of class indices and `IGNORE_INDEX`.
        class_weights: (C,) float32.
        dice: Weight of the Dice loss.
    """
    keep = target != IGNORE_INDEX
    summed = functional.cross_entropy(logits, target, class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    mass = keep.sum() if class_weights is None else class_weights[target[keep]].sum()
    loss = summed / mass.clamp(min=1e-6)
    if dice:
        classes = torch.arange(logits.shape[1], device=target.device)
        truth = (target[:, None] == classes[None, :, None, None]).float()
        loss = loss + dice * dice_loss(torch.softmax(logits, dim=1), truth, keep[:, None])
    return loss


def dice_loss(probability: Tensor, truth: Tensor, keep: Tensor) -> Tensor:
    """Return 1 - Dice, averaged over the classes that occur in the batch.

    Args:
        probability: (B, C, H, W) float32.
        truth: (B, C, H, W) float32 of 0 and 1.
        keep: (B, 1, H, W) bool, False where a pixel does not count.
    """
    axes = (0, 2, 3)
    probability = probability * keep
    overlap = (probability * truth).sum(axes)
    size = probability.sum(axes) + (truth * keep).sum(axes)
    present = (truth * keep).sum(axes) > 0
    dice = (2 * overlap + 1) / (size + 1)
    return 1 - dice[present].mean() if bool(present.any()) else probability.sum() * 0
