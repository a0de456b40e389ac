"""TensorRT on an NVIDIA GPU, by tensorrt or tensorrt_rtx."""

import logging
from pathlib import Path
from typing import Any

from visdeploy import cache
from visdeploy.bundle import Bundle
from visdeploy.engines import tensorrt_library
from visdeploy.engines.cuda import Device, find_device
from visdeploy.engines.tensorrt_build import PRECISIONS, Plan, build, graph_member, read_engine, shapes_of
from visdeploy.engines.tensorrt_library import INSTALL, Library, open_library
from visdeploy.engines.tensorrt_run import TensorRtEngine
from visdeploy.errors import InputError, MissingDependencyError, UnsupportedError

log = logging.getLogger("visdeploy")


def version() -> str:
    """Return name and version of the library that runs here.

    Raises:
        MissingDependencyError: The library, the driver or the GPU is missing; the sentence says how to mend it.
    """
    return _find()[0]


def precisions() -> tuple[str, ...]:
    """Return what it can compute in, from a graph of that type."""
    return PRECISIONS


def device() -> str:
    """Return name and compute capability of the GPU; raises as `version` does."""
    return str(_find()[2])


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
        threads: How many lanes there are at least, which decode and find masks; the network runs on the GPU.

    Raises:
        MissingDependencyError: The library, the driver or the GPU is missing.
        UnsupportedError: The bundle has no graph of that precision.
        EngineError: The graph was refused, or the build failed.
    """
    _, name, gpu = _find()
    library = open_library(name)
    member = graph_member(bundle, precision)
    key = {
        "model": bundle.sha256(member),
        "engine": library.name,
        "version": library.version,
        "device": str(gpu),
        "precision": precision,
        "shapes": " ".join("x".join(map(str, shape)) for shape in shapes_of(bundle.manifest)),
    }
    kernels = key | {"engine": f"{library.name} kernels"}

    def use(data: Any) -> TensorRtEngine:
        return TensorRtEngine(library, data, precision, threads=threads, kernels=kernels)

    def make() -> tuple[TensorRtEngine, bytes]:
        log.info("%s: %s builds a %s engine for %s, which may take minutes", bundle.path, name, precision, gpu)
        measured = {part: key[part] for part in ("engine", "version", "device")} | {"model": "timing of any"}
        plan = build(bundle, library=name, precision=precision, device=gpu, timing=cache.find(measured) or b"")
        if plan.timing:
            cache.keep(measured, plan.timing)
        return use(plan.data), plan.data

    engine, sentence = cache.obtain(key, use, make)
    engine.notes.append(f"{precision} engine of {library.name}: {sentence}")
    log.info("%s", engine.notes[-1])
    return engine


def open_file(path: str | Path, bundle: Bundle) -> TensorRtEngine:
    """Open an engine that `export_engine` made of a bundle, with its sidecar beside it.

    Raises:
        InputError: The file or its sidecar is missing, they do not belong together, or not to the bundle.
        MissingDependencyError: The library that it is for, the driver or the GPU is missing.
        UnsupportedError: It is for another version of the library, or for another GPU.
    """
    plan = read_engine(path)
    if plan.sidecar.model not in bundle.files or bundle.sha256(plan.sidecar.model) != plan.sidecar.model_sha256:
        raise InputError(f"{path}: built from another model than the {plan.sidecar.model} of {bundle.path}")
    gpu = _find()[2]
    library = open_library(plan.sidecar.library)
    refuse_foreign(plan, library, gpu, str(path))
    return TensorRtEngine(library, plan.data, plan.sidecar.precision, trusted_code=plan.sidecar.version_compatible)


def refuse_foreign(plan: Plan, library: Library, gpu: Device, path: str) -> None:
    """Raise UnsupportedError for a plan of another version, or for another GPU, as far as its sidecar tells."""
    made = plan.sidecar
    capability = ".".join(map(str, gpu.compute_capability))
    if made.library_version != library.version and not made.version_compatible:
        was, here = f"{made.library} {made.library_version}", library.version
    elif made.compute_capabilities and capability not in made.compute_capabilities:
        was, here = f"compute capability {', '.join(made.compute_capabilities)}", str(gpu)
    elif made.gpu and made.gpu != str(gpu) and made.hardware_compatible == "none":
        was, here = made.gpu, str(gpu)
    else:
        return
    raise UnsupportedError(
        f"{path}: built for {was}, here is {here}; build it again: visdeploy export BUNDLE --format engine --out {path}"
    )
