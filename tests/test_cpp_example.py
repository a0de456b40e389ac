"""examples/cpp built against the installed torch: it prints what Python finds with the same file."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cmake
import ninja
import numpy as np
import pytest
import torch

import visdeploy
from visdeploy import export, torch_ops
from visdeploy.bundle import Bundle
from visdeploy.engines.exported import open_file
from visdeploy.engines.torchscript import accepting_deprecation
from visdeploy.image import decode
from visdeploy.onnx_detector import export_onnx
from visdeploy.torchscript_file import export_torchscript

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def program():
    """The example, as its README builds it; kept between runs, as it takes half a minute to compile."""
    cmake_program, build = Path(cmake.CMAKE_BIN_DIR, "cmake"), ROOT / "build" / "examples_cpp"
    options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR, 'ninja')}", f"-DPYTHON={sys.executable}"]
    for command in (["-S", ROOT / "examples" / "cpp", "-B", build, *options], ["--build", build]):
        done = subprocess.run([cmake_program, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "predict"


@pytest.fixture(scope="session")
def scripts(detector_bundle, classes_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for bundle in (detector_bundle, classes_bundle):
        export_torchscript(Bundle.open(bundle), folder / f"{bundle.stem}.ts")
    return folder


@pytest.fixture
def photo(photos, tmp_path):
    """An image that is shrunk on its way to the network, and its file."""
    image = np.tile(photos[0], (2, 2, 1))
    path = tmp_path / "photo.ppm"
    write_ppm(path, image)
    return image, path


class Darker(torch.nn.Module):
    def forward(self, x):
        return x / 2


def test_it_writes_the_picture_that_python_restores(program, photo, tmp_path):
    image, path = photo
    spec = {"task": "restoration", "size": 64, "mean": 0, "std": 1, "resize": "native", "enlarge": 2}
    export.export(Darker(), tmp_path / "dark.vdz", spec=spec, golden=[image])
    export_torchscript(Bundle.open(tmp_path / "dark.vdz"), tmp_path / "dark.ts")
    done = run(program, tmp_path / "dark.ts", path)
    assert done.returncode == 0, done.stderr
    written = Path(f"{path}.restored.ppm")
    assert json.loads(done.stdout) == {"image": str(path), "restored": str(written)}
    restored = python_answer(tmp_path / "dark.ts", image).numpy()
    assert restored.shape == (2 * image.shape[0], 2 * image.shape[1], 3)
    assert written.read_bytes() == b"P6\n%d %d\n255\n" % restored.shape[1::-1] + restored.tobytes()


def write_ppm(path, image):
    path.write_bytes(b"P6\n# made here\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + image.tobytes())


def run(program, *arguments):
    # As in a shell that knows nothing of this Python.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)


def python_answer(path, image):
    with accepting_deprecation():
        return torch.jit.load(path).predict(torch.from_numpy(image))


def test_it_prints_the_boxes_that_python_finds(program, scripts, detector_bundle, photo):
    image, path = photo
    done = run(program, scripts / "pets.ts", path)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 10
    boxes, scores, _ = python_answer(scripts / "pets.ts", image)
    with visdeploy.load(detector_bundle, engine="torchscript") as model:
        expected = model(image).boxes
    assert [entry["label"] for entry in found] == list(expected.names)
    printed = np.array([entry["box"] for entry in found], np.float32)
    np.testing.assert_array_equal(printed, boxes.numpy())
    np.testing.assert_array_equal(printed, expected.xyxy)
    np.testing.assert_array_equal(np.array([entry["score"] for entry in found], np.float32), scores.numpy())


def test_it_prints_the_masks_that_python_finds(program, scripts, classes_bundle, photo):
    image, path = photo
    done = run(program, scripts / "street.ts", path)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    labels, text, offsets = python_answer(scripts / "street.ts", image)
    with visdeploy.load(classes_bundle, engine="torchscript") as model:
        expected = model(image).masks
    assert [entry["counts"].encode() for entry in found] == [bytes(text[a:b].numpy()) for a, b in pairwise(offsets)]
    assert [{"size": entry["size"], "counts": entry["counts"].encode()} for entry in found] == expected.rle
    assert [entry["label"] for entry in found] == [model.spec.labels[label] for label in labels]


@pytest.mark.realdata
def test_every_form_finds_the_same_boxes_in_real_images(program, scripts, detector_bundle, data_dir, tmp_path):
    bundle = Bundle.open(detector_bundle)
    export_onnx(bundle, tmp_path / "pets.onnx")
    paths = sorted((data_dir / "det_bccd").rglob("*.jpg"))[:50]
    assert len(paths) == 50
    images = [decode(path) for path in paths]
    for index, image in enumerate(images):
        write_ppm(tmp_path / f"{index}.ppm", image)
    done = run(program, scripts / "pets.ts", *(tmp_path / f"{index}.ppm" for index in range(50)))
    assert done.returncode == 0, done.stderr
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    with accepting_deprecation():
        script = torch.jit.load(scripts / "pets.ts")
    found = 0
    with visdeploy.load(detector_bundle, engine="torchscript") as model:
        for index, in_onnx in enumerate(open_file(tmp_path / "pets.onnx", bundle).stream(images)):
            expected = model(images[index]).boxes
            lines = [entry for entry in printed if entry["image"] == str(tmp_path / f"{index}.ppm")]
            boxes, scores, labels = script.predict(torch.from_numpy(images[index]))
            np.testing.assert_array_equal(boxes.numpy(), expected.xyxy)
            np.testing.assert_array_equal(scores.numpy(), expected.scores)
            np.testing.assert_array_equal(labels.numpy(), expected.labels)
            np.testing.assert_array_equal(np.array([entry["box"] for entry in lines], np.float32), expected.xyxy)
            np.testing.assert_array_equal(np.array([entry["score"] for entry in lines], np.float32), expected.scores)
            assert [entry["label"] for entry in lines] == list(expected.names) == list(in_onnx.boxes.names)
            np.testing.assert_allclose(in_onnx.boxes.xyxy, expected.xyxy, atol=1e-2)
            found += len(lines)
    assert found > 1000


def test_mistakes_are_one_sentence(program, scripts, photo, detector_bundle, tmp_path):
    _, path = photo
    files = {
        "cut.ppm": path.read_bytes()[:-1],
        "deep.ppm": b"P6 2 2 65535\n" + b"\0" * 24,
        "comment.ppm": b"P6 2 2 255# last\n" + b"\0" * 12,
        "huge.ppm": b"P6 99999999999 1 255\n",
        "photo.png": b"\x89PNG",
        "raw.ts": Bundle.open(detector_bundle).read("model.ts"),
        "cut.ts": (scripts / "pets.ts").read_bytes()[:3000],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    model = scripts / "pets.ts"
    for arguments, said in (
        ((model, tmp_path / "none.ppm"), "none.ppm: cannot be opened"),
        ((model, tmp_path / "cut.ppm"), "is cut short: expected 90900 bytes of pixels, got 90899"),
        ((model, tmp_path / "deep.ppm"), "expected a PPM of 8 bits with sides up to 65536"),
        ((model, tmp_path / "comment.ppm"), "expected a PPM of 8 bits with sides up to 65536"),
        ((model, tmp_path / "huge.ppm"), "expected a PPM of 8 bits with sides up to 65536"),
        ((model, tmp_path / "photo.png"), "photo.png: "),
        ((tmp_path / "none.ts", path), "none.ts: cannot be opened"),
        ((tmp_path / "raw.ts", path), "has no method predict; make it with `visdeploy export --format torchscript`"),
        ((tmp_path / "cut.ts", path), "cut.ts: torch cannot load it: "),
    ):
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    both = run(program, model, tmp_path / "cut.ppm", path)
    assert (both.returncode, both.stderr.count("error: ")) == (1, 1)
    assert both.stdout == run(program, model, path).stdout != ""
    assert run(program).returncode == 2


def test_the_command_names_the_folder_of_the_config():
    done = subprocess.run([sys.executable, "-m", "visdeploy", "--cmake-dir"], capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    assert (folder / "visdeployConfig.cmake").is_file()
    assert folder == torch_ops.LIBRARY.parent
