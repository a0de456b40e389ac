"""Files that answer boxes and masks themselves: TorchScript with predict, and ONNX with NMS."""

import io
import json
import struct
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import visdeploy
from nets import ConvNet
from visdeploy import export, ops
from visdeploy.bundle import Bundle
from visdeploy.engines import answering_file
from visdeploy.engines.exported import open_file
from visdeploy.engines.torchscript import accepting_deprecation
from visdeploy.errors import CheckFailedError, EngineError, InputError
from visdeploy.onnx_detector import export_onnx, with_nms
from visdeploy.onnx_files import output_names
from visdeploy.spec import Manifest
from visdeploy.torchscript_file import export_torchscript
from visdeploy.verify import verify


def load_script(path):
    with accepting_deprecation():
        return torch.jit.load(path)


@pytest.fixture(scope="module")
def sizes():
    """Images that are shrunk by area, cropped, kept and enlarged; the last is enlarged only."""
    rng = np.random.default_rng(11)
    return [
        rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((75, 101), (64, 96), (131, 97), (300, 110), (20, 30))
    ]


@pytest.fixture(scope="module")
def detector_script(detector_bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "detector.ts"
    export_torchscript(Bundle.open(detector_bundle), path)
    return path


def test_a_detectors_script_answers_as_predict(detector_bundle, detector_script, sizes):
    script = load_script(detector_script)
    found = 0
    with visdeploy.load(detector_bundle, engine="torchscript") as model:
        for image in sizes[:-1]:
            boxes, scores, labels = script.predict(torch.from_numpy(image))
            expected = model(image).boxes
            np.testing.assert_array_equal(boxes.numpy(), expected.xyxy)
            np.testing.assert_array_equal(scores.numpy(), expected.scores)
            np.testing.assert_array_equal(labels.numpy(), expected.labels)
            found += len(scores)
        enlarged = script.predict(torch.from_numpy(sizes[-1]))
        expected = model(sizes[-1]).boxes
    assert found > 20
    assert abs(len(enlarged[1]) - len(expected.scores)) <= 2
    assert script.labels == list(Bundle.open(detector_bundle).manifest.labels)
    assert (script.task, len(script.size)) == ("detection", 2)


def test_a_detectors_script_answers_batches(detector_bundle, detector_script):
    spec = Bundle.open(detector_bundle).manifest
    images = np.random.default_rng(3).integers(0, 256, (3, *spec.size, 3), np.uint8)
    with visdeploy.load(detector_bundle, engine="torchscript") as model:
        logits = model.engine.infer(images)
    expected = ops.detect(
        logits[..., :-4], logits[..., -4:], spec.anchors.boxes(spec.size), image_size=spec.size,
        weights=spec.box_weights, score_threshold=spec.threshold, iou_threshold=spec.iou_threshold,
        top_k=spec.top_k, max_det=spec.max_det,
    )  # fmt: skip
    boxes, scores, labels, counts = load_script(detector_script)(torch.from_numpy(images))
    assert boxes.shape == (3, spec.max_det, 4)
    assert counts.tolist() == [len(one.scores) for one in expected]
    for i, one in enumerate(expected):
        np.testing.assert_array_equal(boxes[i, : counts[i]].numpy(), one.boxes)
        np.testing.assert_array_equal(scores[i, : counts[i]].numpy(), one.scores)
        np.testing.assert_array_equal(labels[i, : counts[i]].numpy(), one.labels)


SEGMENTERS = {
    "letterbox": (4, 4, {"labels": ["road", "car", "tree", "sky"], "size": (64, 96), "resize": "letterbox"}),
    "background": (3, 2, {"labels": ["background", "car", "tree"], "size": (64, 64), "interpolation": "nearest"}),
    "binary": (1, 2, {"labels": ["car"], "size": (64, 96)}),
    "native": (1, 1, {"labels": ["car"], "size": (64, 96), "resize": "native"}),
    "nothing": (1, 1, {"labels": ["car"], "size": (64, 96), "threshold": 0.9999999}),
}


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_a_segmenters_script_answers_as_predict(kind, sizes, tmp_path):
    channels, stride, fields = SEGMENTERS[kind]
    spec = {"task": "segmentation", "mean": 0.5, "std": 0.5, **fields}
    export.export(ConvNet(channels, stride), tmp_path / "model.vdz", spec=spec, golden=sizes[:1])
    export_torchscript(Bundle.open(tmp_path / "model.vdz"), tmp_path / "model.ts")
    script = load_script(tmp_path / "model.ts")
    with visdeploy.load(tmp_path / "model.vdz", engine="torchscript") as model:
        for image in sizes[:-1]:
            labels, text, offsets = script.predict(torch.from_numpy(image))
            expected = model(image).masks
            assert labels.tolist() == expected.labels.tolist()
            counts = [bytes(text[first:last].numpy()) for first, last in pairwise(offsets)]
            assert counts == [rle["counts"] for rle in expected.rle]
            assert len(counts) == 0 if kind == "nothing" else len(counts) > 0


class Head(torch.nn.Module):
    """Numbers for an image, from the mean colours of its quarters."""

    def __init__(self, numbers):
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(2)
        self.linear = torch.nn.Linear(12, numbers)
        self.linear.weight.data = torch.linspace(-2, 2, 12 * numbers).reshape(numbers, 12).sin()

    def forward(self, x):
        return self.linear(self.pool(x).flatten(1))


@pytest.mark.parametrize(("task", "numbers"), [("localization", 7), ("localization", 4), ("classification", 3)])
def test_scripts_of_one_object_answer_as_predict(task, numbers, sizes, tmp_path):
    labels = ["dog"] if numbers == 4 else ["dog", "cat", "bird"]
    spec = {"task": task, "labels": labels, "size": (32, 48), "mean": 0.5, "std": 0.5, "resize": "letterbox"}
    export.export(Head(numbers), tmp_path / "model.vdz", spec=spec, golden=sizes[:1])
    export_torchscript(Bundle.open(tmp_path / "model.vdz"), tmp_path / "model.ts")
    script = load_script(tmp_path / "model.ts")
    with visdeploy.load(tmp_path / "model.vdz", engine="torchscript") as model:
        for image in sizes[:-1]:
            answer, expected = script.predict(torch.from_numpy(image)), model(image)
            if task == "classification":
                np.testing.assert_allclose(answer.numpy(), expected.classes.probabilities, atol=1e-7)
                continue
            np.testing.assert_allclose(answer[0].numpy(), expected.boxes.xyxy, atol=1e-5)
            np.testing.assert_allclose(answer[1].numpy(), expected.boxes.scores, atol=1e-7)
            assert answer[2].tolist() == expected.boxes.labels.tolist()


def test_a_script_refuses_what_is_no_image(detector_script):
    script = load_script(detector_script)
    for image, said in (
        (torch.zeros(4, 4), r"\[predict\] image: expected uint8 \(H, W, 3\), got 2 dimensions"),
        (torch.zeros(4, 4, 3), r"\[letterbox\] image: expected uint8, got float32"),
        (torch.zeros(0, 4, 3, dtype=torch.uint8), r"\[letterbox\] image: expected \(H, W, 3\) with sides from 1"),
    ):
        with pytest.raises(Exception, match=said):
            script.predict(image)


def raw_model(anchors, classes):
    """A graph that answers its input."""
    shape = ["batch", anchors, classes + 4]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("raw", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["raw"], ["logits"])], "raw", tensors[:1], tensors[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nms_in_a_graph_decides_as_ops_detect(engine):
    pytest.importorskip(engine)
    rng = np.random.default_rng(9)
    found = 0
    for _ in range(6):
        n, classes = int(rng.integers(3, 150)), int(rng.integers(2, 6))
        corners = rng.uniform(0, 60, (n, 2))
        anchors = np.concatenate([corners, corners + rng.uniform(0.1, 30, (n, 2))], 1).astype(np.float32)
        fields = {
            **{"task": "detection", "labels": [f"class {k}" for k in range(1, classes)], "size": (48, 64)},
            **{"mean": 0.5, "std": 0.5, "activation": "softmax", "threshold": rng.uniform(0.02, 0.2)},
            **{"anchors": {"rule": "boxes", "corners": anchors.tolist()}, "iou_threshold": rng.uniform(0.2, 0.6)},
            **{"top_k": int(rng.integers(1, 60)), "max_det": int(rng.integers(1, 40))},
        }
        spec = Manifest.parse(fields)
        raw = rng.normal(0, 2, (3, n, classes + 4)).astype(np.float32)
        # As wide as allowed, and outside of the image, where clipping leaves no area.
        raw[:, ::5, -2:], raw[:, 1::9, -4:-2] = 40, 60
        if engine == "onnxruntime":  # OpenVINO's TopK takes equal scores in any order
            raw[:, 2::6, :-4] = raw[:, 1:2, :-4]
        expected = ops.detect(
            raw[..., :-4], raw[..., -4:], anchors, image_size=spec.size, score_threshold=spec.threshold,
            iou_threshold=spec.iou_threshold, top_k=spec.top_k, max_det=spec.max_det,
        )  # fmt: skip
        graph = with_nms(raw_model(n, classes), spec).SerializeToString()
        _, run = getattr(answering_file, f"_{engine}")(graph, "raw", "a graph")
        assert output_names(graph) == ("boxes", "scores", "labels", "counts")
        boxes, scores, labels, counts = run(raw)
        assert counts.tolist() == [len(one.scores) for one in expected]
        for i, one in enumerate(expected):
            np.testing.assert_array_equal(labels[i, : counts[i]], one.labels)
            np.testing.assert_allclose(scores[i, : counts[i]], one.scores, atol=1e-6)
            np.testing.assert_allclose(boxes[i, : counts[i]], one.boxes, atol=1e-4)
            assert not boxes[i, counts[i] :].any()
            assert not scores[i, counts[i] :].any()
        found += int(counts.sum())
    assert found > 100


def test_onnx_with_nms_finds_the_same_boxes(detector_bundle, sizes, tmp_path):
    bundle, path = Bundle.open(detector_bundle), tmp_path / "detector.onnx"
    report = export_onnx(bundle, path)
    assert [(row.stage, row.file) for row in report.rows[3:]] == [("end to end", "detector.onnx")]
    assert [value.name for value in onnx.load(path).graph.output] == ["boxes", "scores", "labels", "counts"]
    with visdeploy.load(detector_bundle, engine="onnxruntime") as model:
        for result in open_file(path, bundle).stream(sizes):
            expected = model(sizes[result.index]).boxes
            np.testing.assert_array_equal(result.boxes.labels, expected.labels)
            np.testing.assert_allclose(result.boxes.xyxy, expected.xyxy, atol=1e-3)


def test_onnx_of_a_segmenter_is_its_own_graph(binary_bundle, tmp_path):
    bundle = Bundle.open(binary_bundle)
    assert export_onnx(bundle, tmp_path / "car.onnx").ok
    assert (tmp_path / "car.onnx").read_bytes() == bundle.read("model.onnx")


def other(graph):
    """The same detector with a threshold of another: 0.01 for scores."""
    model = onnx.load_from_string(graph)
    (nms,) = (node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    (limit,) = (tensor for tensor in model.graph.initializer if tensor.name == nms.input[3])
    limit.CopyFrom(onnx.numpy_helper.from_array(np.array([0.999], np.float32), limit.name))
    return model.SerializeToString()


def test_verify_sees_a_file_that_finds_other_boxes(detector_bundle, detector_script, tmp_path):
    bundle, path = Bundle.open(detector_bundle), tmp_path / "detector.onnx"
    export_onnx(bundle, path)
    report = verify(bundle, files=[path, detector_script])
    assert report.ok
    assert [row.engine for row in report.rows[3:]] == ["onnxruntime", "torchscript"]
    path.write_bytes(other(path.read_bytes()))
    with pytest.raises(CheckFailedError, match=r"end to end on onnxruntime fp32, detector\.onnx"):
        verify(bundle, files=[path]).require()


def test_verify_runs_the_way_from_the_photograph(detector_bundle, detector_script, tmp_path):
    bundle, module, path = Bundle.open(detector_bundle), load_script(detector_script), tmp_path / "other.ts"
    with accepting_deprecation():
        module.antialias, module.interpolation = False, "nearest"
        torch.jit.save(module, path)
        with pytest.raises(CheckFailedError, match=r"end to end on torchscript fp32, other\.ts"):
            verify(bundle, files=[path]).require()
        module.labels = ["background", "x", "y"]
        torch.jit.save(module, path)
        with pytest.raises(EngineError, match="the file's labels is"):
            verify(bundle, files=[path])


def test_a_file_of_another_task_is_said_to_be_one(detector_bundle, binary_bundle, tmp_path):
    export_onnx(Bundle.open(detector_bundle), tmp_path / "det.onnx")
    with pytest.raises(EngineError, match=r"det\.onnx answers boxes, the bundle's task is segmentation"):
        verify(binary_bundle, files=[tmp_path / "det.onnx"])
    for bundle, file in ((binary_bundle, detector_bundle), (detector_bundle, binary_bundle)):
        (tmp_path / "raw.onnx").write_bytes(Bundle.open(file).read("model.onnx"))
        with pytest.raises(CheckFailedError, match=r"raw\.onnx: it cannot be compared: another shape"):
            verify(bundle, files=[tmp_path / "raw.onnx"]).require()


@pytest.mark.parametrize("label", [-1, 0, 99])
def test_labels_that_the_bundle_does_not_know_are_an_error(detector_bundle, photos, label):
    answer = [np.float32([[[1, 2, 30, 40]]]), np.float32([[0.9]]), np.array([[label]]), np.array([1])]
    spec = Bundle.open(detector_bundle).manifest
    file = answering_file.AnsweringFile(
        "onnxruntime", "1", spec, lambda pixels: answering_file._detected(lambda _: answer, pixels, spec)
    )
    (result,) = file.stream(photos[:1])
    assert isinstance(result.error, EngineError)
    assert "answered labels" in str(result.error)


def test_the_raw_network_of_a_detector_is_verified_as_before(detector_bundle, tmp_path):
    bundle = Bundle.open(detector_bundle)
    for name in ("model.onnx", "model.ts"):
        (tmp_path / name).write_bytes(bundle.read(name))
        report = verify(bundle, files=[tmp_path / name])
        assert report.ok
        assert [row.stage for row in report.rows[3:]] == ["network", "end to end"]


def test_damaged_files_are_one_sentence(detector_bundle, detector_script, tmp_path):
    bundle = Bundle.open(detector_bundle)
    for name in ("cut.onnx", "cut.ts"):
        (tmp_path / name).write_bytes(detector_script.read_bytes()[:5000])
        with pytest.raises(EngineError, match="refused"):
            open_file(tmp_path / name, bundle)


def test_weights_outside_of_a_graph_are_refused(detector_bundle, tmp_path):
    bundle = Bundle.open(detector_bundle)
    model = onnx.load_from_string(bundle.read("model.onnx"))
    onnx.save(model, tmp_path / "detector.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(EngineError, match=r"keeps weights in other files; save it as one"):
        open_file(tmp_path / "detector.onnx", bundle)


def test_what_cannot_become_such_a_file_is_said(detector_bundle, binary_bundle, photos, tmp_path):
    with pytest.raises(InputError, match=r"expected a file named \*\.ts"):
        export_torchscript(Bundle.open(binary_bundle), tmp_path / "car.onnx")
    with pytest.raises(InputError, match=r"expected a file named \*\.onnx"):
        export_onnx(Bundle.open(binary_bundle), tmp_path / "car.ts")
    spec = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5, "resize": "tile"}
    export.export(ConvNet(1), tmp_path / "tiles.vdz", spec=spec, golden=photos[:1])
    with pytest.raises(InputError, match="looks at images through tiles"):
        export_torchscript(Bundle.open(tmp_path / "tiles.vdz"), tmp_path / "tiles.ts")
    bare = Bundle.open(detector_bundle)
    files = {name: data for name, data in bare.files.items() if name != "model.ts"}
    with pytest.raises(InputError, match="it was made from an ONNX file"):
        export_torchscript(Bundle(bare.path, bare.manifest, files), tmp_path / "bare.ts")
    old = raw_model(3, 2)
    old.opset_import[0].version = 11
    with pytest.raises(InputError, match="expected operator set 13 or newer, got 11"):
        with_nms(old, bare.manifest)
    assert not list(tmp_path.glob("*.ts"))


def test_the_command_writes_them(detector_bundle, tmp_path, capsys, monkeypatch):
    from visdeploy.cli import main

    for name, format in (("detector.ts", "torchscript"), ("detector.onnx", "onnx")):
        monkeypatch.setattr("sys.argv", ["visdeploy", "export", str(detector_bundle), "--format", format, "--out", str(tmp_path / name), "--json"])  # fmt: skip  # noqa: E501
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code in (0, None)
        assert json.loads(capsys.readouterr().out)["ok"]
        assert (tmp_path / name).stat().st_size > 1000
    with zipfile.ZipFile(io.BytesIO((tmp_path / "detector.ts").read_bytes())) as archive:
        (manifest,) = (name for name in archive.namelist() if name.endswith("extra/visdeploy.json"))
        assert json.loads(archive.read(manifest))["task"] == "detection"


def test_files_that_call_the_ops_are_told_apart(detector_bundle, detector_script):
    data, path = Path(detector_script).read_bytes(), Path("x.ts")
    assert answering_file.calls_our_ops(data, path)
    assert not answering_file.calls_our_ops(Bundle.open(detector_bundle).read("model.ts"), path)
    # torch compares no checksums, and ends the process over some damages.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
    assert len(entries) > 5
    for entry in entries:
        name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
        at = entry.header_offset + 30 + name + extra + entry.compress_size // 2
        with pytest.raises(EngineError, match=r"torchscript: refused x\.ts \("):
            answering_file.calls_our_ops(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :], path)


def test_a_script_without_forward_is_one_sentence(detector_bundle, tmp_path):
    class Other(torch.nn.Module):
        @torch.jit.export
        def predict(self, image: torch.Tensor) -> torch.Tensor:
            return image

    bundle, path = Bundle.open(detector_bundle), tmp_path / "other.ts"
    with accepting_deprecation():
        torch.jit.script(Other()).save(path)
    with pytest.raises(EngineError, match="the file's task is None, the bundle's 'detection'"):
        verify(bundle, files=[path]).require()


def test_numbers_that_are_none_do_not_displace_others_in_a_graph():
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(4)
    corners = rng.uniform(0, 60, (50, 2))
    anchors = np.concatenate([corners, corners + rng.uniform(1, 30, (50, 2))], 1).astype(np.float32)
    fields = {
        **{"task": "detection", "labels": ["cat", "dog", "cow"], "size": (48, 64), "mean": 0.5, "std": 0.5},
        **{"activation": "softmax", "anchors": {"rule": "boxes", "corners": anchors.tolist()}, "max_det": 10},
    }
    raw = rng.normal(0, 2, (2, 50, 8)).astype(np.float32)
    raw[:, ::3, 0], raw[:, 1::5, 1] = np.nan, np.inf
    for top_k in (5, 400):
        spec = Manifest.parse({**fields, "threshold": 0.05, "top_k": top_k})
        _, run = answering_file._onnxruntime(with_nms(raw_model(50, 4), spec).SerializeToString(), "raw", "a graph")
        _, scores, labels, counts = run(raw)
        expected = ops.detect(
            raw[..., :-4], raw[..., -4:], anchors, image_size=spec.size, score_threshold=spec.threshold,
            iou_threshold=spec.iou_threshold, top_k=top_k, max_det=10,
        )  # fmt: skip
        assert counts.tolist() == [len(one.scores) for one in expected]
        for i, one in enumerate(expected):
            assert counts[i] > 3
            np.testing.assert_array_equal(labels[i, : counts[i]], one.labels)
            np.testing.assert_allclose(scores[i, : counts[i]], one.scores, atol=1e-6)


def test_names_of_a_graph_may_be_those_of_the_answers(detector_bundle):
    pytest.importorskip("onnxruntime")
    spec = Bundle.open(detector_bundle).manifest
    n, classes = len(spec.anchors.boxes(spec.size)), len(spec.labels)
    raw = np.random.default_rng(6).normal(0, 2, (2, n, classes + 4)).astype(np.float32)
    answers = []
    for name in ("logits", "boxes"):
        model = raw_model(n, classes)
        model.graph.output[0].name = model.graph.node[0].output[0] = name
        graph = with_nms(model, spec.model_copy(update={"output_name": name})).SerializeToString()
        _, run = answering_file._onnxruntime(graph, "raw", "a graph")
        assert output_names(graph) == answering_file.OUTPUTS
        answers.append(run(raw))
    for one, other_one in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other_one)
    with pytest.raises(InputError, match="expected an input that is not named as an answer, got scores"):
        with_nms(raw_model(n, classes), spec.model_copy(update={"input_name": "scores"}))
