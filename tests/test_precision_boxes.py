"""Lower precision of a detector: accepted by its average precision, which the range of its offsets decides."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

from torch import Tensor, nn  # noqa: E402

from visdeploy import data, export  # noqa: E402
from visdeploy.bundle import Bundle  # noqa: E402
from visdeploy.data.dataset import Objects  # noqa: E402
from visdeploy.errors import InputError  # noqa: E402
from visdeploy.precision import PrecisionOptions, add_variants  # noqa: E402
from visdeploy.verify import verify  # noqa: E402

SPEC = {"task": "detection", "labels": ["red"], "size": 64, "mean": 0.5, "std": 0.5}
# A box of half a cell in the middle of each of 8 by 8 cells; offsets double it.
ANCHORS = {"rule": "multibox_prior", "feature_sizes": [(8, 8)], "sizes": [[1 / 16]], "ratios": [[1]]}


class Finder(nn.Module):
    """Finds cells that are red, as sure as `gain` says; logits and offsets come from layers of their own."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.means = nn.Conv2d(3, 3, 8, 8)
        self.logits, self.offsets = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)
        for layer in (self.means, self.logits, self.offsets):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for channel in range(3):
            self.means.weight.data[channel, channel] = 1 / 64
        self.means.bias.data[:] = 1.0
        self.logits.weight.data[1, 0], self.logits.bias.data[1] = gain, -gain
        self.offsets.bias.data[2:] = 5 * np.log(2)

    def forward(self, x: Tensor) -> Tensor:
        means = torch.relu(self.means(x))
        heads = torch.cat([self.logits(means), self.offsets(means)], 1)
        return heads.flatten(2).transpose(1, 2)


def cells(seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((8, 8)) < 0.1


def picture(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (64, 64, 3), np.uint8)
    pixels[..., 0] += np.kron(cells(seed), np.full((8, 8), 170)).astype(np.uint8)
    return pixels


def objects(seed: int) -> Objects:
    rows, columns = np.nonzero(cells(seed))
    corners = np.stack([columns, rows, columns + 1, rows + 1], 1).astype(np.float32) * 8
    return Objects(corners, np.ones(len(rows), np.int64), np.zeros(len(rows), bool))


@pytest.fixture(scope="module")
def labelled() -> data.Dataset:
    items = [
        data.Item(f"{seed}", lambda seed=seed: picture(seed), load_objects=lambda seed=seed: objects(seed))
        for seed in range(15)
    ]
    return data.Dataset(("background", "red"), ((0, 0, 0), (255, 0, 0)), items[:10], items[10:], 0)


def make(path: Path, gain: float) -> Bundle:
    export.export(Finder(gain), path, spec=SPEC | {"anchors": ANCHORS}, golden=[picture(100), picture(101)])
    return Bundle.open(path)


def test_what_keeps_the_average_precision_is_accepted_and_verified(tmp_path: Path, labelled: data.Dataset) -> None:
    # Logits of thousands beside offsets of three: one range for both would round the offsets to nothing.
    bundle = make(tmp_path / "red.vdz", 8000.0)
    lines: list[str] = []
    made = add_variants(bundle, PrecisionOptions("int8", labelled), progress=lines.append)
    assert {(form.engine, form.metric, form.value) for form in made.manifest.variants} == {
        (engine, "map50", 1.0) for engine in ("openvino", "onnxruntime", "tensorrt")
    }
    assert all(form.accepted and not form.excluded and form.images == 5 for form in made.manifest.variants)
    assert any("int8 for openvino: map50 1.0000 on 5 images, fp32 1.0000" in line for line in lines)
    report = verify(made)
    assert report.ok
    ends = [row for row in report.rows if row.stage == "end to end" and row.precision == "int8"]
    assert {row.engine for row in ends} == {"openvino", "onnxruntime"}
    assert all(row.total and row.total > 10 for row in ends)


def test_data_without_an_object_decide_nothing(tmp_path: Path, labelled: data.Dataset) -> None:
    bundle = make(tmp_path / "red.vdz", 8.0)
    nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    empty = [data.Item("a", lambda: picture(0), load_objects=lambda: nothing)]
    unmarked = data.Dataset(labelled.labels, labelled.palette, labelled.train, empty, 0)
    with pytest.raises(InputError, match="no held-out image has an object marked, so a model that finds nothing"):
        add_variants(bundle, PrecisionOptions("int8", unmarked))
    other = data.Dataset(("background", "cat"), labelled.palette, labelled.train, labelled.val, 0)
    with pytest.raises(InputError, match="data: its labels lack .red. and have .cat. besides"):
        add_variants(bundle, PrecisionOptions("int8", other))
