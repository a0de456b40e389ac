"""The losses of a detector against loops over anchors, and against torchvision's SSD."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from visdeploy.train.detection_losses import LEFT_OUT, NEGATIVES, detection_loss, targets

ANCHORS = np.array(
    [[x, y, x + side, y + side] for side in (8, 16, 24) for y in range(0, 48, 6) for x in range(0, 48, 6)], np.float32
)
TRUTH = torch.tensor(
    [
        [[1, 2, 3, 12, 11, 0], [2, 20, 18, 41, 40, 0], [2, 30, 2, 45, 20, 0]],
        [[2, 5, 5, 30, 27, 0], [-1] * 6, [-1] * 6],
        [[-1] * 6, [-1] * 6, [-1] * 6],
    ],
    dtype=torch.float32,
)


def answers(classes: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, len(ANCHORS), classes + 4, generator=generator).requires_grad_()


def by_hand(answer, offsets, classes, box_loss, class_loss, gamma=2.0, alpha=0.25) -> float:
    boxes = labels = positives = 0.0
    for image in range(len(answer)):
        negatives = []
        for anchor, label in enumerate(classes[image].tolist()):
            row = answer[image, anchor].tolist()
            if label == LEFT_OUT:
                continue
            exponentials = [math.exp(value) for value in row[:-4]]
            probability = exponentials[label] / sum(exponentials)
            entropy = -math.log(probability)
            if class_loss == "focal":
                labels += (alpha if label else 1 - alpha) * (1 - probability) ** gamma * entropy
            elif label:
                labels += entropy
            else:
                negatives.append(entropy)
            if label:
                positives += 1
                for got, wanted in zip(row[-4:], offsets[image, anchor].tolist(), strict=True):
                    miss = abs(got - wanted)
                    boxes += miss if box_loss == "l1" or miss >= 1 else 0
                    boxes += 0.5 * miss * miss if box_loss == "smooth_l1" and miss < 1 else 0
                    boxes -= 0.5 if box_loss == "smooth_l1" and miss >= 1 else 0
        wanted_negatives = NEGATIVES * int((classes[image] > 0).sum())
        labels += sum(sorted(negatives, reverse=True)[:wanted_negatives])
    return (boxes + labels) / max(1.0, positives)


@pytest.mark.parametrize("box_loss", ["smooth_l1", "l1"])
@pytest.mark.parametrize("class_loss", ["mining", "focal"])
def test_it_is_the_sum_over_anchors(box_loss, class_loss):
    truth = TRUTH.clone()
    truth[0, 1, 5] = 1
    offsets, classes = targets(truth, ANCHORS)
    assert (classes == LEFT_OUT).any()
    loss = detection_loss(answers(), offsets, classes, box_loss=box_loss, class_loss=class_loss)
    assert loss.item() == pytest.approx(by_hand(answers(), offsets, classes, box_loss, class_loss), rel=1e-5)


def test_it_is_that_of_torchvision():
    from torchvision.models.detection import ssd

    answer = answers()
    offsets, classes = targets(TRUTH, ANCHORS)
    net = ssd.SSD.__new__(ssd.SSD)
    torch.nn.Module.__init__(net)
    net.box_coder, net.neg_to_pos_ratio = ssd.det_utils.BoxCoder((10.0, 10.0, 5.0, 5.0)), NEGATIVES
    boxes, matched, found = [], [], []
    for image, rows in enumerate(TRUTH):
        rows = rows[rows[:, 0] >= 0] if (rows[:, 0] >= 0).any() else torch.tensor([[0, 0, 0, 1, 1, 0.0]])
        boxes.append({"boxes": rows[:, 1:5], "labels": rows[:, 0].long()})
        # Which object an anchor was given follows from its offsets.
        coded = [
            net.box_coder.encode([row[None, 1:5].repeat(len(ANCHORS), 1)], [torch.tensor(ANCHORS)]) for row in rows
        ]
        distance = torch.stack([(code[0] - offsets[image]).abs().sum(1) for code in coded])
        matched.append(torch.where(classes[image] > 0, distance.argmin(0), -1))
        found.append(torch.tensor(ANCHORS))
    expected = net.compute_loss(
        boxes, {"bbox_regression": answer[..., -4:], "cls_logits": answer[..., :-4]}, found, matched
    )
    loss = detection_loss(answer, offsets, classes)
    assert loss.item() == pytest.approx(sum(expected.values()).item(), rel=1e-4)
    ours = torch.autograd.grad(loss, answer)[0]
    theirs = torch.autograd.grad(sum(expected.values()), answer)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_targets_decode_to_the_objects():
    from visdeploy import ops

    offsets, classes = targets(TRUTH, ANCHORS)
    boxes = ops.decode_boxes(offsets.numpy(), ANCHORS, weights=(10.0, 10.0, 5.0, 5.0))
    for image in (0, 1):
        for box, label in zip(boxes[image], classes[image].tolist(), strict=True):
            rows = TRUTH[image][TRUTH[image, :, 0] == label][:, 1:5].numpy()
            assert not label or np.abs(rows - box).max(1).min() < 1e-3
        assert set(classes[image].tolist()) == {0, *TRUTH[image, :, 0].clamp(min=0).int().tolist()}
    assert not classes[2].any()


def test_an_ignored_object_neither_rewards_nor_punishes():
    from visdeploy import ops

    truth = TRUTH.clone()
    truth[1, 0, 5] = 1
    _, classes = targets(truth, ANCHORS)
    hidden = ops.box_iou(ANCHORS, truth[1, :1, 1:5].numpy())[:, 0] >= 0.5
    assert hidden.any()
    assert ((classes[1] == LEFT_OUT).numpy() == hidden).all()
    assert torch.equal(classes[0], targets(TRUTH, ANCHORS)[1][0])
    # An anchor of another object stays its anchor.
    truth = TRUTH[:1].clone()
    truth[0, 2] = truth[0, 1]
    truth[0, 2, 5] = 1
    assert torch.equal(targets(truth, ANCHORS)[1] == 2, targets(truth[:, :2], ANCHORS)[1] == 2)


@pytest.mark.parametrize("class_loss", ["mining", "focal"])
def test_images_without_objects_have_a_finite_loss_with_a_gradient(class_loss):
    for rows in (TRUTH[2:], TRUTH[2:, :0]):
        offsets, classes = targets(rows, ANCHORS)
        answer = answers()[2:].detach().requires_grad_()
        loss = detection_loss(answer, offsets, classes, class_loss=class_loss)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(answer.grad).all()


@pytest.mark.parametrize("class_loss", ["mining", "focal"])
def test_what_is_not_finite_reaches_the_loss(class_loss):
    offsets, classes = targets(TRUTH, ANCHORS)
    answer = answers().detach()
    answer[0, int((classes[0] == 0).nonzero()[0])] = torch.nan
    assert not torch.isfinite(detection_loss(answer, offsets, classes, class_loss=class_loss))


def test_focal_loss_without_focus_is_half_of_cross_entropy():
    offsets, classes = targets(TRUTH, ANCHORS)
    answer = answers()
    loss = detection_loss(answer, offsets, classes, class_loss="focal", gamma=0.0, alpha=0.5)
    boxes = functional.smooth_l1_loss(answer[..., -4:][classes > 0], offsets[classes > 0], reduction="sum")
    entropy = functional.cross_entropy(answer[..., :-4].flatten(0, 1), classes.flatten(), reduction="sum")
    torch.testing.assert_close(loss, (boxes + entropy / 2) / (classes > 0).sum())


@pytest.mark.parametrize("class_loss", ["mining", "focal"])
def test_one_object_counts_as_much_as_two_alike(class_loss):
    answer, offsets = torch.randn(1, 6, 3 + 4), torch.randn(1, 6, 4)
    classes = torch.tensor([[0, 0, 2, 0, 0, 0]])
    one = detection_loss(answer, offsets, classes, class_loss=class_loss)
    two = detection_loss(*(part.repeat_interleave(2, 0) for part in (answer, offsets, classes)), class_loss=class_loss)
    torch.testing.assert_close(one, two)
