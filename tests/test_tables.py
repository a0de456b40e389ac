"""What the command line prints fits a terminal of 80 columns, and a pipe gets every line whole."""

import io

import pytest
from rich.console import Console, RenderableType

import stub
from test_benchmark import figures
from visdeploy import tables
from visdeploy.benchmark import STAGES, Measurement, Quantiles
from visdeploy.report import NotRun, Report, Row
from visdeploy.spec import Manifest

MARKS = Quantiles(12.345, 123.456, 1123.4)
WHY = "no driver was found, and this sentence says so at such a length that a terminal has to break it"


def report() -> Report:
    def row(stage: str, engine: str, precision: str, ok: bool) -> Row:
        return Row(
            stage, engine, precision, 2.4e-6, 1.2e-5, "of the pixels", 0.98765, ok, 1_234_567, 19_345_678, "a.jpg"
        )

    rows = row("end to end", "onnxruntime", "int8", False), row("postprocess", "torchscript", "fp32", True)
    return Report("car.vdz", 2, rows, (NotRun("tensorrt", WHY),))


def shown(what: RenderableType, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(what)
    return file.getvalue()


def test_a_report_is_whole_in_80_columns() -> None:
    text = shown(tables.of_report(report()), 80)
    cells = [line.split("  ") for line in text.splitlines()]
    (drifted,) = [[cell.strip() for cell in line if cell] for line in cells if line[0] == "end to end"]
    assert drifted == ["end to end", "onnxruntime int8", "2.4e-06", "1.2e-05", "1,234,567", "0.98765", "DRIFTED"]
    assert "drifted: end to end on onnxruntime int8: worst in a.jpg" in text
    assert "…" not in text


def test_the_figures_of_a_benchmark_are_whole_in_80_columns() -> None:
    found = figures(openvino=4, onnxruntime_int8=2)
    texts = [shown(table, 80) for table in tables.of_figures(found)]
    assert "…" not in "".join(texts)
    for text in texts:
        assert any(line.startswith("onnxruntime int8 ") for line in text.splitlines())
    assert "500.0 2.00x" in texts[0]
    assert "0.0020 dice" in texts[-1]


def test_more_uses_than_fit_go_into_a_second_table() -> None:
    found = figures(openvino=4)
    (entry,) = found.entries
    entry.rates.update({f"stream, batch {size}": (1000.0 + size,) for size in (16, 32)})
    texts = [shown(table, 80) for table in tables.of_figures(found)]
    assert "1016.0" not in texts[0]
    assert "1016.0" in texts[1]
    assert "…" not in "".join(texts)


def test_the_stages_of_the_demo_are_whole_in_80_columns() -> None:
    name = "PyTorch eager + pycocotools 2.14.1+cpu"
    measured = Measurement(name, "fp32", 80, dict.fromkeys(STAGES, MARKS), 123.4)
    text = shown(tables.of_measurements([measured]), 80)
    assert text.count("12.35") == text.count("123.46") == text.count("1123.40") == len(STAGES)
    assert "…" not in text


def test_a_manifest_is_whole_in_80_columns() -> None:
    lines = shown(tables.of_manifest("car.vdz", stub.predictor().spec), 80).splitlines()
    assert any(line.startswith("threshold ") and "0.5" in line for line in lines)
    assert not any("…" in line for line in lines)


def test_a_pipe_gets_every_line_whole(capsys: pytest.CaptureFixture[str]) -> None:
    tables.console().print(tables.of_report(report()))
    assert f"not run here: tensorrt: {WHY}\n" in capsys.readouterr().out


def test_a_detector_shows_its_rule_and_not_thousands_of_corners() -> None:
    fields = {"task": "detection", "labels": ["cat"], "size": 64, "mean": 0.5, "std": 0.5, "activation": "softmax"}
    listed = {"rule": "boxes", "corners": [[0, 0, 7.125, 9]] * 2000}
    text = shown(tables.of_manifest("a.vdz", Manifest.parse(fields | {"anchors": listed})), 80)
    assert "2,000 of boxes" in text
    assert "7.125" not in text
    assert "iou_threshold" in text
    assert "tile_overlap" not in text
    prior = {"rule": "multibox_prior", "feature_sizes": [(4, 4)], "sizes": [[0.25]], "ratios": [[1, 2]]}
    text = shown(tables.of_manifest("a.vdz", Manifest.parse(fields | {"anchors": prior})), 80)
    assert "32 of multibox_prior" in text
    assert "ratios: [[1.0, 2.0]]" in text.replace("\n", " ")


def test_a_report_counts_what_the_task_has() -> None:
    row = Row("end to end", "openvino", "fp32", 0.5, 0, "of the boxes", None, False, 2, 4, "a.jpg")
    text = shown(tables.of_report(Report("a.vdz", 1, (row,))), 80)
    assert "error of end to end: a share of the boxes\n" in text.replace("  ", "").replace(" \n", "\n")
    assert "2 of 4" in text
    assert "Dice" not in text


def test_a_report_that_compared_nothing_says_so() -> None:
    row = Row("end to end", "openvino", "fp32", 0, 0, "of the boxes", None, True, 0, 0)
    note = "nothing compared: no golden image has a box above the threshold 0.5"
    found = Report("a.vdz", 1, (row,), notes=(note,))
    text = shown(tables.of_report(found), 80)
    assert "empty" in text
    assert "same" not in text
    assert note in text
    assert found.to_dict()["rows"][0]["verdict"] == "empty"
