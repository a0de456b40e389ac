"""Detectors and localizers answer in the order of their anchors, and the same however they are converted."""

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from visdeploy import models, ops  # noqa: E402
from visdeploy.errors import InputError  # noqa: E402

# Torch says that TorchScript and its ONNX exporter are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SMALL = {"encoder": "resnet10t", "num_classes": 2}
NETS = {
    "ssd": {"name": "ssd", "channels": 8, **SMALL},
    "fpn": {"name": "ssd", "channels": 8, "neck": "fpn", "strides": (4, 8, 16), "extras": 1, **SMALL},
    "tinyssd": {"name": "tinyssd", "num_classes": 2},
    "both": {"name": "localizer", "size": (64, 96), "hidden": 8, **SMALL},
    "label": {"name": "localizer", "predicts": "label", "hidden": 8, **SMALL},
}


def tiny_torchvision_ssd():
    """An SSD for images 64 high and 96 wide, whose scores lie far apart."""
    detection = pytest.importorskip("torchvision.models.detection")
    ssd = detection.ssd

    class Body(torch.nn.Module):
        out_channels = (8, 16)

        def __init__(self):
            super().__init__()
            self.fine, self.coarse = torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Conv2d(8, 16, 3, 2, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            fine = torch.relu(self.fine(x))
            return {"fine": fine, "coarse": self.coarse(fine)}

    boxes = detection.anchor_utils.DefaultBoxGenerator([[2], [2, 3]], scales=[0.2, 0.4, 0.8], steps=[8, 16])
    head = ssd.SSDHead([8, 16], boxes.num_anchors_per_location(), 4)
    for layer in head.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, std=0.5)
    return ssd.SSD(Body(), boxes, (96, 64), 4, head=head, score_thresh=0.3, image_std=[0.1, 0.2, 0.3]).eval()


@pytest.fixture(params=[*NETS, "torchvision"])
def net(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if request.param == "torchvision":
            return models.from_torchvision(tiny_torchvision_ssd())
        return models.create(**NETS[request.param]).eval()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_every_conversion_gives_the_same_answers(net):
    onnxruntime = pytest.importorskip("onnxruntime")
    one, three = torch.randn(1, 3, 64, 96), torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        expected = net(three)
        torch.testing.assert_close(torch.jit.script(net)(three), expected)
        torch.testing.assert_close(torch.jit.trace(net, one)(three), expected)
        batch = {"x": {0: torch.export.Dim("batch", max=8)}}
        program = torch.export.export(net, (torch.randn(2, 3, 64, 96),), dynamic_shapes=batch)
        torch.testing.assert_close(program.module()(three), expected)
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
        torch.onnx.export(net, (one,), file := io.BytesIO(), dynamo=False, opset_version=18, **names)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": three.numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


class Telling(torch.nn.Module):
    """In place of a head: tells `offset + value + 10 * (anchor of the cell) + 100 * column + 1000 * row`."""

    def __init__(self, anchors: int, values: int, offset: int = 0) -> None:
        super().__init__()
        self.anchors, self.values, self.offset = anchors, values, offset

    def forward(self, x):
        channel = torch.arange(self.anchors)[:, None] * 10 + torch.arange(self.values) + self.offset
        row, column = torch.arange(x.shape[2]), torch.arange(x.shape[3])
        told = channel.reshape(-1, 1, 1) + 1000 * row[:, None] + 100 * column
        return told.expand(len(x), -1, -1, -1).float()


def told_of_anchors(anchors: np.ndarray, feature_sizes, per_cell: list[int], values: int, size) -> np.ndarray:
    """What `Telling` tells of anchors, found out by where they lie."""
    first, rows = 0, []
    for (height, width), count in zip(feature_sizes, per_cell, strict=True):
        mine = anchors[first : first + height * width * count]
        first += len(mine)
        centre = (mine[:, :2] + mine[:, 2:]) / 2
        column, row = centre[:, 0] / size[1] * width - 0.5, centre[:, 1] / size[0] * height - 0.5
        of_cell = np.arange(len(mine)) % count
        rows.append((1000 * row + 100 * column + 10 * of_cell)[:, None] + np.arange(values))
    assert first == len(anchors)
    return np.concatenate(rows)


@pytest.mark.parametrize("neck", ["none", "fpn"])
def test_ssd_answers_in_the_order_of_its_anchors(neck):
    net = models.create("ssd", neck=neck, channels=8, extras=1, aspect_ratios=[[], [2], [2, 3], [3]], **SMALL).eval()
    per_cell = [2, 4, 6, 4]
    net.heads = torch.nn.ModuleList(Telling(count, 7) for count in per_cell)
    rule = net.anchors((64, 96))
    assert rule.feature_sizes == ((8, 12), (4, 6), (2, 3), (1, 2))
    with torch.no_grad():
        found = net(torch.zeros(2, 3, 64, 96))
    expected = told_of_anchors(rule.boxes((64, 96)), rule.feature_sizes, per_cell, 7, (64, 96))
    np.testing.assert_allclose(found[1], expected, atol=1e-2)


def test_tinyssd_is_the_books():
    net = models.create("tinyssd", num_classes=1).eval()
    rule = net.anchors((256, 256))
    anchors = rule.boxes((256, 256))
    assert len(anchors) == 5444
    assert rule.feature_sizes == ((32, 32), (16, 16), (8, 8), (4, 4), (1, 1))

    def convolution(before, after):
        return 9 * before * after + after

    halvings = [(3, 16), (16, 32), (32, 64), (64, 128), (128, 128), (128, 128)]
    body = sum(convolution(a, b) + convolution(b, b) + 2 * 2 * b for a, b in halvings)
    heads = sum(convolution(width, 4 * 2) + convolution(width, 4 * 4) for width in (64, 128, 128, 128, 128))
    assert sum(parameter.numel() for parameter in net.parameters()) == body + heads

    net.cls = torch.nn.ModuleList(Telling(4, 2) for _ in range(5))
    net.bbox = torch.nn.ModuleList(Telling(4, 4, offset=2) for _ in range(5))
    with torch.no_grad():
        found = net(torch.zeros(1, 3, 256, 256))[0]
    np.testing.assert_allclose(found, told_of_anchors(anchors, rule.feature_sizes, [4] * 5, 6, (256, 256)), atol=1e-1)


@pytest.mark.parametrize("encoder", ["resnet10t", "mobilenet_v2", "test_efficientnet", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
def test_there_is_an_anchor_for_every_row(encoder, size):
    net = models.create("ssd", encoder=encoder, num_classes=1, channels=4).train()
    anchors = net.anchors(size).boxes(size)
    assert net.training
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, 3, *size)).shape == (1, len(anchors), 6)


def test_default_anchors_reach_small_and_large_objects():
    boxes = models.create("ssd", channels=8, **SMALL).anchors((320, 320)).boxes((320, 320))
    for share in np.geomspace(0.06, 0.95, 12):
        side = 320 * share / 2
        middle = np.float32([[164 - side, 164 - side, 164 + side, 164 + side]])
        assert ops.box_iou(middle, boxes).max() > 0.5, share


def test_background_is_likely_at_first():
    net = models.create("ssd", channels=8, **SMALL).eval()
    with torch.no_grad():
        found = net(torch.randn(1, 3, 64, 64))[..., :3].softmax(-1)
    torch.testing.assert_close(found[..., 0].mean(), torch.tensor(0.95), atol=0.02, rtol=0)


def test_mobilenet_v2_takes_torchvisions_weights(tmp_path):
    import torchvision

    published = torchvision.models.mobilenet_v2(weights=None).eval()
    torch.save(published.state_dict(), tmp_path / "m.pth")
    net = models.create("ssd", encoder="mobilenet_v2", num_classes=1, channels=4, weights=tmp_path / "m.pth").eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = net.encoder(x)
        torch.testing.assert_close(published.features[18](maps[-1]), published.features(x))
        torch.testing.assert_close(torch.jit.script(net.encoder)(x), maps)
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, 64 // stride, 96 // stride)
        for channels, stride in zip(net.encoder.channels, net.encoder.strides, strict=True)
    ]
    assert models.normalisation("mobilenet_v2") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_own_weights_of_a_model_without_an_encoder(tmp_path):
    source = models.create("tinyssd", num_classes=1)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    target = models.create("tinyssd", num_classes=1, weights=tmp_path / "w.pt")
    assert torch.equal(target.bbox[4].weight, source.bbox[4].weight)


def test_localizers_are_the_courses():
    both = models.create("localizer", encoder="resnet34", num_classes=20)
    kinds = [type(layer).__name__ for layer in both.head]
    assert kinds == ["Flatten", "ReLU", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert both.head[3].weight.shape == (256, 25088)
    assert both.head[7].weight.shape == (24, 256)
    box = models.create("localizer", encoder="resnet34", num_classes=20, predicts="box")
    assert sum(parameter.numel() for parameter in box.head.parameters()) == 100_356


@pytest.mark.parametrize("predicts", ["both", "box"])
def test_localizer_guesses_the_middle_at_first(predicts):
    net = models.create(**{**NETS["both"], "predicts": predicts}).eval()
    with torch.no_grad():
        corners = net(torch.zeros(1, 3, 64, 96))[0, :4].sigmoid()
    torch.testing.assert_close(corners, torch.tensor([0.25, 0.25, 0.75, 0.75]), atol=0.15, rtol=0)


def test_summary_names_every_layer(net):
    table = models.summary(net, (64, 96))
    assert table.parameters == sum(row.parameters for row in table.rows)


def test_torchvisions_answers_come_out_of_its_raw_heads():
    torch.manual_seed(1)
    ssd = tiny_torchvision_ssd()
    net = models.from_torchvision(ssd)
    fields = net.spec_fields()
    assert fields["size"] == (64, 96)
    assert fields["std"] == (0.1, 0.2, 0.3)
    image = torch.rand(3, 64, 96)
    mean, std = (torch.tensor(fields[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        raw = net((image - mean)[None] / std).numpy()
        (theirs,) = ssd([image])
    (ours,) = ops.detect(
        raw[..., :-4],
        raw[..., -4:],
        fields["anchors"].boxes(fields["size"]),
        image_size=fields["size"],
        weights=fields["box_weights"],
        score_threshold=fields["threshold"],
        iou_threshold=fields["iou_threshold"],
        top_k=fields["top_k"],
        max_det=fields["max_det"],
        mode=fields["nms"],
    )
    assert len(ours.labels) > 20
    np.testing.assert_array_equal(ours.labels, theirs["labels"])
    np.testing.assert_allclose(ours.boxes, theirs["boxes"], atol=1e-3)
    np.testing.assert_allclose(ours.scores, theirs["scores"], atol=1e-5)


def test_a_torchvision_backbone_may_return_one_map():
    from torchvision.models.detection import anchor_utils, ssd

    body = torch.nn.Conv2d(3, 8, 8, 8)
    body.out_channels = [8]
    boxes = anchor_utils.DefaultBoxGenerator([[2]], scales=[0.2, 0.4])
    net = models.from_torchvision(ssd.SSD(body, boxes, (96, 64), 2, head=ssd.SSDHead([8], [4], 2)).eval())
    assert net.spec_fields()["anchors"].feature_sizes == ((8, 12),)
    assert torch.jit.script(net)(torch.zeros(1, 3, 64, 96)).shape == (1, 8 * 12 * 4, 2 + 4)


def test_torchvisions_spec_is_whole():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    from visdeploy.bundle import Spec

    ssd = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    spec = Spec.parse({**models.from_torchvision(ssd).spec_fields(), "labels": ["cat", "dog"]})
    assert spec.labels == ("background", "cat", "dog")
    assert (spec.nms, spec.top_k, spec.max_det, spec.threshold) == ("torchvision", 300, 300, 0.001)
    assert len(spec.anchors.boxes(spec.size)) == 3234
    with pytest.raises(InputError, match=r"expected torchvision.models.detection.ssd.SSD, got Linear"):
        models.from_torchvision(torch.nn.Linear(1, 1))


def test_an_architecture_of_lists_survives_a_manifest():
    from visdeploy.bundle import Spec

    architecture = {"name": "ssd", "strides": (4, 8, 16), "aspect_ratios": [[], [2], [2, 3], [3]], "extras": 1, **SMALL}
    net = models.create(**architecture)
    fields = {"task": "detection", "labels": ["a", "b"], "size": 64, "mean": 0.5, "std": 0.5}
    spec = Spec.parse({**fields, "anchors": net.anchors((64, 64)), "architecture": architecture})
    again = models.create(**Spec.model_validate_json(spec.model_dump_json()).architecture)
    assert again.anchors((64, 64)) == spec.anchors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "ssd"}, "encoder: expected the name of a backbone, got None"),
        ({"name": "tinyssd", "encoder": "resnet18"}, "expected none, because tinyssd has a body of its own"),
        ({"name": "tinyssd", "neck": "fpn"}, "expected none as options, got 'neck'"),
        ({"neck": "pan"}, "neck: expected 'none' or 'fpn', got 'pan'"),
        ({"channels": 1}, "channels: expected a number of at least 2, got 1"),
        ({"strides": (8, 12)}, "strides: the backbone has maps of strides .2, 4, 8, 16, 32., and none of 12"),
        ({"strides": (16, 8)}, "strides: expected rising numbers"),
        ({"scales": [0.1, 0.2]}, "scales: expected 5 positive numbers for 4 maps"),
        ({"aspect_ratios": [[1], [2]]}, "aspect_ratios: expected positive numbers, or 4 lists of them"),
        ({"aspect_ratios": [2, -1]}, "aspect_ratios: expected positive numbers"),
        ({"name": "localizer", "predicts": "boxes"}, "predicts: expected 'both', 'box' or 'label', got 'boxes'"),
        ({"name": "localizer", "dropout": 1}, "dropout"),
    ],
)
def test_wrong_options_are_named(arguments, sentence):
    if arguments.get("name", "ssd") in ("ssd", "localizer") and arguments != {"name": "ssd"}:
        arguments = {"encoder": "resnet10t", **arguments}
    with pytest.raises(InputError, match=sentence):
        models.create(**{"name": "ssd", "num_classes": 1, **arguments})


def test_wrong_sizes_are_one_sentence():
    fpn = models.create("ssd", neck="fpn", channels=8, **SMALL)
    with pytest.raises(ValueError, match=r"divisible by 32 with this neck, got 64 x 100"):
        fpn(torch.zeros(1, 3, 64, 100))
    with pytest.raises(InputError, match=r"multiples of 32 with this neck, got \(64, 100\)"):
        fpn.anchors((64, 100))
    with pytest.raises(ValueError, match=r"made for images of 64 x 96, got 64 x 64"):
        models.create(**NETS["both"])(torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match=r"cannot take images of 32 x 32"):
        models.create("tinyssd", num_classes=1).anchors((32, 32))
