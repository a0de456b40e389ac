import ctypes
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import cuda_arrays
import tensorrt_standin as standin
from visdeploy import cli
from visdeploy.native import _core

# Read when torch is first imported: its threads spin otherwise, and stall each other where the machine is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ENGINES = ("openvino", "onnxruntime", "torchscript")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache that is empty at first, for all tests and the processes they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images and labels that $VISDEPLOY_DATA names."""
    folder = os.environ.get("VISDEPLOY_DATA")
    if not folder:
        pytest.skip("VISDEPLOY_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="module", params=_core.isa_names())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine runs, in force while the tests of a module run."""
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


# Of CUDA threads, each of which is another run of a test.
ORDERS = 10 if os.environ.get("VISDEPLOY_SOAK") else 1
CUDA = [pytest.param(f"cuda{k or ''}", marks=cuda_arrays.NEEDS_KERNELS) for k in range(ORDERS)]


@pytest.fixture(scope="module", params=[*_core.isa_names(), *CUDA])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set, and the CUDA kernels executed on the CPU, in force while the tests of a module run."""
    if not request.param.startswith("cuda"):
        _core.set_isa(request.param)
        yield request.param
        _core.set_isa(_core.isa_names()[-1])
        return
    with cuda_arrays.in_force(cuda_arrays.OnCuda()):
        yield "cuda"


@pytest.fixture
def shim() -> Iterator[ctypes.CDLL]:
    """The controls of the emulation, as new; ops run its kernels, on arrays that the test labels itself."""
    library = cuda_arrays.shim()
    with cuda_arrays.in_force(cuda_arrays.core()):
        library.shim_reset()
        yield library
        library.shim_reset()
        library.shim_set_devices(2)


@pytest.fixture(autouse=True)
def _thread_order(request: pytest.FixtureRequest) -> None:
    """Another order of the emulated CUDA threads for every test, and the same one each time it runs."""
    if "implementation" in request.fixturenames and request.getfixturevalue("implementation") == "cuda":
        cuda_arrays.shim().shim_set_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    pytest.importorskip({"torchscript": "torch"}.get(request.param, request.param))
    return request.param


@pytest.fixture(scope="session")
def photos() -> list[NDArray[np.uint8]]:
    """Coloured, textured images of different sizes, none of them a multiple of anything."""
    rng = np.random.default_rng(7)
    images = []
    for height, width in ((75, 101), (53, 90)):
        y, x = np.mgrid[:height, :width]
        waves = [127 + 80 * np.sin(x / a + y / b) for a, b in ((9, 30), (25, 7), (14, 50))]
        images.append(np.clip(np.stack(waves, -1) + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8))
    return images


@pytest.fixture(scope="session")
def binary_bundle(tmp_path_factory: pytest.TempPathFactory, photos: list[NDArray[np.uint8]]) -> Path:
    """An untrained U-Net of 84,000 parameters, 64x64, that calls about half of the pixels a car."""
    torch = pytest.importorskip("torch")
    from visdeploy import export, models

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = models.create("unet", encoder="test_efficientnet", num_classes=1, decoder_channels=8).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(photos[0][:64, :64].copy()).permute(2, 0, 1)[None] / 127.5 - 1
        net.head.bias -= net(pixels).median()
    path = tmp_path_factory.mktemp("binary") / "car.vdz"
    spec = {"task": "segmentation", "labels": ["car"], "size": 64, "mean": 0.5, "std": 0.5}
    export.export(net, path, spec=spec, golden=photos)
    return path


@pytest.fixture(scope="session")
def classes_bundle(tmp_path_factory: pytest.TempPathFactory, photos: list[NDArray[np.uint8]]) -> Path:
    """Four classes without a background, letterboxed into 64x96, answered at a quarter of that."""
    pytest.importorskip("torch")
    from nets import ConvNet
    from visdeploy import export

    path = tmp_path_factory.mktemp("classes") / "street.vdz"
    spec = {
        "task": "segmentation",
        "labels": ["road", "car", "tree", "sky"],
        "size": (64, 96),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "resize": "letterbox",
        "pad_value": 114,
    }
    export.export(ConvNet(4, stride=4), path, spec=spec, golden=photos)
    return path


@pytest.fixture(scope="session")
def detector_bundle(tmp_path_factory: pytest.TempPathFactory, photos: list[NDArray[np.uint8]]) -> Path:
    """Two classes, letterboxed into 64x96, with dozens of boxes in each golden image."""
    pytest.importorskip("torch")
    from nets import BoxNet
    from visdeploy import export

    path = tmp_path_factory.mktemp("detector") / "pets.vdz"
    spec = {"task": "detection", "labels": ["cat", "dog"], "size": (64, 96), "mean": 0.5, "std": 0.5}
    export.export(BoxNet(2), path, spec=spec | {"resize": "letterbox"}, golden=photos)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["visdeploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def cudart() -> standin.Cudart:
    return standin.Cudart()


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def library(request: pytest.FixtureRequest, cudart: standin.Cudart, monkeypatch: pytest.MonkeyPatch) -> str:
    standin.install(monkeypatch, cudart, rtx=request.param == "tensorrt_rtx")
    return request.param
