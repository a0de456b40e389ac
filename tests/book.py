"""The anchor functions of "Dive into Deep Learning", section 14.4, with its arithmetic and its tensor operations.

https://d2l.ai/chapter_computer-vision/anchor.html: what `visdeploy.ops` is compared with, in tests and benches.
"""

import torch
from torch import Tensor


def multibox_prior(feature_size: tuple[int, int], sizes: list[float], ratios: list[float]) -> Tensor:
    height, width = feature_size
    per_pixel = len(sizes) + len(ratios) - 1
    size, ratio = torch.tensor(sizes), torch.tensor(ratios)
    centre_y = (torch.arange(height) + 0.5) * (1.0 / height)
    centre_x = (torch.arange(width) + 0.5) * (1.0 / width)
    y, x = torch.meshgrid(centre_y, centre_x, indexing="ij")
    y, x = y.reshape(-1), x.reshape(-1)
    w = torch.cat((size * torch.sqrt(ratio[0]), sizes[0] * torch.sqrt(ratio[1:]))) * height / width
    h = torch.cat((size / torch.sqrt(ratio[0]), sizes[0] / torch.sqrt(ratio[1:])))
    corners = torch.stack((-w, -h, w, h)).T.repeat(height * width, 1) / 2
    centres = torch.stack([x, y, x, y], dim=1).repeat_interleave(per_pixel, dim=0)
    return (centres + corners).unsqueeze(0)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    top_left = torch.max(a[:, None, :2], b[:, :2])
    bottom_right = torch.min(a[:, None, 2:], b[:, 2:])
    sides = (bottom_right - top_left).clamp(min=0)
    inter = sides[:, :, 0] * sides[:, :, 1]
    return inter / (area_a[:, None] + area_b - inter)


def to_centre(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    x, y, w, h = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]
    return torch.stack((x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h), dim=-1)


def offset_boxes(anchors: Tensor, boxes: Tensor, eps: float = 1e-6) -> Tensor:
    a, b = to_centre(anchors), to_centre(boxes)
    centres = 10 * (b[:, :2] - a[:, :2]) / a[:, 2:]
    sizes = 5 * torch.log(eps + b[:, 2:] / a[:, 2:])
    return torch.cat([centres, sizes], dim=1)


def offset_inverse(anchors: Tensor, offsets: Tensor) -> Tensor:
    a = to_centre(anchors)
    centres = (offsets[:, :2] * a[:, 2:] / 10) + a[:, :2]
    sizes = torch.exp(offsets[:, 2:] / 5) * a[:, 2:]
    return to_corners(torch.cat((centres, sizes), dim=1))


def assign(boxes: Tensor, anchors: Tensor, threshold: float = 0.5) -> Tensor:
    n, m = len(anchors), len(boxes)
    iou = box_iou(anchors, boxes)
    assigned = torch.full((n,), -1, dtype=torch.long)
    largest, best = torch.max(iou, dim=1)
    assigned[torch.nonzero(largest >= threshold).reshape(-1)] = best[largest >= threshold]
    no_column, no_row = torch.full((n,), -1.0), torch.full((m,), -1.0)
    for _ in range(m):
        at = torch.argmax(iou)
        box, anchor = (at % m).long(), (at / m).long()
        assigned[anchor] = box
        iou[:, box] = no_column
        iou[anchor, :] = no_row
    return assigned


def multibox_target(anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    anchors = anchors.squeeze(0)
    offsets, masks, classes = [], [], []
    for label in labels:
        assigned = assign(label[:, 1:], anchors)
        mask = (assigned >= 0).float().unsqueeze(-1).repeat(1, 4)
        label_of = torch.zeros(len(anchors), dtype=torch.long)
        box_of = torch.zeros((len(anchors), 4), dtype=torch.float32)
        positive = torch.nonzero(assigned >= 0)
        index = assigned[positive]
        label_of[positive] = label[index, 0].long() + 1
        box_of[positive] = label[index, 1:]
        offsets.append((offset_boxes(anchors, box_of) * mask).reshape(-1))
        masks.append(mask.reshape(-1))
        classes.append(label_of)
    return torch.stack(offsets), torch.stack(masks), torch.stack(classes)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    order = torch.argsort(scores, dim=-1, descending=True)
    keep = []
    while order.numel() > 0:
        best = order[0]
        keep.append(best)
        if order.numel() == 1:
            break
        iou = box_iou(boxes[best, :].reshape(-1, 4), boxes[order[1:], :].reshape(-1, 4)).reshape(-1)
        order = order[torch.nonzero(iou <= threshold).reshape(-1) + 1]
    return torch.tensor(keep)


def multibox_detection(
    cls_probs: Tensor,
    offsets: Tensor,
    anchors: Tensor,
    nms_threshold: float = 0.5,
    pos_threshold: float = 0.009999999,
) -> Tensor:
    anchors = anchors.squeeze(0)
    n, out = cls_probs.shape[2], []
    for probs, offset in zip(cls_probs, offsets, strict=True):
        conf, label = torch.max(probs[1:], 0)
        boxes = offset_inverse(anchors, offset.reshape(-1, 4))
        keep = nms(boxes, conf, nms_threshold)
        unique, counts = torch.cat((keep, torch.arange(n))).unique(return_counts=True)
        dropped = unique[counts == 1]
        order = torch.cat((keep, dropped))
        label[dropped] = -1
        label = label[order]
        conf, boxes = conf[order], boxes[order]
        below = conf < pos_threshold
        label[below] = -1
        conf[below] = 1 - conf[below]
        out.append(torch.cat((label.unsqueeze(1), conf.unsqueeze(1), boxes), dim=1))
    return torch.stack(out)
