"""Every segmentation model there is: its shapes, its compiled forms, its bundle on every engine, its gradients."""

import warnings
from inspect import signature

import numpy as np
import pytest
import torch

import visdeploy as vd
from visdeploy import export, models, tolerance
from visdeploy.bundle import Bundle
from visdeploy.comparison import relative_error
from visdeploy.errors import InputError
from visdeploy.models import encoders
from visdeploy.models.fcn import bilinear_kernel
from visdeploy.models.registry import REGISTRY

FAMILY = sorted(name for name, entry in REGISTRY.items() if "segmentation" in entry.tasks)
TINY = "test_resnet"
SPEC = {"task": "segmentation", "labels": ["road", "car", "tree"], "size": 64, "mean": 0.5, "std": 0.5}


def create(name: str, classes: int = 3, encoder: str = "resnet18", **options: int) -> torch.nn.Module:
    """A model with seeded weights, and a small encoder where it takes one."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        backbone = {"encoder": encoder} if REGISTRY[name].encoder else {}
        return models.create(name, num_classes=classes, **backbone, **options).eval()


@pytest.fixture(scope="module", params=FAMILY)
def net(request) -> torch.nn.Module:
    return create(request.param)


def test_the_family_is_here():
    assert set(FAMILY) >= {"fcn", "resnet_unet", "unet", "upsample"}


@torch.inference_mode()
def test_compiled_forms_answer_as_the_network_does(net):
    example, other = torch.randn(1, 3, 64, 64), torch.randn(2, 3, 32, 96)
    expected = net(other)
    assert expected.shape == (2, 3, 32, 96)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.jit.script(net), torch.jit.trace(net, example, check_trace=False)
    for form in compiled:
        torch.testing.assert_close(form(other), expected)


def test_learning_reaches_every_parameter(net):
    torch.manual_seed(0)
    net.train()
    (net(torch.randn(2, 3, 64, 64)) * torch.randn(2, 3, 64, 64)).sum().backward()
    idle = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    net.zero_grad(set_to_none=True)
    net.eval()
    assert idle == []


def test_weights_go_out_and_in_again(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    name = next(name for name in FAMILY if isinstance(net, REGISTRY[name].model))
    other = create(name)
    torch.nn.init.zeros_(next(other.parameters()))
    assert models.load_weights(other, tmp_path / "w.pt").unused == ()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("name", FAMILY)
def test_a_bundle_of_it_agrees_on_every_engine_here(name, photos, tmp_path):
    path = tmp_path / "street.vdz"
    narrow = {"decoder_channels": 16} if "decoder_channels" in signature(REGISTRY[name].model).parameters else {}
    net = create(name, encoder=TINY, **narrow)
    report = export.export(net, path, spec=SPEC | {"resize": "native"}, golden=[photos[1][:, :60]])
    assert report.ok
    ran = sorted({row.engine for row in report.rows if row.engine})
    assert {*ran} >= {"torchscript", "onnxruntime", "openvino"}
    assert Bundle.open(path).manifest.torchscript == "script"
    for photo in (photos[1][:33, :70], photos[0][:70, :40]):
        maps = []
        for engine in ran:
            with vd.load(path, engine=engine) as predictor:
                maps.append(predictor(photo).masks.to_numpy())
        assert all(found.shape == photo.shape[:2] and np.mean(found == maps[0]) > 0.999 for found in maps)


def test_corners_on_corners_in_int8(photos, tmp_path):
    pytest.importorskip("nncf")
    from visdeploy.precision import PrecisionOptions

    path = tmp_path / "street.vdz"
    pictures = [photos[0][row : row + 64, column : column + 64] for row in (0, 11) for column in (0, 12, 24, 37)]
    precision = PrecisionOptions("int8", pictures, engines=("openvino",))
    export.export(create("resnet_unet", encoder=TINY), path, spec=SPEC, golden=pictures[:1], precision=precision)
    answers = []
    for name in ("fp32", "int8"):
        with vd.load(path, engine="openvino", precision=name) as predictor:
            answers.append(predictor(pictures[3]).masks.logits)
    assert 0 < relative_error(answers[1], answers[0]) <= tolerance.LOGITS["int8"]


def test_an_uneven_size_is_answered_or_refused_in_one_sentence(net):
    x = torch.zeros(1, 3, 50, 64)
    if hasattr(net, "divisor"):
        with pytest.raises(ValueError, match="divisible by 32, got 50 x 64"):
            net(x)
    else:
        assert net(x).shape == x.shape


@pytest.mark.parametrize(
    ("name", "encoder", "classes", "parameters"),
    [
        # The course's own sum for Upsample34: its ResNet-34 without the classifier, and 1,314,817 above it.
        ("upsample", "resnet34", 1, 21_284_672 + 1_314_817),
        # ResNet-18 without the classifier, 512 x 21 + 21, and 21 x 21 x 64 x 64 + 21.
        ("fcn", "resnet18", 21, 11_176_512 + 10_773 + 1_806_357),
        ("resnet_unet", "resnet18", 6, 17_800_134),
    ],
)
def test_parameters_are_the_originals(name, encoder, classes, parameters):
    assert sum(value.numel() for value in create(name, classes, encoder).parameters()) == parameters


class CourseBlock(torch.nn.Module):
    """The course's StdUpsample, with its parameter names."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = torch.nn.ConvTranspose2d(n_in, n_out, 2, stride=2)
        self.bn = torch.nn.BatchNorm2d(n_out)

    def forward(self, x):
        return self.bn(torch.relu(self.conv(x)))


class CourseUpsample(torch.nn.Module):
    """The course's Upsample34, here on a ResNet-18: the backbone is a part of it twice."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        self.rn = torch.nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:8])
        blocks = CourseBlock(512, 256), CourseBlock(256, 256), CourseBlock(256, 256), CourseBlock(256, 256)
        last = torch.nn.ConvTranspose2d(256, 1, 2, stride=2)
        self.features = torch.nn.Sequential(self.rn, torch.nn.ReLU(), *blocks, last)

    def forward(self, x):
        return self.features(x)


@torch.inference_mode()
def test_the_course_weights_of_upsample_give_its_answer(tmp_path):
    torch.manual_seed(0)
    original = CourseUpsample().eval()
    torch.save(original.state_dict(), tmp_path / "128-up.h5")
    net = create("upsample", 1)
    models.load_weights(net, tmp_path / "128-up.h5", layout="fastai")
    x = torch.randn(1, 3, 64, 32)
    torch.testing.assert_close(net(x), original(x))


def test_an_fcn_starts_by_enlarging_bilinearly():
    x = torch.rand(1, 3, 5, 6)
    enlarged = torch.nn.functional.conv_transpose2d(x, bilinear_kernel(3, 4), stride=2, padding=1)
    expected = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(enlarged[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert bilinear_kernel(1, 3)[0, 0].tolist() == [[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]
    assert torch.equal(create("fcn").head.weight, bilinear_kernel(3, 64))


def test_an_encoder_without_enough_strides_is_one_sentence():
    with pytest.raises(InputError, match=r"expected one with strides \[2, 4, 8, 16, 32\], got \[4, 8, 16, 32\]"):
        models.create("resnet_unet", encoder="convnext_atto", num_classes=1)
    for name in ("upsample", "fcn"):
        assert create(name, 2, "convnext_atto")(torch.zeros(1, 3, 32, 64)).shape == (1, 2, 32, 64)


@pytest.mark.parametrize("name", FAMILY)
def test_an_encoder_for_images_of_one_size_is_one_sentence(name, monkeypatch):
    class OneSize(encoders.ResNetEncoder):
        def forward(self, x):
            assert x.shape[-1] == 224, "Input doesn't match model"
            return super().forward(x)

    monkeypatch.setitem(encoders.TORCHVISION, "resnet18", OneSize)
    with pytest.raises(InputError, match=r"takes images of any size, but this one refuses 64x64 \(Input doesn't match"):
        create(name)


def test_an_encoder_that_pads_in_its_own_way():
    net = create("resnet_unet", 2, "test_efficientnet")
    assert net(torch.zeros(1, 3, 32, 96)).shape == (1, 2, 32, 96)
