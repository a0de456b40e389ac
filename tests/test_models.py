"""The U-Net reproduces the course's numbers, scripts and traces, and takes weights from elsewhere."""

import re
import warnings

import pytest
import torch

from visdeploy import models
from visdeploy.errors import InputError
from visdeploy.models.weights import read_state
from visdeploy.spec import Spec
from visdeploy.train import checkpoint

SMALL = "mobilenetv3_small_050"


@pytest.fixture
def course_net() -> torch.nn.Module:
    net = models.create("unet", encoder="resnet34", num_classes=1)
    models.freeze_encoder(net)
    return net


def test_resnet34_reproduces_the_course_summary(course_net, capsys):
    table = models.summary(course_net, 128)
    assert table.parameters == 22_009_665
    assert table.trainable == 724_993
    assert "22,009,665 parameters" in capsys.readouterr().out
    crosses = [row.output_shape for row in table.rows if row.name.startswith("blocks.") and row.name.endswith("x_conv")]
    assert crosses == [(-1, 128, side, side) for side in (8, 16, 32, 64)]
    assert all(row.trainable is False for row in table.rows if row.name.startswith("encoder.") and row.parameters)
    assert all(row.trainable for row in table.rows if not row.name.startswith("encoder.") and row.parameters)
    assert table.rows[-1].output_shape == (-1, 1, 128, 128)


def test_cross_features_have_the_course_shapes(course_net):
    features = course_net.encoder(torch.zeros(1, 3, 128, 128))
    assert [tuple(feature.shape[1:]) for feature in features[:4]] == [
        (64, 64, 64),
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
    ]


def test_summary_leaves_the_model_as_it_was(course_net):
    course_net.train()
    before = {name: value.clone() for name, value in course_net.state_dict().items()}
    models.summary(course_net, 64)
    assert course_net.training
    assert all(torch.equal(value, before[name]) for name, value in course_net.state_dict().items())
    assert not any(module._forward_hooks for module in course_net.modules())


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50", "tf_efficientnet_lite0", SMALL, "convnext_atto"])
@pytest.mark.parametrize("compile_with", ["script", "trace"])
def test_scripts_and_traces_to_the_same_answers(encoder, compile_with):
    torch.manual_seed(0)
    net = models.create("unet", encoder=encoder, num_classes=3).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        example = torch.randn(1, 3, 64, 96)
        compiled = torch.jit.script(net) if compile_with == "script" else torch.jit.trace(net, example)
    other = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        expected = net(other)
        assert expected.shape == (2, 3, 96, 64)
        torch.testing.assert_close(compiled(other), expected)


def test_sizes_not_divisible_by_32_are_refused_in_one_sentence():
    net = models.create("unet", encoder=SMALL, num_classes=1)
    with pytest.raises(ValueError, match=r"divisible by 32, got 50 x 64"):
        net(torch.zeros(1, 3, 50, 64))


def test_decoder_width_is_an_option():
    narrow = models.create("unet", encoder=SMALL, num_classes=1, decoder_channels=8)
    assert narrow.head.in_channels == 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "unett", "encoder": "resnet18"}, "did you mean 'unet'"),
        ({"name": "unet", "encoder": "resnet33"}, "did you mean"),
        ({"name": "unet", "encoder": "vit_tiny_patch16_224"}, "rising strides|no feature pyramid"),
        ({"name": "unet", "encoder": "test_mambaout"}, "on axis 1"),
        (
            {"name": "unet", "encoder": "resnet18", "decoder_chanels": 3},
            "expected decoder_channels as options, got 'decoder_chanels'",
        ),
        (
            {"name": "unet", "encoder": "resnet18", "num_classes": 0},
            "num_classes: expected a number of at least 1, got 0",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        models.create(**{"num_classes": 1, **arguments})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": []}, "[models] name: expected text, got []"),
        ({"encoder": []}, "[models] encoder: expected text, got []"),
        ({"weights": 5}, "[models] weights: expected str | Path | None, got 5"),
        ({"num_classes": "3"}, "[models] num_classes: expected a whole number, got '3'"),
        ({"num_classes": 10**30}, "[models] num_classes: expected a number of at most 1048576, got"),
        ({"decoder_channels": 1}, "[unet] decoder_channels: expected a number of at least 2, got 1"),
        ({"decoder_channels": -1}, "[unet] decoder_channels: expected a number of at least 2, got -1"),
        (
            {"name": "upsample", "decoder_channels": 0},
            "[upsample] decoder_channels: expected a number of at least 1, got 0",
        ),
    ],
)
def test_no_argument_meets_an_error_of_torchs(options, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        models.create(**{"name": "unet", "encoder": "resnet10t", "num_classes": 1, **options})


def test_list_says_what_each_model_is():
    assert "lesson-14" in models.list()["unet"]


def test_own_weights_round_trip(tmp_path):
    source = models.create("unet", encoder=SMALL, num_classes=2)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    target = models.create("unet", encoder=SMALL, num_classes=2)
    report = models.load_weights(target, tmp_path / "w.pt")
    assert not report.unused
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_torchvision_weights_fill_the_encoder(tmp_path):
    import torchvision

    published = torchvision.models.resnet18(weights=None)
    torch.save(published.state_dict(), tmp_path / "r18.pth")
    net = models.create("unet", encoder="resnet18", num_classes=1, weights=tmp_path / "r18.pth")
    assert torch.equal(net.encoder.layer3[0].conv1.weight, published.layer3[0].conv1.weight)
    report = models.load_weights(net, tmp_path / "r18.pth", layout="torchvision")
    assert report.unused == ("encoder.fc.weight", "encoder.fc.bias")


def test_timm_weights_fill_the_encoder(tmp_path):
    import timm

    published = timm.create_model(SMALL)
    torch.save({"state_dict": published.state_dict()}, tmp_path / "m.pth")
    net = models.create("unet", encoder=SMALL, num_classes=1, weights=tmp_path / "m.pth")
    assert torch.equal(net.encoder.body.conv_stem.weight, published.conv_stem.weight)


def test_course_weights_give_the_course_networks_answer(tmp_path):
    torch.manual_seed(0)
    original = CourseUnet34().eval()
    torch.save(original.state_dict(), tmp_path / "128urn.h5")
    net = models.create("unet", encoder="resnet34", num_classes=1).eval()
    models.load_weights(net, tmp_path / "128urn.h5", layout="fastai")
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(net(x)[:, 0], original(x))


def test_every_mismatch_is_listed(tmp_path):
    state = models.create("unet", encoder=SMALL, num_classes=2).state_dict()
    del state["head.bias"]
    state["blocks.0.bn.weight"] = torch.zeros(3)
    state["stranger"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    net = models.create("unet", encoder=SMALL, num_classes=2)
    with pytest.raises(InputError) as caught:
        models.load_weights(net, tmp_path / "w.pt")
    for part in ("missing head.bias", "blocks.0.bn.weight: expected (256,), got (3,)", "unexpected stranger"):
        assert part in str(caught.value)


def test_weights_of_another_architecture_are_one_line(tmp_path):
    torch.save({f"stranger.{k}": torch.zeros(1) for k in range(9)}, tmp_path / "w.pt")
    net = models.create("unet", encoder=SMALL, num_classes=2)
    with pytest.raises(
        InputError, match=r"missing, 0 of another shape, 0 of another type, 9 unexpected: .*; and \d+ more$"
    ) as caught:
        models.load_weights(net, tmp_path / "w.pt")
    assert str(caught.value).count("missing ") == 3


@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"PK\x03\x04broken"])
def test_unreadable_weights_are_one_sentence(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    net = models.create("unet", encoder=SMALL, num_classes=2)
    with pytest.raises(InputError, match=r"is not a file of weights \([^`]+\)$|is damaged, or cut short"):
        models.load_weights(net, tmp_path / "w.pt")
    with pytest.raises(InputError, match="no such file"):
        models.load_weights(net, tmp_path / "none.pt")
    with pytest.raises(InputError, match="layout"):
        models.load_weights(net, tmp_path / "w.pt", layout="keras")


def flip_a_bit(path, inside: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(inside)] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("old", [False, True])
def test_flipped_bits_are_found_where_torch_wrote_checksums(tmp_path, old):
    path = tmp_path / "w.pt"
    weight = torch.arange(1.0, 65)
    torch.save({"weight": weight}, path, _use_new_zipfile_serialization=not old)
    assert torch.equal(read_state(path)["weight"], weight)
    flip_a_bit(path, weight.numpy().tobytes())
    if old:
        assert not torch.equal(read_state(path)["weight"], weight)
        return
    with pytest.raises(InputError, match=r"w\.pt is damaged: expected w/data/0 as its checksum"):
        read_state(path)


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.zeros(1)},
        {None: torch.zeros(1)},
        {b"a": torch.zeros(1)},
        {"a": torch.ones(2).to_sparse()},
        {"a": torch.zeros(2, device="meta")},
        {"a": torch.zeros(2, dtype=torch.complex64)},
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch warns when it reads sparse arrays
def test_what_is_no_array_by_name_is_refused(tmp_path, content):
    torch.save({"state_dict": content}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"expected dense arrays of real numbers by name, got .*: torch\."):
        read_state(tmp_path / "w.pt")


def test_integers_are_no_weights(tmp_path):
    net = models.create("unet", encoder="resnet10t", num_classes=1, decoder_channels=4)
    state = {name: value.half() for name, value in net.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    models.load_weights(net, tmp_path / "w.pt")
    torch.save({**state, "head.weight": torch.ones_like(state["head.weight"], dtype=torch.int8)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"1 of another type.*head.weight: expected torch.float32, got torch.int8"):
        models.load_weights(net, tmp_path / "w.pt")


@pytest.mark.parametrize(
    "factors", [{"g": (), "v": ()}, {"g": (2,), "v": (2, 2)}, {"orig": (2,), "u": (2,), "v": (2,)}]
)
@pytest.mark.parametrize("name", ["head.bias", "head.weight"])
def test_norms_of_a_wrong_shape_are_unexpected_arrays(tmp_path, name, factors):
    net = models.create("unet", encoder="resnet10t", num_classes=1, decoder_channels=4)
    torch.save({f"up5.{name[5:]}_{part}": torch.ones(shape) for part, shape in factors.items()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"{len(factors)} unexpected"):
        models.load_weights(net, tmp_path / "w.pt", layout="fastai")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"spec": "{"}, "names no network that can be built"),
        ({"spec": None}, "names no network that can be built"),
        ({"spec": '{"labels": 5}'}, "names no network that can be built"),
        ({"state_dict": {}}, "does not fit this model"),
        ({"state_dict": {1: torch.zeros(1)}}, "expected dense arrays"),
    ],
)
def test_a_checkpoint_with_other_content_is_one_sentence(tmp_path, change, sentence):
    architecture = {"name": "unet", "encoder": "resnet10t", "num_classes": 1, "decoder_channels": 4}
    fields = {"task": "segmentation", "labels": ["disc"], "size": 64, "mean": 0.5, "std": 0.5}
    path = tmp_path / "model.pt"
    checkpoint.save(path, models.create(**architecture), Spec.parse({**fields, "architecture": architecture}))
    assert checkpoint.load(path)[1].architecture == architecture
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(InputError, match=sentence):
        checkpoint.load(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"weight": Bomb()}, tmp_path / "w.pt")
    with pytest.raises(InputError):
        models.load_weights(models.create("unet", encoder=SMALL, num_classes=1), tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.realdata
def test_published_lite0_weights_load(data_dir):
    path = data_dir.parent / "weights" / "tf_efficientnet_lite0_timm_keys.pth"
    if not path.is_file():
        pytest.skip(f"{path.name} does not lie beside $VISDEPLOY_DATA")
    net = models.create("unet", encoder="tf_efficientnet_lite0", num_classes=11, weights=path)
    assert models.normalisation("tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert torch.equal(net.encoder.body.conv_stem.weight, torch.load(path, weights_only=True)["conv_stem.weight"])


class CourseBlock(torch.nn.Module):
    """The course's UnetBlock, with its parameter names."""

    def __init__(self, up_in: int, x_in: int, n_out: int) -> None:
        super().__init__()
        up_out = x_out = n_out // 2
        self.x_conv = torch.nn.Conv2d(x_in, x_out, 1)
        self.tr_conv = torch.nn.ConvTranspose2d(up_in, up_out, 2, stride=2)
        self.bn = torch.nn.BatchNorm2d(n_out)

    def forward(self, up_p, x_p):
        return self.bn(torch.relu(torch.cat([self.tr_conv(up_p), self.x_conv(x_p)], dim=1)))


class CourseUnet34(torch.nn.Module):
    """The course's Unet34: a cut ResNet whose features are saved by hooks."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        self.rn = torch.nn.Sequential(*list(torchvision.models.resnet34(weights=None).children())[:8])
        self.saved: dict[int, torch.Tensor] = {}
        for position in (2, 4, 5, 6):
            self.rn[position].register_forward_hook(lambda _, __, out, key=position: self.saved.update({key: out}))
        self.up1 = CourseBlock(512, 256, 256)
        self.up2 = CourseBlock(256, 128, 256)
        self.up3 = CourseBlock(256, 64, 256)
        self.up4 = CourseBlock(256, 64, 256)
        self.up5 = torch.nn.ConvTranspose2d(256, 1, 2, stride=2)

    def forward(self, x):
        x = torch.relu(self.rn(x))
        for block, position in ((self.up1, 6), (self.up2, 5), (self.up3, 4), (self.up4, 2)):
            x = block(x, self.saved[position])
        return self.up5(x)[:, 0]


def test_the_encoder_of_another_model_is_taken_from_its_checkpoint(tmp_path):
    segmenter = models.create("unet", encoder="resnet10t", num_classes=1, decoder_channels=8)
    torch.save(segmenter.state_dict(), tmp_path / "unet.pt")
    detector = models.create("ssd", encoder="resnet10t", num_classes=2, channels=8, weights=tmp_path / "unet.pt")
    learnt = segmenter.encoder.state_dict()
    assert all(torch.equal(value, learnt[name]) for name, value in detector.encoder.state_dict().items())
