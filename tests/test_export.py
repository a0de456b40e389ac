import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import visdeploy as vd  # noqa: E402
from nets import Answering, ConvNet, DictNet, PickyNet, TupleNet, UnscriptableNet  # noqa: E402
from visdeploy import image, tolerance  # noqa: E402
from visdeploy.bundle import ONNX, TORCHSCRIPT, Bundle, Spec  # noqa: E402
from visdeploy.comparison import relative_error  # noqa: E402
from visdeploy.errors import CheckFailedError, EngineError, InputError  # noqa: E402
from visdeploy.export import export  # noqa: E402
from visdeploy.preprocess import prepare  # noqa: E402
from visdeploy.verify import verify  # noqa: E402

Image = NDArray[np.uint8]
SPEC = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
CLASSES = SPEC | {"labels": ["road", "car", "tree"]}


def answers(path: Path, photo: Image) -> list[Image]:
    """Each engine's class map, after `verify` agreed."""
    report = verify(path)
    report.require()
    found = []
    for name in dict.fromkeys(row.engine for row in report.rows if row.engine):
        with vd.load(path, engine=name) as model:
            masks = model(photo).masks
            assert masks is not None
            found.append(masks.to_numpy())
    return found


def eager(net: Callable[[Any], Any], photo: Image, spec: dict[str, Any] = SPEC) -> NDArray[np.float32]:
    """What the network says to a photo that was prepared and normalised by hand."""
    pixels = prepare(photo, Spec.parse(spec)).pixels.astype(np.float32) / 255
    normalised = (pixels - np.array(spec["mean"], np.float32)) / np.array(spec["std"], np.float32)
    with torch.inference_mode():
        return net(torch.from_numpy(normalised.transpose(2, 0, 1)[None].copy())).numpy()[0]


def logits_of(path: Path, photo: Image) -> NDArray[np.float32]:
    with vd.load(path) as model:
        masks = model(photo).masks
        assert masks is not None
        return masks.logits


def save_onnx(path: Path, net: torch.nn.Module, shape: tuple[int | str, ...], name: str = "x") -> Path:
    """Write a plain ONNX file of a ConvNet, without visdeploy: float32 NCHW in, logits out."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    tensors = {key.replace(".", "_"): value.detach().numpy() for key, value in net.state_dict().items()}
    stride = net.first.stride[0]
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", [name, "first_weight", "first_bias"], ["a"], pads=[2] * 4, strides=[stride] * 2, name="first"
            ),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "last_weight", "last_bias"], ["y"]),
        ],
        "convnet",
        [helper.make_tensor_value_info(name, floats, shape)],
        [helper.make_tensor_value_info("y", floats, [shape[0], net.last.out_channels, "h", "w"])],
        [onnx.numpy_helper.from_array(value, key) for key, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_metadata_travels_in_both_models(binary_bundle: Path) -> None:
    opened = Bundle.open(binary_bundle)
    expected = json.loads(opened.manifest.model_dump_json(exclude={"files"}))
    graph = onnx.load_from_string(opened.read(ONNX))
    assert json.loads({entry.key: entry.value for entry in graph.metadata_props}["visdeploy"]) == expected
    with zipfile.ZipFile(io.BytesIO(opened.read(TORCHSCRIPT))) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith("extra/visdeploy.json")]
        assert json.loads(archive.read(name)) == expected
    assert set(expected["producer"]) == {"visdeploy", "torch", "onnx"}
    assert opened.read("labels.txt") == b"background\ncar\n"


def test_onnx_does_not_tell_where_it_was_made(binary_bundle: Path) -> None:
    assert str(Path(vd.__file__).parent).encode() not in Bundle.open(binary_bundle).read(ONNX)


def test_onnx_takes_any_batch_and_any_multiple_of_the_divisor(binary_bundle: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(Bundle.open(binary_bundle).read(ONNX), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    rng = np.random.default_rng(0)
    for batch, height, width in ((1, 32, 32), (1, 32, 160), (3, 96, 64), (2, 64, 64)):
        images = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
        (logits,) = session.run(["logits"], {"images": images})
        assert logits.shape == (batch, 1, height, width)
        single = np.concatenate([session.run(None, {"images": pixels[None]})[0] for pixels in images])
        assert relative_error(logits, single) <= tolerance.LOGITS["fp32"]


def test_native_size_serves_every_engine(tmp_path: Path, photos: list[Image]) -> None:
    spec = SPEC | {"resize": "native", "divisor": 4}
    export(ConvNet(1, stride=2), tmp_path / "native.vdz", spec=spec, golden=photos)
    first, *others = answers(tmp_path / "native.vdz", photos[1])
    assert first.shape == photos[1].shape[:2]
    assert all((other != first).mean() <= tolerance.MASK_PIXELS["fp32"] for other in others)


def test_network_that_takes_only_multiples_of_its_stride(tmp_path: Path, photos: list[Image]) -> None:
    spec = SPEC | {"resize": "native", "size": (100, 70)}
    export(PickyNet(1), tmp_path / "net.vdz", spec=spec, golden=photos)
    assert {found.shape for found in answers(tmp_path / "net.vdz", photos[1])} == {photos[1].shape[:2]}


def test_answers_are_those_of_the_module(tmp_path: Path, photos: list[Image]) -> None:
    net = ConvNet(3).eval()
    report = export(net, tmp_path / "net.vdz", spec=CLASSES, golden=photos)
    assert report.ok
    assert report.bundle == str(tmp_path / "net.vdz")
    reference = eager(net, photos[1], CLASSES)
    assert relative_error(logits_of(tmp_path / "net.vdz", photos[1]), reference) <= tolerance.LOGITS["fp32"]
    assert Bundle.open(tmp_path / "net.vdz").manifest.torchscript == "script"


@pytest.mark.parametrize("make", [DictNet, TupleNet])
def test_the_output_that_matters_is_taken(make: type[torch.nn.Module], tmp_path: Path, photos: list[Image]) -> None:
    export(make(1), tmp_path / "net.vdz", spec=SPEC, golden=photos)
    reference = eager(ConvNet(1), photos[0])
    assert relative_error(logits_of(tmp_path / "net.vdz", photos[0]), reference) <= tolerance.LOGITS["fp32"]


def test_named_output_of_a_dict_is_taken(tmp_path: Path, photos: list[Image]) -> None:
    export(DictNet(1), tmp_path / "net.vdz", spec=SPEC | {"output_name": "aux"}, golden=photos)
    reference = -eager(ConvNet(1), photos[0])
    assert relative_error(logits_of(tmp_path / "net.vdz", photos[0]), reference) <= tolerance.LOGITS["fp32"]


def test_module_that_only_traces(tmp_path: Path, photos: list[Image]) -> None:
    export(UnscriptableNet(), tmp_path / "net.vdz", spec=SPEC, golden=photos)
    assert Bundle.open(tmp_path / "net.vdz").manifest.torchscript == "trace"
    reference = 2 * eager(ConvNet(1), photos[0])
    assert relative_error(logits_of(tmp_path / "net.vdz", photos[0]), reference) <= tolerance.LOGITS["fp32"]


def test_foreign_unet(tmp_path: Path, photos: list[Image]) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    net = smp.Unet("resnet18", encoder_depth=3, encoder_weights=None, decoder_channels=(16, 8, 8), classes=3).eval()
    export(net, tmp_path / "net.vdz", spec=CLASSES, golden=photos)
    for found in answers(tmp_path / "net.vdz", photos[1]):
        assert found.shape == photos[1].shape[:2]
    reference = eager(net, photos[1], CLASSES)
    assert relative_error(logits_of(tmp_path / "net.vdz", photos[1]), reference) <= tolerance.LOGITS["fp32"]


@pytest.mark.parametrize(
    ("shape", "max_batch"), [(("n", 3, "h", "w"), 8), (("n", 3, 64, 64), 8), ((1, 3, 64, 64), 1), ((1, 3, "h", "w"), 1)]
)
@pytest.mark.parametrize("name", ["x", "images"])
def test_bare_onnx_file(
    shape: tuple[int | str, ...], max_batch: int, name: str, tmp_path: Path, photos: list[Image]
) -> None:
    net = ConvNet(3, stride=2)
    source = save_onnx(tmp_path / "net.onnx", net, shape, name)
    export(source, tmp_path / "net.vdz", spec=CLASSES, golden=photos)
    manifest = Bundle.open(tmp_path / "net.vdz").manifest
    assert (manifest.torchscript, manifest.max_batch, manifest.output_name) == ("absent", max_batch, "y")
    reference = eager(net, photos[0], CLASSES)
    assert relative_error(logits_of(tmp_path / "net.vdz", photos[0]), reference) <= tolerance.LOGITS["fp32"]
    first, *others = answers(tmp_path / "net.vdz", photos[0])
    assert len(others) == 1
    assert (others[0] != first).mean() <= tolerance.MASK_PIXELS["fp32"]
    with vd.load(tmp_path / "net.vdz", engine="onnxruntime") as model:
        assert [result.error for result in model.stream(photos * 5)] == [None] * 10


def test_onnx_file_with_uint8_input_is_left_alone(tmp_path: Path, photos: list[Image]) -> None:
    export(ConvNet(1), tmp_path / "first.vdz", spec=SPEC | {"input_name": "pixels"}, golden=photos)
    (tmp_path / "net.onnx").write_bytes(Bundle.open(tmp_path / "first.vdz").read(ONNX))
    export(tmp_path / "net.onnx", tmp_path / "second.vdz", spec=SPEC | {"mean": 0, "std": 1}, golden=photos)
    assert Bundle.open(tmp_path / "second.vdz").manifest.input_name == "pixels"
    first, second = (logits_of(tmp_path / f"{name}.vdz", photos[0]) for name in ("first", "second"))
    np.testing.assert_array_equal(second, first)


def test_onnx_file_in_half_precision(tmp_path: Path, photos: list[Image]) -> None:
    net = ConvNet(1)
    model = onnx.load(save_onnx(tmp_path / "net.onnx", net, ("n", 3, "h", "w")))
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    onnx.save(model, tmp_path / "net.onnx")
    spec = SPEC | {"tolerances": {"fp32": 1e-2}}
    export(tmp_path / "net.onnx", tmp_path / "net.vdz", spec=spec, golden=photos)
    logits = logits_of(tmp_path / "net.vdz", photos[0])
    assert 0 < relative_error(logits, eager(net, photos[0])) < tolerance.LOGITS["fp16"]


def remake(path: Path, change: Callable[[Any], None]) -> Path:
    model = onnx.load(save_onnx(path, ConvNet(3), (1, 3, 64, 64)))
    change(model.graph)
    onnx.save(model, path)
    return path


def set_dims(graph: Any, *dims: int) -> None:
    for dim, size in zip(graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
        dim.dim_value = size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: set_dims(graph, 4, 3, 64, 64), "has a fixed batch of 4; export it with a batch of 1 or any"),
        (lambda graph: set_dims(graph, 1, 3, 32, 64), "has a fixed height of 32, the spec says 64"),
        (lambda graph: set_dims(graph, 1, 3, 64, 96), "has a fixed width of 96, the spec says 64"),
        (
            lambda graph: set_dims(graph, 1, 64, 64, 3),
            r"expected float \(B, 3, h, w\) or uint8 \(B, h, w, 3\), .*FLOAT",
        ),
        (lambda graph: graph.input[0].type.tensor_type.shape.dim.pop(), "expected float"),
        (lambda graph: setattr(graph.input[0].type.tensor_type, "elem_type", 7), r"takes INT64 \[1, 3, 64, 64\]"),
        (lambda graph: graph.input.append(onnx.helper.make_tensor_value_info("z", 1, [1])), r"one input, .*'x', 'z'"),
        (
            lambda graph: graph.output.append(onnx.helper.make_tensor_value_info("b", 1, [1, 8, 64, 64])),
            r"has the outputs \['y', 'b'\]; the spec must name the one to serve",
        ),
        (lambda graph: setattr(graph.node[0], "op_type", "Convolve"), "is not a valid ONNX file"),
    ],
)
def test_onnx_file_of_another_form_is_refused(
    change: Callable[[Any], None], message: str, tmp_path: Path, photos: list[Image]
) -> None:
    source = remake(tmp_path / "net.onnx", change)
    with pytest.raises(InputError, match=message):
        export(source, tmp_path / "net.vdz", spec=CLASSES, golden=photos)
    assert not (tmp_path / "net.vdz").exists()


def test_named_output_of_an_onnx_file_is_taken(tmp_path: Path, photos: list[Image]) -> None:
    source = remake(
        tmp_path / "net.onnx",
        lambda graph: graph.output.insert(0, onnx.helper.make_tensor_value_info("b", 1, [1, 8, 64, 64])),
    )
    export(source, tmp_path / "net.vdz", spec=CLASSES | {"output_name": "y"}, golden=photos)
    assert logits_of(tmp_path / "net.vdz", photos[0]).shape == (3, 64, 64)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None, "folder"])
def test_what_is_no_onnx_file_is_one_sentence(content: bytes | str | None, tmp_path: Path, photos: list[Image]) -> None:
    source = tmp_path / "net.onnx"
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content == "folder":
        source.mkdir()
    with pytest.raises(InputError, match=r"no such file|is not a valid ONNX file") as caught:
        export(source, tmp_path / "net.vdz", spec=SPEC, golden=photos)
    assert "\n" not in str(caught.value)


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("no\nsuch thing")


class Branching(torch.nn.Module):
    """What it does depends on its pixels, which a trace cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean().item() > 0:
            return x[:, :1]
        return -x[:, :1]


@pytest.mark.parametrize(
    ("net", "changes", "message"),
    [
        (ConvNet(3), {}, "labels: the network has 3 channels, the spec names 2 labels"),
        (ConvNet(2), {"labels": ["a", "b", "c"]}, "labels: the network has 2 channels, the spec names 3 labels"),
        (ConvNet(1), {"labels": ["a", "b"], "activation": "softmax"}, "activation: softmax does not go with 1 output"),
        (ConvNet(2), {"activation": "sigmoid"}, "activation: sigmoid does not go with 2 output channels"),
        (
            ConvNet(2),
            {"labels": ["a", "b"], "activation": "none"},
            "activation: none with two labels means one channel",
        ),
        (ConvNet(1), {"threshhold": 0.5}, "threshhold: no such field; did you mean 'threshold'"),
        (torch.nn.Conv2d(1, 1, 1), {}, r"cannot answer a float32 batch of shape \(1, 3, 64, 64\) \(.*channels"),
        (ConvNet(1).half(), {}, "cannot answer a float32 batch"),
        (Failing(), {}, r"cannot answer a float32 batch of shape \(1, 3, 64, 64\) \(.*such thing"),
        (Answering(lambda x: "car"), {}, "expected a module that returns a tensor, got str"),
        (Answering(lambda x: []), {}, "expected a module that returns a tensor, got list"),
        (Answering(lambda x: x.mean((2, 3))), {}, r"expected logits of shape \(1, C, h, w\) for segmentation, got"),
        (Answering(lambda x: x[:, :1] / 0), {}, "its logits for golden image 0 are not all finite"),
        ({"weights": 1}, {}, "net: expected a torch module or the path of an ONNX file, got dict"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    net: Any, changes: dict[str, Any], message: str, tmp_path: Path, photos: list[Image]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export(net, tmp_path / "net.vdz", spec=SPEC | changes, golden=photos)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_network_that_a_trace_cannot_follow_is_caught(tmp_path: Path, photos: list[Image]) -> None:
    golden = [photos[0] // np.uint8(2) + np.uint8(offset) for offset in (0, 127)]
    with pytest.raises(CheckFailedError, match="network on openvino"):
        export(Branching(), tmp_path / "net.vdz", spec=SPEC, golden=golden)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        ([], "golden: expected at least one image to record answers for, got none"),
        ("photo.png", "golden: expected several images, got a single str"),
        (np.zeros((64, 64, 3), np.uint8), "golden: expected several images, got a single ndarray"),
        (["missing.png"], "missing.png: cannot be read"),
        ([b"garbage"], "image"),
    ],
)
def test_golden_images_must_be_images(golden: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(ConvNet(1), tmp_path / "net.vdz", spec=SPEC, golden=golden)


def test_golden_images_are_kept_as_they_were_given(tmp_path: Path, photos: list[Image]) -> None:
    image.write(tmp_path / "photo.jpg", photos[0])
    path = tmp_path / "net.vdz"
    jpeg = (tmp_path / "photo.jpg").read_bytes()
    export(ConvNet(1), path, spec=SPEC, golden=[tmp_path / "photo.jpg", jpeg, photos[1]])
    from visdeploy.golden import unpack

    recorded = unpack(Bundle.open(path).read("golden.npz"), "")
    assert [entry.source for entry in recorded[:2]] == [jpeg, jpeg]
    np.testing.assert_array_equal(image.decode(recorded[2].source), photos[1])


@pytest.mark.parametrize("target", ["no/such/net.vdz", "file/net.vdz", "folder"])
def test_unwritable_target_is_refused_before_the_work(target: str, tmp_path: Path, photos: list[Image]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    steps: list[str] = []
    with pytest.raises(InputError, match="path: expected a file in a folder that can be written to"):
        export(ConvNet(1), tmp_path / target, spec=SPEC, golden=photos, progress=steps.append)
    assert steps == []


def test_engine_that_differs_stops_the_export(
    tmp_path: Path, photos: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    from visdeploy.engines.onnxruntime import OnnxRuntimeEngine

    honest = OnnxRuntimeEngine.infer
    monkeypatch.setattr(OnnxRuntimeEngine, "infer", lambda self, images: honest(self, images) + 0.1)
    path = tmp_path / "net.vdz"
    path.write_bytes(b"what was there before")
    with pytest.raises(CheckFailedError, match=r"net\.vdz: the answers drifted: network on onnxruntime fp32") as caught:
        export(ConvNet(1), path, spec=SPEC, golden=photos)
    assert "partial" not in str(caught.value)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), EngineError("refused")])
def test_interrupted_export_leaves_nothing(
    failure: BaseException, tmp_path: Path, photos: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        assert path.is_file()
        raise failure

    monkeypatch.setattr("visdeploy.export.verify", fail)
    with pytest.raises(type(failure)):
        export(ConvNet(1), tmp_path / "net.vdz", spec=SPEC, golden=photos)
    assert list(tmp_path.iterdir()) == []


def test_module_of_the_caller_stays_as_it_was(tmp_path: Path, photos: list[Image]) -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5), ConvNet(1)).train()
    net[2].first.requires_grad_(False)
    net[0].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    flags = [(module.training, [p.requires_grad for p in module.parameters()]) for module in net.modules()]
    export(net, tmp_path / "net.vdz", spec=SPEC, golden=photos)
    assert [(module.training, [p.requires_grad for p in module.parameters()]) for module in net.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    net(torch.zeros(1, 3, 64, 64)).sum().backward()
    assert net[2].last.weight.grad is not None


def test_spec_of_a_bundle_serves_the_next_export(binary_bundle: Path, tmp_path: Path, photos: list[Image]) -> None:
    spec = Bundle.open(binary_bundle).manifest
    export(ConvNet(1), tmp_path / "net.vdz", spec=spec, golden=photos)
    assert Bundle.open(tmp_path / "net.vdz").manifest.labels == spec.labels
