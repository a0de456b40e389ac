"""The reference of docs/results.md: torchvision's SSD on the ImageNet MobileNetV2, trained on the blood cells.

    python bench/training/torchvision_ssd.py det_bccd mobilenet_v2-b0353104.pth --minutes 40 --out runs/reference

Everything is torchvision's: `SSD`, `SSDHead`, `DefaultBoxGenerator`, the extra layers of its SSDLite, the transforms of
its SSD recipe. The feature maps are those of its MobileNet detectors: the expansion of the first block of stride 32
(stride 16), the last convolution (stride 32), and four extra layers. The scales of the default boxes are fitted to the
cells. `--minutes` are minutes on two cores: half of the process's CPU time, evaluation and start-up not counted.
"""

import argparse
import csv
import math
import time
import xml.etree.ElementTree as ElementTree
from collections import OrderedDict
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.models.detection.ssdlite import _extra_block, _normal_init
from torchvision.ops import box_iou
from torchvision.transforms import v2

LABELS = ["background", "RBC", "WBC", "Platelets"]
SIZE = 320

Item = tuple[Tensor, Tensor, Tensor]  # image (3, h, w) uint8, boxes (N, 4) float32 pixels xyxy, labels (N,) int64


class Features(nn.Module):
    """Six maps of strides 16 to 320, cut from MobileNetV2 as torchvision's SSDLite cuts MobileNetV3."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        network = torchvision.models.mobilenet_v2()
        network.load_state_dict(torch.load(weights, weights_only=True))
        blocks = network.features
        self.stages = nn.ModuleList(
            [nn.Sequential(*blocks[:14], blocks[14].conv[0]), nn.Sequential(*blocks[14].conv[1:], *blocks[15:])]
        )
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        widths = [1280, 512, 256, 256, 128]
        self.extra = nn.ModuleList(_extra_block(a, b, norm) for a, b in pairwise(widths))
        _normal_init(self.extra)
        self.out_channels = [576, *widths]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to maps by name, finest first."""
        maps = []
        for block in [*self.stages, *self.extra]:
            x = block(x)
            maps.append(x)
        return OrderedDict((str(i), map) for i, map in enumerate(maps))


def detector(weights: Path, scales: list[float]) -> SSD:
    features = Features(weights)
    anchors = DefaultBoxGenerator([[2, 3]] * 6, scales=scales)
    head = SSDHead(features.out_channels, anchors.num_anchors_per_location(), len(LABELS))
    return SSD(features, anchors, (SIZE, SIZE), len(LABELS), head=head)


def read(folder: Path, name: str) -> Item:
    image = torchvision.io.decode_image(str(folder / "JPEGImages" / f"{name}.jpg"), "RGB")
    boxes, labels = [], []
    for thing in ElementTree.parse(folder / "Annotations" / f"{name}.xml").iter("object"):
        box = [float(thing.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
        if box[2] > box[0] and box[3] > box[1]:
            boxes.append(box)
            labels.append(LABELS.index(thing.findtext("name", "")))
    return image, torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels)


def augmentation() -> v2.Transform:
    """The transforms of torchvision's SSD recipe; colours come last, on the small image, to save time."""
    return v2.Compose(
        [
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((SIZE, SIZE), antialias=True),
            v2.RandomPhotometricDistort(),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(min_size=2),
        ]
    )


def augmented(item: Item, transform: v2.Transform) -> tuple[Tensor, dict[str, Tensor]]:
    image, boxes, labels = item
    marked = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(image.shape[-2:]))
    image, target = transform(tv_tensors.Image(image), {"boxes": marked, "labels": labels})
    return image.as_subclass(Tensor), {"boxes": target["boxes"].as_subclass(Tensor), "labels": target["labels"]}


def average_precision(label: int, found: list[dict[str, Tensor]], truth: list[Item]) -> float:
    """VOC AP at IoU 0.5 by the area rule: each prediction goes to its best box, which counts once."""
    scores, hits, total = [], [], 0
    for prediction, (_, boxes, labels) in zip(found, truth, strict=True):
        boxes = boxes[labels == label]
        total += len(boxes)
        mine = prediction["labels"] == label
        order = prediction["scores"][mine].argsort(descending=True)
        overlap = box_iou(prediction["boxes"][mine][order], boxes)
        taken = [False] * len(boxes)
        for row in overlap:
            best = int(row.argmax()) if len(boxes) else -1
            hits.append(best >= 0 and bool(row[best] >= 0.5) and not taken[best])
            if hits[-1]:
                taken[best] = True
        scores.append(prediction["scores"][mine][order])
    right = torch.tensor(hits, dtype=torch.float64)[torch.cat(scores).argsort(descending=True, stable=True)].cumsum(0)
    recall = torch.cat([torch.zeros(1), right / total])
    precision = (right / torch.arange(1, len(right) + 1)).flip(0).cummax(0).values.flip(0)
    return float((recall.diff() * precision).sum())


@torch.inference_mode()
def evaluate(model: SSD, items: list[Item]) -> list[float]:
    model.eval()
    found = [model([image / 255])[0] for image, _, _ in items]
    model.train()
    return [average_precision(label, found, items) for label in range(1, len(LABELS))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with Annotations and JPEGImages")
    parser.add_argument("weights", type=Path, help="torchvision's ImageNet mobilenet_v2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40, help="budget on two cores: CPU minutes / 2")
    parser.add_argument("--every", type=float, default=2, help="minutes between evaluations")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--scales", type=float, nargs=7, default=[0.08, 0.33, 0.45, 0.6, 0.75, 0.9, 1.05])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    names = sorted(path.stem for path in (args.data / "Annotations").glob("*.xml"))
    held_out = set(names[::5])
    items = {name: read(args.data, name) for name in names}
    train = [items[name] for name in names if name not in held_out]
    validation = [items[name] for name in names if name in held_out]

    model = detector(args.weights, args.scales).to(memory_format=torch.channels_last).train()
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    transform = augmentation()
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "log.csv").open("w", newline="")
    rows = csv.writer(log)
    rows.writerow(["cpu_minutes", "images", "lr", "loss", "map50", *(f"ap50_{label}" for label in LABELS[1:])])

    budget, spent, since, images, losses = args.minutes * 120, 0.0, 0.0, 0, []
    order: list[int] = []
    while spent < budget:
        started = time.process_time()
        if len(order) < args.batch_size:
            order += torch.randperm(len(train)).tolist()
        batch = [augmented(train[order.pop(0)], transform) for _ in range(args.batch_size)]
        warmup = min(1.0, (spent + 1) / (0.02 * budget))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warmup * 0.5 * (1 + math.cos(math.pi * spent / budget))
        loss = sum(model([image for image, _ in batch], [target for _, target in batch]).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
        images += args.batch_size
        step = time.process_time() - started
        spent += step
        since += step
        if since >= args.every * 120 or spent >= budget:
            since = 0.0
            aps = evaluate(model, validation)
            figures = [spent / 60, images, optimizer.param_groups[0]["lr"], sum(losses) / len(losses)]
            rows.writerow([f"{value:.5g}" for value in [*figures, sum(aps) / len(aps), *aps]])
            log.flush()
            losses = []
    torch.save(model.state_dict(), args.out / "model.pt")


if __name__ == "__main__":
    main()
