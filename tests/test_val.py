"""`visdeploy val`: what it prints, writes and refuses, and COCO's figures against pycocotools on its own."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import painted
import stub
from visdeploy import coco_figures, data, evaluation_plots, predictor
from visdeploy.average_precision import AveragePrecision
from visdeploy.bundle import Bundle, Manifest
from visdeploy.data.dataset import Dataset, Item, Objects
from visdeploy.evaluate import Detected
from visdeploy.preprocess import enlarge
from visdeploy.types import Boxes

FIRST, SECOND, THIRD, FOURTH = painted.PLACES.tolist()


@pytest.fixture
def run(monkeypatch, run):
    """Call `val` with a model and a data set of its own: exit code, stdout, stderr."""

    def call(model, items, *arguments: object, labels=("background", "a", "b"), problems=()) -> tuple[int, str, str]:
        dataset = Dataset(labels, ((0, 0, 0),) * len(labels), [], items, problems=problems)
        monkeypatch.setattr(predictor, "load", lambda *_, **__: model)
        monkeypatch.setattr(data, "open", lambda *_, **__: dataset)
        return run("val", "x.vdz", "--data", ".", *arguments)

    return call


@pytest.fixture
def scenes():
    return [
        painted.item("right", painted.paint((1, FIRST), (-2, SECOND)), [FIRST, SECOND], [1, 2]),
        painted.item("wrong", painted.paint((1, FOURTH), (1, THIRD)), [FIRST, FOURTH], [1, 2]),
    ]


def test_detection_prints_classes_and_confusion(run, scenes, tmp_path) -> None:
    code, out, err = run(painted.detector(threshold=0.9), scenes, "--out", tmp_path / "val")
    assert code == 0, err
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["map50", "0.5000"]
    # Of two a's one is found and two things are taken for one; of two b's one is below the threshold.
    assert ["a", "2", "2", "0.5000", "0.3333", "0.5000"] in [line.split() for line in lines]
    assert ["b", "2", "2", "0.5000", "–", "0.0000"] in [line.split() for line in lines]
    assert ["AP,", "IoU", "0.50", "0.5050"] in [[*line.split()[:3], *line.split()[3:4]] for line in lines]
    assert ["nothing", ".", "1", "."] in [line.split() for line in lines]
    assert ["b", "1", "1", "."] in [line.split() for line in lines]
    document = json.loads((tmp_path / "val" / "val.json").read_text())
    assert document["confusion"] == {"labels": ["nothing", "a", "b"], "counts": [[0, 1, 0], [1, 1, 0], [1, 1, 0]]}
    assert document["classes"][1]["precision"] is None
    assert set(coco_figures.NAMES) <= document.keys()
    for name in ("confusion.png", "precision_recall.png"):
        assert np.ptp(cv2.imread(str(tmp_path / "val" / name))) > 200


def test_conf_moves_precision_and_recall_and_the_best_f1_is_shown(run, scenes) -> None:
    code, out, err = run(painted.detector(threshold=0.9), scenes, "--conf", 0.1)
    assert code == 0, err
    assert "scores above 0.1, IoU" in out
    assert ["b", "2", "2", "0.5000", "1.0000", "0.5000"] in [line.split() for line in out.splitlines()]
    # Of four objects two are found, and of four boxes two are right.
    assert "best F1 of all classes together: 0.5000, scores from" in out
    assert run(painted.classifier(), scenes, "--conf", 0.1, labels=("a", "b"))[0] == 2


def test_what_is_wrong_with_the_data_is_said_beside_the_figures(run, scenes) -> None:
    code, _, err = run(painted.detector(), scenes, problems=("a.json: annotation 3: unknown class",))
    assert code == 0
    assert "a.json: annotation 3: unknown class" in err


def test_json_is_one_document_and_min_holds_the_first_figure(run, scenes) -> None:
    code, out, err = run(painted.detector(), scenes, "--json", "--min", 0.9)
    assert code == 1
    assert "map50 is 0.5000, below 0.9" in err
    found = json.loads(out)
    assert (found["map50"], found["engine"], found["images"]) == (0.5, "stub", 2)
    assert run(painted.detector(), scenes, "--min", 0.5)[0] == 0
    assert "expected a share from 0 to 1, got 90" in run(painted.detector(), scenes, "--min", 90)[2]


@pytest.mark.parametrize("model", [painted.localizer, painted.classifier])
def test_one_answer_per_image_prints_a_row_per_class(run, model, tmp_path) -> None:
    image = painted.paint((1, FIRST))
    items = [painted.item(name, image, FIRST, [0], label=label) for name, label in (("x", 0), ("y", 1))]
    code, out, err = run(model(), items, "--out", tmp_path, "--min", 0.5, labels=("a", "b"))
    assert code == 0, err
    row = ["a", "1", "0.5000", "1.0000"] + ["1.0000", "1.0000", "0.0000"] * (model is painted.localizer)
    assert row in [line.split() for line in out.splitlines()]
    assert json.loads((tmp_path / "val.json").read_text())["confusion"]["counts"] == [[1, 0], [1, 0]]
    assert (tmp_path / "confusion.png").is_file()


def brighten() -> predictor.Predictor:
    """A model that makes pictures twice as large and each sample 10 more."""
    manifest = Manifest.parse({"task": "restoration", "size": 32, "mean": 0, "std": 1, "enlarge": 2})
    engine = stub.SaysEngine(lambda window: (window.transpose(2, 0, 1) + np.float32(10)) / 255)
    return predictor.Predictor(Bundle(Path("brighten.vdz"), manifest, {}), engine)


def test_restored_pictures_have_decibels_before_and_after(run, tmp_path) -> None:
    bad = np.random.default_rng(0).integers(80, 150, (40, 30, 3), dtype=np.uint8)
    clean = enlarge(bad, 2) + np.uint8(10)
    items = [Item("dark", lambda: bad, load_target=lambda: clean, enlarge=2)]
    code, out, err = run(brighten(), items, "--min", 99, "--out", tmp_path / "val", labels=())
    assert code == 0, err
    found = dict(line.split() for line in out.splitlines() if len(line.split()) == 2)
    assert (found["psnr"], found["ssim"]) == ("100.0000", "1.0000")
    assert float(found["psnr_before"]) == pytest.approx(20 * np.log10(25.5), abs=1e-4)
    assert 0.9 < float(found["ssim_before"]) < 1
    assert json.loads((tmp_path / "val" / "val.json").read_text())["psnr"] == 100
    assert "expected dB from 0 to 100, got 101" in run(brighten(), items, "--min", 101, labels=())[2]
    worse = [Item("gray", lambda: bad, load_target=lambda: clean // 2, enlarge=2)]
    code, _, err = run(brighten(), worse, "--min", 30, labels=())
    assert (code, "psnr is 1" in err, "below 30" in err) == (1, True, True)
    alike = [Item("small", lambda: bad, load_target=lambda: bad)]
    assert (
        "small: the bundle makes 60x80 of it, and the clean picture has 30x40" in run(brighten(), alike, labels=())[2]
    )


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (("background", "b", "a"), [], "its labels have another order, 'background', 'b', 'a'; expected"),
        (("background", "a", "b", *"cdefghi"), [], "have 'c', 'd', 'e', 'f', 'g' and 2 more besides; expected"),
        (("background", "a"), [], "its labels lack 'b'; expected"),
        (("background", "a", "c"), [], "its labels lack 'b' and have 'c' besides; expected"),
        (("background", "a", "b"), ["--task", "localization"], "--task: x.vdz is for detection, not localization"),
    ],
)
def test_data_of_other_labels_or_for_another_task_are_refused(run, scenes, labels, arguments, message) -> None:
    code, _, err = run(painted.detector(), scenes, *arguments, labels=labels)
    assert code == 2
    assert message in err


def test_without_pycocotools_its_figures_are_left_out_with_a_word(run, scenes, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    code, out, err = run(painted.detector(), scenes, "--json")
    assert code == 0
    assert "map" not in json.loads(out)
    assert "left out: COCO's figures need pycocotools" in err


def test_many_classes_fit(run, tmp_path) -> None:
    names = tuple(f"class number {k}" for k in range(40))
    scored = AveragePrecision(41)
    rng = np.random.default_rng(0)
    for _ in range(30):
        corners = rng.uniform(0, 400, (10, 2)).astype(np.float32)
        truth, labels = np.concatenate([corners, corners + 60], 1), rng.integers(1, 41, 10)
        scored.add(truth + rng.normal(0, 9, (10, 4)), rng.random(10), labels, truth, labels)
    evaluation_plots.draw_curves(("background", *names), scored.curves(), 0.5, tmp_path / "curves.png")
    evaluation_plots.draw_confusion(("nothing", *names), scored.confusion, tmp_path / "confusion.png")
    items = [painted.item("x", painted.paint((1, FIRST)), [FIRST], [2])]
    labels = ("a", "b", *names)
    code, out, _ = run(painted.detector(labels=labels), items, labels=("background", *labels))
    assert code == 0
    assert "1  b taken for a" in out


def images() -> list[Detected]:
    """Objects of all of COCO's sizes, crowds among them, and images without objects or without detections."""
    rng = np.random.default_rng(3)
    made = []
    for index in range(12):
        count = 0 if index == 3 else 6
        corners = rng.uniform(0, 300, (count, 2))
        truth = np.concatenate([corners, corners + 2 ** rng.uniform(4, 7.5, (count, 1))], 1).astype(np.float32)
        objects = Objects(truth, rng.integers(1, 3, count), rng.random(count) < 0.2)
        found = np.repeat(truth if index != 5 else truth[:0], 2, 0)
        found = (found + rng.normal(0, 3, found.shape)).astype(np.float32)
        scores = np.round(rng.random(len(found)), 1).astype(np.float32)
        labels = np.where(rng.random(len(found)) < 0.8, np.repeat(objects.labels, 2)[: len(found)], 1)
        made.append(Detected((480, 640), objects, Boxes(found, scores, labels, ())))
    return made


_PLAIN = """
import io, json, sys
from contextlib import redirect_stdout
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth, found = json.load(sys.stdin)
with redirect_stdout(io.StringIO()):
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    scored = COCOeval(coco, coco.loadRes(found), "bbox")
    scored.evaluate(), scored.accumulate(), scored.summarize()
from pycocotools import mask
print(json.dumps([mask.iou.__module__, scored.stats.tolist()]))
"""
_OURS = """
import json, sys
sys.path[:0] = [sys.argv[1]]
from test_val import images
from visdeploy.coco_figures import coco_figures
figures = coco_figures(images(), ("background", "a", "b"))
from pycocotools import cocoeval
print(json.dumps([cocoeval.maskUtils.iou.__module__, list(figures.values())]))
"""


def test_cocos_figures_are_those_of_pycocotools() -> None:
    def xywh(row):
        left, top, right, bottom = map(float, row)
        return [left, top, right - left, bottom - top]

    truth, found = [], []
    for index, one in enumerate(images()):
        for row, label, ignored in zip(one.objects.xyxy, one.objects.labels, one.objects.ignored, strict=True):
            box = xywh(row)
            entry = {"id": len(truth) + 1, "image_id": index, "category_id": int(label), "bbox": box}
            truth.append(entry | {"area": box[2] * box[3], "iscrowd": int(ignored)})
        for row, label, score in zip(one.boxes.xyxy, one.boxes.labels, one.boxes.scores, strict=True):
            found.append({"image_id": index, "category_id": int(label), "bbox": xywh(row), "score": float(score)})
    pictures = [{"id": index, "height": 480, "width": 640} for index in range(12)]
    document = {"images": pictures, "categories": [{"id": 1}, {"id": 2}], "annotations": truth}
    plain = [sys.executable, "-c", _PLAIN]
    theirs = subprocess.run(plain, input=json.dumps([document, found]), capture_output=True, text=True, check=True)
    ours = subprocess.run(
        [sys.executable, "-c", _OURS, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    module, figures = json.loads(theirs.stdout)
    assert module == "pycocotools._mask"
    assert json.loads(ours.stdout) == ["visdeploy.mask", figures]
    assert len(set(figures)) > 8
    assert min(figures) > 0


@pytest.mark.realdata
def test_cocos_own_example_has_its_figures(data_dir) -> None:
    folder = data_dir / "coco_rle"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    images = {picture["id"]: ([], []) for picture in truth["images"]}
    for side, entries in enumerate(
        (truth["annotations"], json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()))
    ):
        for entry in entries:
            images[entry["image_id"]][side].append(entry)

    def columns(entries, *names):
        boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes, *(np.array([entry[name] for entry in entries]) for name in names)

    found = []
    for _, (objects, detections) in sorted(images.items()):  # among equal scores the earlier image is first
        boxes, scores, labels = columns(detections, "score", "category_id")
        marked = Objects(*columns(objects, "category_id", "iscrowd"))
        found.append(Detected((480, 640), marked, Boxes(boxes, scores, labels, ())))
    figures = coco_figures.coco_figures(found, [str(k) for k in range(91)])
    expected = json.loads((folder / "EXPECTED.json").read_text())["bbox"]
    # The others are by the area of a mask, which boxes do not tell.
    for k in (0, 1, 2, 6, 7, 8):
        assert figures[coco_figures.NAMES[k]] == pytest.approx(expected[k], abs=1e-6)
