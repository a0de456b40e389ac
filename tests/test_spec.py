from pathlib import Path
from typing import Any

import pytest

from visdeploy import tolerance
from visdeploy.errors import InputError
from visdeploy.spec import Manifest, Spec

MINIMAL = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.25}


def parse(**changes: object) -> Spec:
    return Spec.parse(MINIMAL | changes)


def test_five_fields_are_enough() -> None:
    spec = parse()
    assert spec.labels == ("background", "car")
    assert (spec.background, spec.activation, spec.threshold, spec.binary) == (0, "sigmoid", 0.5, True)
    assert (spec.size, spec.mean, spec.std) == ((64, 64), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (spec.resize, spec.interpolation, spec.antialias, spec.pad_value) == ("stretch", "bilinear", True, 0)
    assert (spec.divisor, spec.max_batch, spec.ignore_index) == (32, 8, 255)
    assert (spec.input_name, spec.output_name) == ("images", "logits")
    assert spec.tolerances == tolerance.LOGITS
    assert spec.palette[0] == (0, 0, 0)
    assert len(spec.palette) == 2


def test_several_labels_keep_their_order() -> None:
    spec = parse(labels=("road", "Background", "car"))
    assert (spec.labels, spec.background, spec.activation) == (("road", "Background", "car"), 1, None)
    assert not spec.binary
    assert parse(labels=("road", "car")).background is None


def test_what_is_given_is_kept() -> None:
    given = {
        "labels": ["car", "road", "none"],
        "size": (64, 96),
        "palette": ((1, 2, 3), (4, 5, 6), (7, 8, 9)),
        "background": 2,
        "resize": "letterbox",
        "mean": (0.1, 0.2, 0.3),
        "tolerances": {"fp32": 1e-3},
        "metrics": {"miou": 0.5},
        "architecture": {"name": "unet", "encoder": "resnet18", "num_classes": 3},
    }
    spec = parse(**given)
    for field, value in given.items():
        assert getattr(spec, field) == (tuple(value) if field == "labels" else value)


def test_255_classes_fit_and_256_do_not() -> None:
    names = [f"class {i}" for i in range(256)]
    spec = parse(labels=names[:255])
    assert len(set(spec.palette)) > 200
    with pytest.raises(InputError, match=r"labels: .*at most 255"):
        parse(labels=names)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"treshold": 0.5}, "treshold: no such field; did you mean 'threshold'?"),
        ({"xyz": 1}, "xyz: no such field"),
        (
            {"task": "segment"},
            "task: input should be 'segmentation', 'detection', 'localization', 'classification' or 'restoration', "
            "got 'segment'",
        ),
        ({"labels": []}, "labels: expected at least one name"),
        ({"labels": "car"}, "labels: input should be a valid tuple, got 'car'"),
        ({"labels": ["car", "car"]}, "labels: every name must differ"),
        ({"labels": ["car\x1b[2J", "road"]}, "labels: expected printable names"),
        ({"labels": ["", "road"]}, "labels: expected printable names"),
        ({"size": 100}, "size: height and width must be multiples of 32, got (100, 100)"),
        ({"size": 0}, "size.0: input should be greater than or equal to 1, got 0"),
        ({"size": 1 << 20}, "size.0: input should be less than or equal to 4096"),
        ({"size": (64, 64, 3)}, "size: "),
        ({"divisor": 0}, "divisor: input should be greater than or equal to 1, got 0"),
        ({"mean": (123.7, 116.3, 103.5)}, "mean: expected values on the scale 0..1"),
        ({"mean": (0.5, 0.5)}, "mean.2: required, and missing"),
        ({"std": 0}, "std: every value must be positive"),
        ({"std": (0.1, 0.1, float("nan"))}, "std.2: input should be a finite number, got nan"),
        ({"std": float("inf")}, "std.0: input should be a finite number, got inf"),
        ({"palette": [(1, 2, 3)]}, "palette: expected 2 colours, got 1"),
        ({"palette": [(0, 0, 0), (0, 0, 256)]}, "palette.1.2: input should be less than or equal to 255, got 256"),
        ({"background": 2}, "background: expected a class index below 2, got 2"),
        ({"background": -1}, "background: input should be greater than or equal to 0, got -1"),
        ({"threshold": 1}, "threshold: input should be less than 1, got 1"),
        ({"threshold": float("nan")}, "threshold: "),
        ({"resize": "squash"}, "resize: input should be 'stretch', 'letterbox', 'native' or 'tile', got 'squash'"),
        ({"interpolation": "cubic"}, "interpolation: input should be 'bilinear' or 'nearest', got 'cubic'"),
        ({"exif": False}, "exif: input should be True, got False"),
        ({"pad_value": 300}, "pad_value: input should be less than or equal to 255, got 300"),
        ({"max_batch": 0}, "max_batch: input should be greater than or equal to 1, got 0"),
        (
            {"labels": ["a", "b", "c"], "activation": "sigmoid"},
            "activation: sigmoid goes with background and one label",
        ),
        ({"tolerances": {"fp23": 1.0}}, "tolerances: expected fp32, fp16, bf16, int8, got 'fp23'"),
        ({"tolerances": {"fp32": -1.0}}, "tolerances.fp32: input should be greater than or equal to 0, got -1.0"),
        ({"metrics": {"dice": float("nan")}}, "metrics.dice: input should be a finite number, got nan"),
        ({"input_name": "logits"}, "output_name: expected another name than the input's"),
        ({"input_name": ""}, "output_name: expected another name than the input's"),
    ],
)
def test_each_mistake_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(**changes)
    assert str(caught.value).startswith(f"[spec] {sentence}")
    assert "\n" not in str(caught.value)


def test_missing_fields_are_listed_together() -> None:
    with pytest.raises(InputError, match=r"size: required, and missing; mean: required, and missing; std: required"):
        Spec.parse({"task": "segmentation", "labels": ["car"]})


@pytest.mark.parametrize("value", [None, 3, [("task", "segmentation")], "{}"])
def test_what_is_no_spec_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^\[spec\] spec: input should be a valid dictionary"):
        Spec.parse(value)


def test_spec_of_a_bundle_serves_the_next_export() -> None:
    manifest = Manifest.parse(parse(activation="none")).model_copy(update={"torchscript": "trace"})
    assert Spec.parse(manifest) == parse(activation="none")


def test_manifest_knows_its_activation() -> None:
    assert parse(labels=["a", "b"]).activation is None
    with pytest.raises(InputError, match="activation"):
        Manifest.parse(parse(labels=["a", "b"]))


def test_manifest_survives_json() -> None:
    manifest = Manifest.parse(parse(metrics={"dice": 0.25}, palette=[(0, 0, 0), (9, 8, 7)]))
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_every_field_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "spec.md").read_text()
    assert [field for field in Spec.model_fields if f"`{field}`" not in page] == []


DETECTOR = MINIMAL | {"task": "detection"}
MAPS = {"feature_sizes": [(8, 8), (4, 4)]}
VAST = [(4096, 4096)]


@pytest.mark.parametrize(
    ("anchors", "sentence"),
    [
        ({"rule": "default_boxes", **MAPS, "aspect_ratios": [[2]]}, "aspect_ratios: expected 2 entries, got 1"),
        (
            {"rule": "default_boxes", **MAPS, "aspect_ratios": [[2], [2]], "scales": [0.1, 0.2]},
            "scales: expected 3 entries, got 2",
        ),
        (
            {"rule": "default_boxes", **MAPS, "aspect_ratios": [[2], []], "steps": [8]},
            "steps: expected 2 entries, got 1",
        ),
        ({"rule": "multibox_prior", **MAPS, "sizes": [[1], [1]], "ratios": [[1]]}, "ratios: expected 2 entries, got 1"),
        ({"rule": "multibox_prior", **MAPS, "sizes": [[1], []], "ratios": [[1], [1]]}, "at least 1 item"),
        (
            {"rule": "grid_anchors", **MAPS, "strides": [(8, 8)], "sizes": [[1], [1]], "aspect_ratios": [[1], [1]]},
            "strides: expected 2 entries, got 1",
        ),
        (
            {
                "rule": "grid_anchors",
                "feature_sizes": VAST,
                "strides": VAST,
                "sizes": [[1] * 64],
                "aspect_ratios": [[1]],
            },
            "expected at most 1048576 anchors in all, got 1073741824",
        ),
        (
            {"rule": "default_boxes", "feature_sizes": VAST, "aspect_ratios": [[]]},
            "expected at most 1048576 anchors in all, got 33554432",
        ),
        (
            {"rule": "default_boxes", "feature_sizes": [(1 << 20, 1)], "aspect_ratios": [[]]},
            "less than or equal to 4096",
        ),
        ({"rule": "boxes", "corners": [[0, 0, float("nan"), 8]]}, "corners.0.2: input should be"),
        ({"rule": "boxes", "corners": [[0, 0, 8, float("inf")]]}, "corners.0.3: input should be"),
        ({"rule": "boxes", "corners": [[0, 0, 8, 1e39]]}, "corners.0.3: input should be less than or equal to 1000000"),
        ({"rule": "boxes", "corners": []}, "corners: tuple should have at least 1 item"),
        ({"rule": "yolo"}, "anchors: input tag 'yolo' found using 'rule' does not match any of the expected tags"),
        ({"rule": "boxes", "corners": [[0, 0, 8, 8]], "sizes": 3}, "sizes: "),
    ],
)
def test_anchors_that_make_no_sense_are_refused_before_any_is_made(anchors: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Spec.parse(DETECTOR | {"anchors": anchors})
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("anchors", "count"),
    [
        ({"rule": "default_boxes", **MAPS, "aspect_ratios": [[2, 3], []]}, 64 * 6 + 16 * 2),
        ({"rule": "multibox_prior", **MAPS, "sizes": [[0.2, 0.3], [0.5]], "ratios": [[1, 2], [1]]}, 64 * 3 + 16),
        (
            {
                "rule": "grid_anchors",
                **MAPS,
                "strides": [(8, 8), (16, 16)],
                "sizes": [[8, 16], [32]],
                "aspect_ratios": [[1, 2], [1]],
            },
            64 * 4 + 16,
        ),
        ({"rule": "boxes", "corners": [[0, 0, 8, 8]] * 5}, 5),
    ],
)
def test_anchors_are_as_many_as_they_are_counted(anchors: dict[str, Any], count: int) -> None:
    found = Spec.parse(DETECTOR | {"anchors": anchors}).anchors
    assert found is not None
    assert found.count == count
    assert found.boxes((64, 64)).shape == (count, 4)
