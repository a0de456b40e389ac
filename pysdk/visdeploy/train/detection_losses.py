"""What a detector is trained on: which anchors stand for what, and how far its answers are from that."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from visdeploy import ops

BoxLoss = Literal["smooth_l1", "l1"]
ClassLoss = Literal["mining", "focal"]

LEFT_OUT = -1
"""The class of an anchor that neither rewards nor punishes."""

NEGATIVES = 3
"""Background anchors that mining takes for each anchor of an object, as SSD does."""

OVERLAP = 0.5
"""IoU from which an anchor stands for an object, in `ops.multibox_target`."""


def targets(truth: Tensor, anchors: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Say what every anchor should answer.

    Args:
        truth: (B, M, 6) float32 rows of class, x1, y1, x2, y2 and whether the object is ignored; class -1 pads.
        anchors: (N, 4) float32 in the unit of the boxes.

    Returns:
        Offsets (B, N, 4) float32, and classes (B, N) int64: 0 is background, `LEFT_OUT` an anchor that shows an ignored
        object and no other.
    """
    host = truth.cpu()
    ignored = host[..., 5] > 0
    rows = host[..., :5].masked_fill(ignored[..., None], -1.0)
    rows[..., 0] -= 1  # the op counts classes without the background
    offsets, _, classes = ops.multibox_target(anchors, rows.numpy())
    for image in ignored.any(1).nonzero()[:, 0].tolist():
        hidden = ops.box_iou(anchors, host[image, ignored[image], 1:5].numpy()).max(1) >= OVERLAP
        classes[image, hidden & (classes[image] == 0)] = LEFT_OUT
    shape = (*classes.shape, 4)
    return torch.from_numpy(offsets).reshape(shape).to(truth.device), torch.from_numpy(classes).to(truth.device)


def detection_loss(
    answer: Tensor,
    offsets: Tensor,
    classes: Tensor,
    *,
    box_loss: BoxLoss = "smooth_l1",
    class_loss: ClassLoss = "mining",
    gamma: float = 2.0,
    alpha: float = 0.25,
) -> Tensor:
    """Return the loss of boxes plus that of classes, both divided by the number of anchors that show an object.

    Args:
        answer: (B, N, C + 4) float32, the class logits, the background's first, then dx, dy, dw, dh.
        offsets: (B, N, 4) float32 that the anchors of objects should answer.
        classes: (B, N) int64 as `targets` returns them.
        box_loss: "smooth_l1" (quadratic below 1) or "l1".
        class_loss: "mining" is cross-entropy over the anchors of objects and, in each image, the `NEGATIVES` times as
            many background anchors that are worst; "focal" weighs the cross-entropy of every anchor.
        gamma: Focal loss: how much less an anchor counts whose class is already probable.
        alpha: Focal loss: weight of objects; the background has one minus that.
    """
    logits, predicted = answer[..., :-4], answer[..., -4:]
    positive = classes > 0
    distance = functional.smooth_l1_loss if box_loss == "smooth_l1" else functional.l1_loss
    boxes = distance(predicted[positive], offsets[positive], reduction="sum")
    entropy = functional.cross_entropy(logits.transpose(1, 2), classes, ignore_index=LEFT_OUT, reduction="none")
    if class_loss == "focal":
        weight = torch.where(positive, alpha, 1 - alpha)
        labels = (weight * (1 - torch.exp(-entropy)) ** gamma * entropy).sum()
    else:
        labels = entropy[positive].sum() + _hardest(entropy, classes).sum()
    return (boxes + labels) / positive.sum().clamp(min=1)


def _hardest(entropy: Tensor, classes: Tensor) -> Tensor:
    """Return the largest values of the background anchors, `NEGATIVES` in each image for each anchor of an object."""
    wanted = NEGATIVES * (classes > 0).sum(1, keepdim=True)
    most = min(int(wanted.max()), entropy.shape[1])
    worst, index = entropy.detach().masked_fill(classes != 0, -torch.inf).topk(most, dim=1)
    # What is not finite but for that filling must reach the loss, where it is noticed.
    taken = (torch.arange(most, device=entropy.device) < wanted) & (worst != -torch.inf)
    return entropy.gather(1, index)[taken]
