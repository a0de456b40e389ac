"""Detectors, localizers and classifiers as bundles: proved, and refused in one sentence where parts do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import visdeploy as vd  # noqa: E402
from nets import Answering, BoxNet, ConvNet, TwoHeads  # noqa: E402
from visdeploy import golden as goldens  # noqa: E402
from visdeploy import ops, tolerance  # noqa: E402
from visdeploy.bundle import GOLDEN, Bundle, Spec, write  # noqa: E402
from visdeploy.comparison import relative_error  # noqa: E402
from visdeploy.errors import BundleError, InputError  # noqa: E402
from visdeploy.export import export  # noqa: E402
from visdeploy.preprocess import prepare  # noqa: E402
from visdeploy.report import Report  # noqa: E402
from visdeploy.verify import verify  # noqa: E402

Image = NDArray[np.uint8]
SPEC = {"task": "detection", "labels": ["cat", "dog"], "size": 64, "mean": 0.5, "std": 0.5}
ANCHORS = BoxNet(2).anchors((64, 64))
FIXED = SPEC | {"anchors": ANCHORS.model_dump()}


def eager(net: Callable[[Any], Any], photo: Image, spec: dict[str, Any] = SPEC) -> NDArray[np.float32]:
    pixels = prepare(photo, Spec.parse(FIXED | spec)).pixels.astype(np.float32) / 127.5 - 1
    with torch.inference_mode():
        return net(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()))[0].numpy()


def recorded(path: Path) -> list[goldens.Golden]:
    return goldens.read(Bundle.open(path))


def drifted(report: Report) -> list[tuple[str, str]]:
    return [(row.stage, row.engine) for row in report.rows if not row.ok]


def test_answers_are_those_of_the_module(tmp_path: Path, photos: list[Image]) -> None:
    net = BoxNet(2).eval()
    report = export(net, tmp_path / "pets.vdz", spec=SPEC, golden=photos)
    assert {row.stage for row in report.rows} == {"decode", "resize", "postprocess", "network", "end to end"}
    assert all(row.changed == 0 and row.total and row.total > 100 for row in report.rows if row.stage == "end to end")
    manifest = Bundle.open(tmp_path / "pets.vdz").manifest
    assert (manifest.anchors, manifest.labels) == (ANCHORS, ("background", "cat", "dog"))
    raw = eager(net, photos[1])
    assert relative_error(recorded(tmp_path / "pets.vdz")[1].logits, raw) <= tolerance.LOGITS["fp32"]
    (found,) = ops.detect(
        raw[None, :, :3], raw[None, :, 3:], ANCHORS.boxes((64, 64)), image_size=(64, 64), score_threshold=0.5
    )
    with vd.load(tmp_path / "pets.vdz", engine="torchscript") as model:
        boxes = model(photos[1]).boxes
    assert boxes is not None
    assert len(boxes.scores) > 20
    np.testing.assert_array_equal(boxes.labels, found.labels)
    np.testing.assert_allclose(boxes.scores, found.scores, atol=1e-5)
    np.testing.assert_allclose(boxes.xyxy, found.boxes * np.float32([90 / 64, 53 / 64] * 2), atol=1e-3)


def test_any_batch_is_answered(detector_bundle: Path, photos: list[Image]) -> None:
    for name in {row.engine for row in verify(detector_bundle).rows if row.engine}:
        with vd.load(detector_bundle, engine=name) as model:
            alone = [model(photo).boxes for photo in photos]
            together = [result.boxes for result in model.stream(photos * 3, batch_size=4)]
        for index, boxes in enumerate(together):
            np.testing.assert_allclose(boxes.xyxy, alone[index % 2].xyxy, atol=1e-3)


@pytest.mark.parametrize("form", ["dict", "logits first", "offsets first"])
def test_two_outputs_are_put_side_by_side(form: str, tmp_path: Path, photos: list[Image]) -> None:
    export(TwoHeads(2, form), tmp_path / "net.vdz", spec=FIXED, golden=photos)
    raw = eager(BoxNet(2), photos[0])
    assert relative_error(recorded(tmp_path / "net.vdz")[0].logits, raw) <= tolerance.LOGITS["fp32"]


def test_a_detector_of_three_labels_is_not_mistaken_for_its_offsets(tmp_path: Path, photos: list[Image]) -> None:
    # Four classes with the background: logits and offsets have one shape, and the logits come first.
    spec = FIXED | {"labels": ["a", "b", "c"]}
    export(TwoHeads(3, "logits first"), tmp_path / "net.vdz", spec=spec, golden=photos)
    raw = eager(BoxNet(3), photos[0])
    assert relative_error(recorded(tmp_path / "net.vdz")[0].logits, raw) <= tolerance.LOGITS["fp32"]


def save_onnx(path: Path, net: torch.nn.Module, outputs: list[str], **options: Any) -> Path:
    axes = {name: {0: "n"} for name in ("x", *outputs)}
    options |= {"dynamo": False, "opset_version": 18, "input_names": ["x"], "output_names": outputs}
    torch.onnx.export(net.eval(), (torch.zeros(2, 3, 64, 64),), path, dynamic_axes=axes, **options)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("net", "outputs", "served"),
    [
        (BoxNet(2), ["answer"], "answer"),
        (TwoHeads(2, "logits first"), ["scores", "boxes"], "logits"),
        (TwoHeads(2, "offsets first"), ["boxes", "input", "logits"], "visdeploy_logits"),
        (TwoHeads(3, "offsets first"), ["bbox_regression", "input", "cls_logits"], "visdeploy_logits"),
    ],
)
def test_bare_onnx_file(
    net: torch.nn.Module, outputs: list[str], served: str, tmp_path: Path, photos: list[Image]
) -> None:
    source = save_onnx(tmp_path / "net.onnx", net, outputs)
    classes = 3 if "cls_logits" in outputs else 2
    spec = FIXED | {"labels": ["a", "b", "c"][:classes]} | ({"output_name": "detections"} if "input" in outputs else {})
    export(source, tmp_path / "net.vdz", spec=spec, golden=photos)
    manifest = Bundle.open(tmp_path / "net.vdz").manifest
    assert manifest.output_name == ("detections" if "input" in outputs else served)
    raw = eager(BoxNet(classes), photos[0])
    assert relative_error(recorded(tmp_path / "net.vdz")[0].logits, raw) <= tolerance.LOGITS["fp32"]


def zeros(*shape: int) -> Answering:
    return Answering(lambda x: x.mean((1, 2, 3)).reshape(-1, *[1] * len(shape)).expand(-1, *shape) * 1)


LOCALIZATION = SPEC | {"task": "localization"}
CLASSIFICATION = SPEC | {"task": "classification"}


@pytest.mark.parametrize(
    ("net", "spec", "message"),
    [
        (zeros(255, 7), FIXED, "anchors: the rule gives 256 boxes, the network answers 255"),
        (zeros(256, 8), FIXED, "labels: the network scores 4 classes, the spec names 3 labels, the background among"),
        (zeros(256, 3), FIXED, "labels: the network scores 0 classes, the spec names 3 labels"),
        (ConvNet(3), FIXED, r"net: expected logits of shape \(1, N, C \+ 4\) for detection, got \(1, 3, 64, 64\)"),
        (BoxNet(2), SPEC | {"size": (64, 0)}, r"size: the network has no anchors for \(64, 0\)"),
        (BoxNet(2), SPEC | {"size": "large"}, "size: the network has no anchors for large"),
        (zeros(256, 7), SPEC, "anchors: a detector needs them"),
        (zeros(7), LOCALIZATION, "labels: the network scores 3 classes, the spec names 2 labels"),
        (zeros(4), LOCALIZATION, "labels: the network scores 0 classes, the spec names 2 labels"),
        (zeros(2, 3), LOCALIZATION, r"expected logits of shape \(1, 4 \+ C\) for localization, got \(1, 2, 3\)"),
        (zeros(3), CLASSIFICATION, "labels: the network scores 3 classes, the spec names 2 labels"),
        (Answering(lambda x: (x, x)), FIXED, r"expected logits of shape \(1, N, C \+ 4\)"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    net: Any, spec: dict[str, Any], message: str, tmp_path: Path, photos: list[Image]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export(net, tmp_path / "net.vdz", spec=spec, golden=photos)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Pooled(torch.nn.Module):
    """A few numbers for each image."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.net = ConvNet(values, stride=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).mean((2, 3))


@pytest.mark.parametrize(("values", "labels"), [(6, ["cat", "dog"]), (4, ["car"]), (5, ["car"])])
def test_localizer(values: int, labels: list[str], tmp_path: Path, photos: list[Image]) -> None:
    spec = LOCALIZATION | {"labels": labels}
    report = export(Pooled(values), tmp_path / "net.vdz", spec=spec, golden=photos)
    assert all(row.total == 4 and row.unit == "of the boxes" for row in report.rows if row.stage == "end to end")
    raw = eager(Pooled(values), photos[0], spec | {"anchors": None})
    with vd.load(tmp_path / "net.vdz") as model:
        boxes = model(photos[0]).boxes
    assert boxes is not None
    corners = 1 / (1 + np.exp(-raw[:4])) * np.array([101, 75] * 2)
    np.testing.assert_allclose(boxes.xyxy, corners[None], atol=1e-2)
    assert boxes.names == (labels[int(raw[4:].argmax()) if values == 6 else 0],)


def test_classifier(tmp_path: Path, photos: list[Image]) -> None:
    report = export(Pooled(2), tmp_path / "net.vdz", spec=CLASSIFICATION, golden=photos)
    assert all(row.total == 2 and row.error < 1e-3 for row in report.rows if row.stage == "end to end")
    raw = eager(Pooled(2), photos[0], CLASSIFICATION | {"anchors": None})
    with vd.load(tmp_path / "net.vdz") as model:
        classes = model(photos[0]).classes
    assert classes is not None
    np.testing.assert_allclose(classes.probabilities, np.exp(raw) / np.exp(raw).sum(), atol=1e-5)


def test_torchvision_detector_says_itself_what_it_is(tmp_path: Path) -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    boxes = detection.anchor_utils.DefaultBoxGenerator([[2], [2]], scales=[0.1, 0.3, 0.5], steps=[8, 16])

    class Backbone(torch.nn.Module):
        out_channels = [8, 8]  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = ConvNet(8, stride=8), torch.nn.Conv2d(8, 8, 3, 2, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            first = torch.relu(self.first(x))
            return {"0": first, "1": torch.relu(self.second(first))}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = detection.ssd.SSD(Backbone(), boxes, (64, 64), 4, score_thresh=0.4).eval()
        for parameter in net.head.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
    labels = ["__background__", "person", "N/A", "N/A"]
    export(net, tmp_path / "ssd.vdz", spec={"labels": labels, "max_det": 50}, golden=images)
    manifest = Bundle.open(tmp_path / "ssd.vdz").manifest
    assert (manifest.threshold, manifest.max_det, manifest.nms) == (0.4, 50, "torchvision")
    assert (manifest.labels, manifest.background) == (tuple(labels), 0)
    with vd.load(tmp_path / "ssd.vdz", engine="torchscript") as model, torch.inference_mode():
        for pixels in images:
            ours = model(pixels).boxes
            (theirs,) = net([torch.from_numpy(pixels).permute(2, 0, 1) / 255])
            assert ours is not None
            assert len(ours.scores) == 50
            np.testing.assert_allclose(ours.scores, theirs["scores"][:50], atol=1e-5)
            np.testing.assert_allclose(ours.xyxy, theirs["boxes"][:50], atol=1e-3)
            np.testing.assert_array_equal(ours.labels, theirs["labels"][:50])


@pytest.fixture
def rebuild(detector_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the detector again, whole and well sealed, with parts of it replaced."""

    def rebuild(change: Callable[[goldens.Golden], Any] | None = None, **fields: Any) -> Path:
        opened = Bundle.open(detector_bundle)
        entries = goldens.read(opened)
        if change is not None:
            change(entries[0])
        files = {**opened.files, GOLDEN: goldens.pack(entries)}
        write(tmp_path / "changed.vdz", opened.manifest.model_copy(update=fields), files)
        return tmp_path / "changed.vdz"

    return rebuild


BACKWARDS = {"rule": "boxes", "corners": [[0, 0, 1 + k % 7, 1 + k % 5] for k in range(384)]}


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 0.45},
        {"iou_threshold": 0.6},
        {"max_det": 300, "threshold": 0.01},
        {"box_weights": (10.0, 10.0, 5.0, 4.9)},
        {"anchors": Spec.parse(FIXED | {"anchors": BACKWARDS}).anchors},
        {"anchors": ANCHORS.model_copy(update={"feature_sizes": ((8, 12),), "scales": (0.4, 0.2)})},
    ],
)
def test_other_reading_of_the_answers_is_found_in_postprocessing(
    fields: dict[str, Any], rebuild: Callable[..., Path]
) -> None:
    report = verify(rebuild(**fields), engines=["openvino"])
    assert drifted(report) == [("postprocess", ""), ("end to end", "openvino")]


def test_swapped_names_of_labels_are_found(rebuild: Callable[..., Path], detector_bundle: Path) -> None:
    labels = Bundle.open(detector_bundle).manifest.labels
    with pytest.raises(BundleError, match=f"'{labels[1]}' in labels.txt, and '{labels[2]}' in its manifest"):
        verify(rebuild(labels=(labels[0], labels[2], labels[1])), engines=["openvino"])


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: np.copyto(entry.logits, entry.logits[:, [0, 2, 1, 3, 4, 5, 6]]),
        lambda entry: np.copyto(entry.logits, entry.logits[::-1].copy()),
        lambda entry: entry.logits[:, 3:].__imul__(1.01),
    ],
)
def test_other_network_is_found(change: Callable[[goldens.Golden], Any], rebuild: Callable[..., Path]) -> None:
    report = verify(rebuild(change), engines=["openvino"])
    assert ("network", "openvino") in drifted(report)
    assert ("end to end", "openvino") not in drifted(report)


def replace(entry: goldens.Golden, **arrays: Any) -> None:
    entry.answer.update(arrays)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: replace(entry, boxes=np.zeros((3, 4), np.float32)), "expected boxes of float32"),
        (lambda entry: replace(entry, boxes=entry.answer["boxes"].astype(np.float64)), "expected boxes of float32"),
        (lambda entry: replace(entry, boxes=entry.answer["boxes"] * np.nan), "expected boxes of float32"),
        (lambda entry: replace(entry, scores=np.float32(1)), "golden.npz is not readable"),
        (lambda entry: replace(entry, labels=entry.answer["labels"].astype(np.int32)), "expected labels of int64"),
        (lambda entry: replace(entry, labels=entry.answer["labels"] + 2), "expected class indices below 3, got"),
        (lambda entry: replace(entry, labels=entry.answer["labels"] - 5), "expected class indices below 3, got"),
        (lambda entry: object.__setattr__(entry, "logits", entry.logits[:7]), "gives 384 boxes, the network answers 7"),
        (lambda entry: object.__setattr__(entry, "logits", entry.logits[None]), "expected logits of shape"),
        (lambda entry: object.__setattr__(entry, "logits", entry.logits[:, :5]), "the network scores 1 classes"),
        (lambda entry: entry.answer.clear(), "golden.npz is not readable"),
        (
            lambda entry: object.__setattr__(entry, "pixels", entry.pixels[:, :90]),
            r"pixels of \(64, 96\), got \(64, 90",
        ),
    ],
)
def test_golden_boxes_of_another_form_are_refused(
    change: Callable[[goldens.Golden], Any], message: str, rebuild: Callable[..., Path]
) -> None:
    with pytest.raises(BundleError, match=message):
        verify(rebuild(change), engines=["openvino"])


def test_goldens_of_another_task_are_refused(rebuild: Callable[..., Path], tmp_path: Path) -> None:
    opened = Bundle.open(rebuild())
    fields = {"task": "segmentation", "labels": ("a", "b", "c"), "anchors": None}
    write(tmp_path / "other.vdz", opened.manifest.model_copy(update=fields), opened.files)
    with pytest.raises(BundleError, match="expected classes for segmentation, got boxes, scores, labels"):
        verify(tmp_path / "other.vdz", engines=["openvino"])


def test_own_images_are_compared_box_for_box(detector_bundle: Path, photos: list[Image]) -> None:
    report = verify(detector_bundle, images=[photo[::-1] for photo in photos])
    own = [row for row in report.rows if row.stage == "own images"]
    assert (report.own_images, report.reference) == (2, "torchscript fp32")
    assert {row.engine for row in own} == {"openvino", "onnxruntime"}
    assert all(row.ok and row.changed == 0 and row.total and row.total > 50 for row in own)


def test_golden_images_without_boxes_are_no_proof(tmp_path: Path, photos: list[Image]) -> None:
    report = export(BoxNet(2), tmp_path / "pets.vdz", spec=SPEC | {"threshold": 0.9999}, golden=photos)
    assert report.ok
    verdicts = {row.stage: row.verdict for row in verify(tmp_path / "pets.vdz", images=photos).rows}
    assert verdicts == {
        **dict.fromkeys(("decode", "resize", "network"), "same"),
        **dict.fromkeys(("postprocess", "end to end", "own images"), "empty"),
    }
    assert report.notes == ("nothing compared: no golden image has a box above the threshold 0.9999",)
