"""The DynamicUnet has fastai's counts, takes fastai's weights, answers as fastai does, and needs no hooks."""

import sys
import types
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from visdeploy import models  # noqa: E402
from visdeploy.errors import InputError  # noqa: E402
from visdeploy.export import export  # noqa: E402
from visdeploy.models import encoders  # noqa: E402
from visdeploy.models.dynamic_unet import SpectralConv, upsampling  # noqa: E402

WIDTHS = (16, 16, 24, 32, 48)
EVEN, ODD = (64, 96), (45, 71)


def body() -> nn.Sequential:
    """A backbone of five halvings, as a list of layers, which is how fastai takes them."""
    stages = []
    for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
        conv = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
        stages.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
    return nn.Sequential(*stages)


class ToyEncoder(encoders.Encoder):
    """That backbone, as visdeploy takes them; `maps` of them, the coarsest last."""

    positions: ClassVar[dict[str, str]] = {r"(?=\d+\.)": "features."}

    def __init__(self, maps: int = 5) -> None:
        super().__init__()
        self.features = body()
        self.first = 5 - maps
        self.channels, self.strides = list(WIDTHS[self.first :]), [2, 4, 8, 16, 32][self.first :]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for stage in self.features:
            x = stage(x)
            maps.append(x)
        return maps[self.first :]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for maps in range(1, 6):
        name = "toy" if maps == 5 else f"toy of {maps}"
        monkeypatch.setitem(encoders.TORCHVISION, name, lambda *_, maps=maps: ToyEncoder(maps))
    torch.manual_seed(0)


def create(encoder: str = "toy", num_classes: int = 3, **options: Any) -> Any:
    return models.create("dynamic_unet", encoder=encoder, num_classes=num_classes, **options).eval()


def count(net: Any) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@torch.no_grad()
def settled(net: Any) -> Any:
    """The network with statistics that are not the initial ones, and attention that has something to say."""
    for name, value in net.state_dict().items():
        if name.endswith("gamma"):
            value.fill_(0.7)
    net.train()(torch.randn(2, 3, 64, 64))
    return net.eval()


class OriginalAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.query, self.key, self.value = (
                nn.Sequential(nn.utils.spectral_norm(nn.Conv1d(channels, width, 1, bias=False)))
                for width in (channels // 8, channels // 8, channels)
            )
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        shares = (self.query(pixels).transpose(1, 2) @ self.key(pixels)).softmax(dim=1)
        return (self.gamma * (self.value(pixels) @ shares) + pixels).view(x.shape)


class OriginalBlock(nn.Module):
    def __init__(self, up: int, cross: int, last: bool, attention: bool) -> None:
        super().__init__()
        joined = up // 2 + cross
        self.width = joined // 2 if last else joined
        self.shuf = shuffle(up, up // 2, blur=True)
        self.bn = nn.BatchNorm2d(cross)
        self.conv1 = conv(joined, self.width)
        self.conv2 = conv(self.width, self.width)
        if attention:
            self.conv2.append(OriginalAttention(self.width))

    def forward(self, x: Tensor, cross: Tensor) -> Tensor:
        x = self.shuf(x)
        if x.shape[-2:] != cross.shape[-2:]:
            x = functional.interpolate(x, cross.shape[-2:], mode="nearest")
        return self.conv2(self.conv1(torch.relu(torch.cat([x, self.bn(cross)], dim=1))))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convpath = nn.Sequential(conv(width, width), nn.Sequential(nn.Conv2d(width, width, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convpath(x) + x)


def conv(before: int, width: int, size: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, width, size, padding=size // 2), nn.ReLU())


def shuffle(before: int, width: int, blur: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [conv(before, 4 * width, 1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers, *([nn.ReplicationPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, stride=1)] if blur else []))


class OriginalUnet(nn.Module):
    """fastai's DynamicUnet over `body()` in its own names, with blur and self-attention, as its source describes it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        *finer, width = WIDTHS
        middle = nn.Sequential(conv(width, 2 * width), conv(2 * width, width))
        layers: list[nn.Module] = [body(), nn.BatchNorm2d(width), nn.ReLU(), middle]
        for index, cross in enumerate(reversed(finer)):
            layers.append(block := OriginalBlock(width, cross, last=index == 3, attention=index == 1))
            width = block.width
        layers += [shuffle(width, width), nn.Identity(), nn.Identity(), Residual(width + 3)]
        self.layers = nn.ModuleList([*layers, nn.Sequential(nn.Conv2d(width + 3, classes, 1))])

    def forward(self, x: Tensor) -> Tensor:
        crosses = [x]
        for stage in self.layers[0]:
            crosses.append(stage(crosses[-1]))
        y = self.layers[3](torch.relu(self.layers[1](crosses[-1])))
        for index in range(4):
            y = self.layers[4 + index](y, crosses[4 - index])
        y = self.layers[8](y)
        if y.shape[-2:] != x.shape[-2:]:
            y = functional.interpolate(y, x.shape[-2:], mode="nearest")
        return self.layers[12](self.layers[11](torch.cat([y, x], dim=1)))


def same_logits(net: Any, original: Any, path: Path) -> None:
    """Check that a network answers as another one, once it has its weights."""
    torch.save(original.state_dict(), path)
    report = models.load_weights(net, path, layout="fastai")
    assert not report.unused
    assert len(report.loaded) == len(net.state_dict())
    for size in (EVEN, ODD):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(net(x), original(x), rtol=1e-5, atol=1e-5)


# What fastai 2.8 counts in DynamicUnet(create_body(resnet34(), pretrained=False, cut=-2), 11, (192, 256)), in the same
# with self_attention and blur, and with norm_type=NormType.Batch, and in DynamicUnet(mobilenet_v2().features, ...).
@pytest.mark.parametrize(
    ("encoder", "options", "parameters"),
    [
        ("resnet34", {}, 41_222_068),
        ("resnet34", {"self_attention": True, "blur": True}, 41_406_389),
        ("resnet34", {"norm": "batch"}, 41_230_021),
        ("mobilenet_v2", {}, 79_744_292),
    ],
)
def test_parameters_are_as_many_as_in_fastai(encoder, options, parameters):
    with torch.device("meta"):
        assert count(create(encoder, 11, **options)) == parameters


def test_fastai_weights_give_fastai_answers(tmp_path):
    same_logits(create(blur=True, self_attention=True), settled(OriginalUnet(3)), tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"self_attention": True, "blur": True, "blur_final": False}, {}),
        ({"last_cross": False}, {}),
        ({"norm": "batch"}, {"norm_type": "Batch"}),
        ({}, {"norm_type": "Weight"}),
        ({}, {"norm_type": "Spectral"}),
    ],
)
@pytest.mark.parametrize("encoder", ["toy", "resnet18"])
def test_answers_as_fastai_itself(encoder, options, theirs, tmp_path):
    unet = pytest.importorskip("fastai.vision.models.unet")
    import torchvision
    from fastai.layers import NormType

    backbone = body() if encoder == "toy" else nn.Sequential(*list(torchvision.models.resnet18().children())[:-2])
    arguments = {name: value for name, value in options.items() if name != "norm"}
    arguments |= {name: NormType[value] for name, value in theirs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        original = settled(unet.DynamicUnet(backbone, 3, EVEN, **arguments))
    net = create(encoder, **options)
    if "Weight" not in theirs.values():
        assert count(net) == count(original)
    same_logits(net, original, tmp_path / "model.pth")


@pytest.fixture
def learner_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `Learner.save` writes: beside the model its optimiser, in a list class of fastcore and NumPy's numbers."""
    module = types.ModuleType("fastcore.foundation")
    module.L = type("L", (), {"__module__": module.__name__, "__qualname__": "L"})  # type: ignore[attr-defined]
    hypers = module.L()  # type: ignore[attr-defined]
    hypers.items = [{"lr": np.float64(1e-3), "wd": 0.01}]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "fastcore", types.ModuleType("fastcore"))
        patched.setitem(sys.modules, module.__name__, module)
        torch.save({"model": OriginalUnet(3).state_dict(), "opt": {"hypers": hypers, "state": []}}, tmp_path / "l.pth")
    return tmp_path / "l.pth"


def test_a_learner_that_was_saved_is_read_without_fastai(learner_file):
    net = create(self_attention=True)
    models.load_weights(net, learner_file, layout="fastai")
    saved = models.weights.read_state(learner_file)
    assert torch.equal(net.head[0].bias, saved["layers.12.0.bias"])


def test_names_of_another_layout_are_told(learner_file):
    with pytest.raises(
        InputError, match=r"missing encoder\.features\.0\.0\.weight .*names are those of layout 'fastai'$"
    ):
        models.load_weights(create(self_attention=True), learner_file)
    with pytest.raises(InputError, match="layout: Ssd takes visdeploy, torchvision, timm, got 'fastai'"):
        models.load_weights(models.create("ssd", encoder="toy", num_classes=1), learner_file, layout="fastai")


OPTIONS: list[dict[str, Any]] = [
    {"self_attention": True, "blur": True},
    {"upsample": "transposed", "norm": "batch", "bottle": True},
    {"upsample": "nearest", "last_cross": False},
    {"upsample": "bilinear", "residual": True},
]


@pytest.mark.parametrize(
    ("encoder", "options"),
    [*(("toy", options) for options in OPTIONS), ("toy of 4", {"blur": True}), ("mobilenetv3_small_050", {})],
    ids=str,
)
def test_scripted_and_traced_it_answers_the_same_at_any_size(encoder, options):
    net = settled(create(encoder, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scripted = torch.jit.script(net)
    with torch.inference_mode():
        for size in (EVEN, ODD):
            x = torch.randn(1, 3, *size)
            assert net(x).shape == (1, 3, *size)
            torch.testing.assert_close(scripted(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_trace_holds_for_all_multiples_of_the_coarsest_stride():
    net = settled(create())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        even, odd = (torch.jit.trace(net, torch.randn(1, 3, *size)) for size in (EVEN, ODD))
    for traced, size in ((even, (32, 128)), (odd, ODD)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(traced(x), net(x), rtol=1e-4, atol=1e-5)


def test_every_engine_answers_the_same(tmp_path, photos):
    net = settled(create(self_attention=True, blur=True))
    spec = {"task": "segmentation", "labels": ["a", "b", "c"], "size": 64, "mean": (0.4,) * 3, "std": (0.2,) * 3}
    report = export(net, tmp_path / "net.vdz", spec=spec | {"resize": "native"}, golden=photos[:1])
    report.require()
    assert {"onnxruntime", "openvino", "torchscript"} & {row.engine for row in report.rows}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_parameter_learns_in_bfloat16(options):
    net = settled(create(**options)).train()
    for parameter in net.parameters():
        if not parameter.any():  # what starts as the identity
            nn.init.normal_(parameter)
    x = torch.randn(2, 3, *EVEN).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (net(x) + net(x)).float().square().mean().backward()
    still = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not still


@pytest.mark.parametrize("kind", ["shuffle", "transposed", "nearest", "bilinear"])
@pytest.mark.parametrize("blur", [False, True])
def test_upsampling_doubles_and_is_not_negative(kind, blur):
    answer = upsampling(kind, 8, 6, blur=blur)(torch.randn(2, 8, 5, 7))
    assert answer.shape == (2, 6, 10, 14)
    assert answer.min() >= 0
    assert answer.std() > 0.1


def test_pixel_shuffle_starts_without_a_checkerboard():
    x = torch.randn(1, 8, 5, 7)
    answer = upsampling("shuffle", 8, 6)(x)
    torch.testing.assert_close(answer, functional.interpolate(answer[:, :, ::2, ::2], scale_factor=2.0))
    assert not torch.equal(answer[0, 0], answer[0, 1])


def test_blur_averages_with_the_neighbours_above_and_on_the_left():
    layers = upsampling("nearest", 1, 1, blur=True)[-2:]
    blurred = nn.Sequential(*layers)(torch.tensor([[[[0.0, 4.0], [8.0, 4.0]]]]))
    assert blurred.tolist() == [[[[0.0, 2.0], [4.0, 4.0]]]]


def test_spectral_convolution_learns_its_largest_singular_value():
    conv = SpectralConv(12, 8)
    x = torch.eye(12)[None]
    before = conv.u.clone()
    conv.eval()(x)
    assert torch.equal(conv.u, before)
    conv.train()
    for _ in range(200):
        answer = conv(x)
    assert torch.linalg.matrix_norm(answer[0], 2).item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(conv.eval()(x), answer)


def test_options_do_what_they_say():
    x = torch.randn(1, 3, *EVEN)
    with torch.no_grad():
        assert torch.equal(create(residual=True)(x), x)
    plain, bottle = create(), create(bottle=True)
    assert bottle.last.conv1[0].out_channels == plain.last.conv1[0].out_channels // 2
    assert bottle.head[0].in_channels == plain.head[0].in_channels
    assert create(last_cross=False).head[0].in_channels == plain.head[0].in_channels - 3
    kinds = [type(layer).__name__ for layer in create(norm="batch").blocks[0].conv1]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"]
    attentive = [type(block.attention).__name__ for block in create(self_attention=True).blocks]
    assert attentive == ["Identity", "SelfAttention", "Identity", "Identity"]
    blurred = [len(block.shuf) for block in create(blur=True, blur_final=False).blocks]
    assert blurred == [4, 4, 4, 2]


def test_only_this_model_keeps_the_last_convolution_of_mobilenet():
    with torch.device("meta"):
        assert create("mobilenet_v2").encoder.channels[-1] == 1280
        assert encoders.create_encoder("mobilenet_v2").channels[-1] == 320


class Misordered(ToyEncoder):
    """Whose maps come coarsest first, though it says otherwise."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return super().forward(x)[::-1]


@pytest.mark.parametrize(
    ("encoder", "options", "sentence"),
    [
        ("toy of 1", {}, "'toy of 1' has feature maps of 1 stride, but a U-Net joins maps of at least two"),
        ("toy of 3", {"self_attention": True}, "only 2 finer maps"),
        ("misordered", {}, "expected features of depth"),
        ("vit_tiny_patch16_224", {}, "rising strides"),
        ("toy", {"residual": True, "num_classes": 2}, "num_classes must be 3, got 2"),
        ("toy", {"upsample": "bicubic"}, "upsample: expected 'shuffle', 'transposed', 'nearest' or 'bilinear'"),
        ("toy", {"norm": "weight"}, "norm: expected 'none' or 'batch'"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(encoder, options, sentence, monkeypatch):
    monkeypatch.setitem(encoders.TORCHVISION, "misordered", lambda *_: Misordered())
    with pytest.raises(InputError, match=sentence) as caught:
        create(encoder, **options)
    assert "\n" not in str(caught.value)
