"""TensorRT on an NVIDIA GPU, by tensorrt or tensorrt_rtx."""

import logging
from pathlib import Path
from typing import Any

from visdeploy import cache
from visdeploy.bundle import Bundle
from visdeploy.engines import tensorrt_library
from visdeploy.engines.cuda import Device, find_device
from visdeploy.engines.tensorrt_build import Plan, build, choose_precision, graph_member, read_engine, shapes_of
from visdeploy.engines.tensorrt_library import INSTALL, Library, open_library
from visdeploy.engines.tensorrt_run import TensorRtEngine
from visdeploy.errors import MissingDependencyError, UnsupportedError

log = logging.getLogger("visdeploy")


def version() -> str:
    """Return name and version of the library that runs here.

    Raises:
        MissingDependencyError: The library, the driver or the GPU is missing; the sentence says how to mend it.
    """
    return _find()[0]


def _find() -> tuple[str, str, Device]:
    names = tensorrt_library.installed()
    if not names:
        raise MissingDependencyError(
            f"engine tensorrt cannot run here: neither tensorrt nor tensorrt_rtx is installed; {INSTALL}"
        )
    described = tensorrt_library.describe(names[0])
    device, missing = find_device()
    if device is None:
        builds = f"builds work ({tensorrt_library.describe('tensorrt_rtx')}), but " if "tensorrt_rtx" in names else ""
        raise MissingDependencyError(f"engine tensorrt cannot run here: {builds}{missing}")
    return described, names[0], device


def open_engine(bundle: Bundle, *, precision: str, threads: int) -> TensorRtEngine:
    """Take the bundle's engine from the cache, or build it, which takes from seconds to minutes.

    Args:
        bundle: An opened bundle.
        precision: "fp32", or one that the bundle holds a variant for.
        threads: Not used: the network runs on the GPU.

    Raises:
        MissingDependencyError: The library, the driver or the GPU is missing.
        UnsupportedError: The bundle has no graph of that precision.
        EngineError: The graph was refused, or the build failed.
    """
    _, name, device = _find()
    library = open_library(name)
    precision = choose_precision(bundle, precision)
    member = graph_member(bundle, precision)
    key = {
        "model": bundle.manifest.files[member].sha256,
        "engine": library.name,
        "version": library.version,
        "device": str(device),
        "precision": precision,
        "shapes": " ".join("x".join(map(str, shape)) for shape in shapes_of(bundle.manifest)),
    }
    kernels = key | {"engine": f"{library.name} kernels"}

    def use(data: Any) -> TensorRtEngine:
        return TensorRtEngine(library, data, precision, kernels=kernels)

    def make() -> tuple[TensorRtEngine, bytes]:
        measured = {part: key[part] for part in ("engine", "version", "device")} | {"model": "timing of any"}
        plan = build(bundle, library=name, precision=precision, device=device, timing=cache.find(measured) or b"")
        if plan.timing:
            cache.keep(measured, plan.timing)
        return use(plan.data), plan.data

    engine, sentence = cache.obtain(key, use, make)
    log.info("%s: tensorrt engine %s", bundle.path, sentence)
    return engine


def open_file(path: str | Path) -> TensorRtEngine:
    """Open an engine that `export_engine` wrote, with its sidecar beside it.

    Raises:
        InputError: The file or its sidecar is missing, or they do not belong together.
        MissingDependencyError: The library that it is for, the driver or the GPU is missing.
        UnsupportedError: It is for another version of the library, or for another GPU.
    """
    plan = read_engine(path)
    device = _find()[2]
    library = open_library(plan.sidecar.library)
    refuse_foreign(plan, library, device, str(path))
    return TensorRtEngine(library, plan.data, plan.sidecar.precision, trusted_code=plan.sidecar.version_compatible)


def refuse_foreign(plan: Plan, library: Library, device: Device, path: str) -> None:
    """Raise UnsupportedError for a plan of another version, or for another GPU, as far as its sidecar tells."""
    made = plan.sidecar
    capability = ".".join(map(str, device.compute_capability))
    if made.library_version != library.version and not made.version_compatible:
        was, here = f"{made.library} {made.library_version}", library.version
    elif made.compute_capabilities and capability not in made.compute_capabilities:
        was, here = f"compute capability {', '.join(made.compute_capabilities)}", f"{device}"
    elif made.gpu and made.gpu != str(device) and not made.hardware_compatible:
        was, here = made.gpu, str(device)
    else:
        return
    raise UnsupportedError(
        f"{path}: built for {was}, here is {here}; build it again: visdeploy export BUNDLE --format engine --out {path}"
    )
