"""The one file that knows the order: decode, resize, infer, postprocess."""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args, overload

import numpy as np
from numpy.typing import NDArray

from visdeploy import tiling
from visdeploy.asked import Asked
from visdeploy.bundle import Bundle
from visdeploy.engines import Engine, open_engine
from visdeploy.errors import EngineError, InputError, VisdeployError
from visdeploy.image import Color, ImageSource, decode, in_folder
from visdeploy.kinds import check_arguments
from visdeploy.lanes import in_order
from visdeploy.mask import Array
from visdeploy.postprocess import check_shape, find, find_tiled_masks, find_tiled_picture
from visdeploy.preprocess import Prepared, prepare
from visdeploy.sources import describe, in_batches, own, refuse_single
from visdeploy.spec import Manifest
from visdeploy.types import PARTS, Found, Result, Timings

if TYPE_CHECKING:
    from visdeploy.benchmark import Measurement
    from visdeploy.report import Report


def load(
    path: str | os.PathLike[str],
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    num_threads: int | None = None,
) -> "Predictor":
    """Open a bundle for prediction, after checking every checksum in it.

    Args:
        path: A `.vdz` file, or a directory with the same files.
        engine: "tensorrt", "openvino", "onnxruntime", "torchscript", or "auto" for the first of these that can run
            here.
        device: "auto", "cpu", or "cuda" for the GPU that the process sees first.
        precision: "fp32"; what the engine offers beside it ("bf16", "fp16") or the bundle holds a variant of for it
            ("int8", "fp16"); or "auto" for the fastest here of fp32 and what was accepted when the bundle was made.
        num_threads: Threads for one inference; default, the container's CPU quota.

    Returns:
        A predictor: call it with an image, or use it as a context manager.

    Raises:
        InputError: An argument is wrong.
        BundleError: The bundle is damaged, altered or too new.
        MissingDependencyError: The engine's package is not installed.
        EngineError: The engine refuses the model or the precision.

    Example:
        >>> with load("car.vdz") as model:
        ...     model("car.jpg").plot().save("overlay.png")
    """
    given = {"path": path, "engine": engine, "device": device, "precision": precision}
    check_arguments("load", load, given)
    bundle = Bundle.open(Path(path))
    opened = open_engine(engine, bundle, device=device, precision=precision, num_threads=num_threads)
    return Predictor(bundle, opened, num_threads)


class Predictor:
    """A bundle with an engine that runs it; made by `load`. Calls from several threads are safe.

    Another process needs a predictor of its own: one that is pickled is loaded again there, and one that came by a fork
    raises `EngineError`, as the engine's threads did not come with it.

    Attributes:
        spec: The bundle's manifest.
        engine: What runs the network.
        path: The bundle it came from.
    """

    def __init__(self, bundle: Bundle, engine: Engine, num_threads: int | None = None) -> None:
        self.spec: Manifest = bundle.manifest
        self.engine = engine
        self.path = bundle.path
        self._num_threads = num_threads
        self._anchors = self.spec.anchors.boxes(self.spec.size) if self.spec.anchors is not None else None
        self._closed = False
        self._running = 0
        self._lock = threading.RLock()  # a signal's handler may close the model on the thread that holds it
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"Predictor({str(self.path)!r}, engine={self.engine.name!r}, precision={self.engine.precision!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(load, engine=self.engine.name, precision=self.engine.precision, num_threads=self._num_threads)
        return again, (self.path.absolute(),)

    @overload
    def __call__(
        self,
        image: list[ImageSource],
        *,
        color: Color = "rgb",
        threshold: float | None = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: str | int | Sequence[str | int] | None = None,
        min_area: int | None = None,
        fill_holes: bool | None = None,
    ) -> list[Result]: ...
    @overload
    def __call__(
        self,
        image: ImageSource,
        *,
        color: Color = "rgb",
        threshold: float | None = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: str | int | Sequence[str | int] | None = None,
        min_area: int | None = None,
        fill_holes: bool | None = None,
    ) -> Result: ...
    def __call__(
        self,
        image: Any,
        *,
        color: Color = "rgb",
        threshold: float | None = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: str | int | Sequence[str | int] | None = None,
        min_area: int | None = None,
        fill_holes: bool | None = None,
    ) -> Result | list[Result]:
        """Predict one image, or each of a list.

        Args:
            image: Path, bytes of an image file, (H, W, 3) uint8 array, or PIL image; or a list of these.
            color: Channel order of arrays, "rgb" or "bgr".
            threshold: Probability above which a binary pixel is foreground; default, the spec's.
            conf: Score above which a detector's box is returned, from 0 to 1; default, the spec's `threshold`.
            iou: Largest IoU of two boxes of one class, from 0 to 1; default, the spec's `iou_threshold`.
            max_det: The most boxes of one image, best first; default, the spec's.
            classes: Names or indices of the classes to look for; the boxes of others do not count in `max_det`.
            min_area: Connected parts of masks with fewer pixels become background; default, the spec's.
            fill_holes: Whether background that one class encloses becomes that class; default, the spec's.

        Raises:
            InputError: An image cannot be decoded, or an argument is wrong, or does not go with the model's task.
        """
        asked = Asked(threshold, conf, iou, max_det, classes, min_area, fill_holes)
        self._check_usable()
        asked.check(self.spec)
        if isinstance(image, list):
            return [self._predict(entry, index, color, asked) for index, entry in enumerate(image)]
        return self._predict(image, 0, color, asked)

    def stream(
        self,
        images: "Iterable[ImageSource] | str | os.PathLike[str]",
        *,
        batch_size: int | None = None,
        color: Color = "rgb",
        threshold: float | None = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: str | int | Sequence[str | int] | None = None,
        min_area: int | None = None,
        fill_holes: bool | None = None,
    ) -> Iterator[Result]:
        """Predict any number of images in order, on as many threads as the engine has lanes, with bounded memory.

        An image that cannot be predicted yields a `Result` whose `error` is set, and the others go on. Where `images`
        itself raises, what it gave before is answered first. Leaving the stream, or losing it, ends its threads.

        Args:
            images: Paths, bytes, arrays or PIL images; or a folder, for the images in it by name. They are read on the
                caller's thread and only as far as needed. An array may be reused for the next.
            batch_size: Neighbours that are taken together, and share an inference where they are of one size; default,
                what suits the engine.
            color: Channel order of arrays.
            threshold: As in a call.
            conf: As in a call.
            iou: As in a call.
            max_det: As in a call.
            classes: As in a call.
            min_area: As in a call.
            fill_holes: As in a call.

        Raises:
            InputError: An argument is wrong.
        """
        if batch_size is None:
            batch_size = getattr(self.engine, "preferred_batch", 1)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"[stream] batch_size: expected a whole number of at least 1, got {batch_size!r}")
        if color not in get_args(Color):
            raise InputError(f"[stream] color: expected rgb or bgr, got {color!r}")
        sources: Any = images
        if isinstance(images, str | os.PathLike) and Path(images).is_dir():
            sources = in_folder(images)
        refuse_single(sources, "[stream] images")
        self._check_usable()
        asked = Asked(threshold, conf, iou, max_det, classes, min_area, fill_holes)
        asked.check(self.spec)
        return self._stream(iter(sources), min(batch_size, self.spec.max_batch), color, asked)

    def benchmark(self, images: Sequence[ImageSource], *, rounds: int = 20) -> "Measurement":
        """Time each stage over `images`, again and again; see `visdeploy.benchmark`."""
        from visdeploy import benchmark

        return benchmark.measure([self], images, rounds=rounds)[0]

    def verify(self) -> "Report":
        """Replay the bundle's golden images through this engine; see `visdeploy.verify`."""
        from visdeploy import verify

        return verify.verify(self.path, engines=[self])

    def close(self) -> None:
        """Release the engine, as soon as no other thread uses it; the predictor cannot be used afterwards."""
        with self._lock:
            last = not self._closed and not self._running
            self._closed = True
        if last:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("[predict] the model was closed; load it again")

    def _check_usable(self) -> None:
        self._check_open()
        if os.getpid() != self._process:
            raise EngineError("[predict] the model was loaded before this process was forked; load it in this one")

    def _predict(self, source: Any, index: int, color: Color, asked: Asked) -> Result:
        return self._finish([self._prepare(own(source), index, color)], asked, alone=True)[0]

    def _stream(self, sources: Iterable[Any], batch_size: int, color: Color, asked: Asked) -> Iterator[Result]:
        def predict(batch: list[tuple[int, Any]]) -> list[Result]:
            items = [self._try_prepare(source, index, color) for index, source in batch]
            return [
                result
                for _, neighbours in groupby(items, lambda item: item.shape)
                for result in self._try_finish(list(neighbours), asked)
            ]

        lanes = self.engine.lanes
        with closing(in_order(predict, in_batches(sources, batch_size), lanes, 2 * lanes)) as answers:
            for results in answers:
                for result in results:
                    self._check_usable()
                    yield result

    def _prepare(self, source: Any, index: int, color: Color) -> "_Item":
        result = Result(describe(source), index, self.spec.labels, self.spec.palette)
        start = time.perf_counter()
        pixels = decode(source, color=color)
        decoded = time.perf_counter()
        prepared = prepare(pixels, self.spec)
        timings = Timings(decode_ms=1e3 * (decoded - start), resize_ms=1e3 * (time.perf_counter() - decoded))
        return _Item(replace(result, size=pixels.shape[:2], image=pixels, timings=timings), prepared)

    def _try_prepare(self, source: Any, index: int, color: Color) -> "_Item":
        try:
            return self._prepare(source, index, color)
        except Exception as error:  # whatever one image provokes must not cost the others
            result = Result(describe(source), index, self.spec.labels, self.spec.palette)
            return _Item(_failed(result, error, InputError), None)

    def _finish(self, batch: Sequence["_Item"], asked: Asked, *, alone: bool) -> list[Result]:
        inputs = [item.prepared for item in batch if item.prepared is not None]
        if self.spec.resize == "tile" and inputs[0].pixels.shape[:2] != self.spec.size:
            pairs = zip(batch, inputs, strict=True)
            return [self._tiled(item.result, prepared, asked, alone) for item, prepared in pairs]
        start = time.perf_counter()
        with self._inferred([prepared.pixels for prepared in inputs], alone) as outputs:
            answered = time.perf_counter()
            threads = None if alone else 1  # in a stream, other lanes have the others
            found = list(find(outputs, inputs, self.spec, self._anchors, asked, num_threads=threads))
        infer, read = answered - start, time.perf_counter() - answered
        shares = 1e3 * infer / len(inputs), 1e3 * read / len(inputs)
        return [_answered(item.result, answer, *shares) for item, answer in zip(batch, found, strict=True)]

    def _try_finish(self, batch: Sequence["_Item"], asked: Asked) -> list[Result]:
        if batch[0].prepared is None:
            return [item.result for item in batch]
        try:
            return self._finish(batch, asked, alone=False)
        except Exception as error:  # whatever one image provokes must not cost the others
            if len(batch) > 1:  # of which perhaps one is to blame
                return [result for item in batch for result in self._try_finish([item], asked)]
            return [_failed(batch[0].result, error, EngineError)]

    def _tiled(self, result: Result, prepared: Prepared, asked: Asked, alone: bool) -> Result:
        start = time.perf_counter()
        waited, restores = 0.0, self.spec.task == "restoration"

        def infer(window: NDArray[np.uint8]) -> NDArray[np.float32]:
            with self._inferred([window], alone=False, on_host=True) as logits:
                planes: NDArray[np.float32] = logits[0]
            if restores:
                check_shape(logits.shape, self.spec, window.shape[:2])
            return planes

        def timed(answers: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
            nonlocal waited
            since = time.perf_counter()
            for planes in answers:
                waited += time.perf_counter() - since
                yield planes
                since = time.perf_counter()

        lanes, windows = self.engine.lanes, tiling.windows(prepared.pixels, self.spec)
        # In a stream this already is one lane of several.
        with closing(
            in_order(infer, windows, lanes, 2 * lanes) if alone else (infer(window) for window in windows)
        ) as answers:
            parts = tiling.blend(timed(answers), prepared.pixels.shape[:2], self.spec)
            found: Found
            if restores:
                found = find_tiled_picture(parts, prepared, self.spec)
            else:
                found = find_tiled_masks(parts, prepared, asked.cleaning(self.spec), asked.threshold)
        return _answered(result, found, 1e3 * waited, 1e3 * (time.perf_counter() - start - waited))

    @contextmanager
    def _inferred(self, images: Sequence[NDArray[np.uint8]], alone: bool, *, on_host: bool = False) -> Iterator[Array]:
        """Yield what `Engine.infer` answers; logits of masks on the engine's device where ops can take them there."""
        with self._lock:
            self._check_open()
            self._running += 1
        try:
            batch = images[0][None] if len(images) == 1 else np.stack(images)
            on_host |= self.spec.task != "segmentation"
            if getattr(self.engine, "on_device", False) and not on_host:
                answer = self.engine.infer_on_device(batch)  # type: ignore[attr-defined]
            else:
                answer = nullcontext(self.engine.infer(batch, alone=alone))
            with answer as outputs:
                if len(outputs) != len(images):
                    raise EngineError(
                        f"{self.engine.name} answered a batch of {len(images)} with the shape {outputs.shape}"
                    )
                yield outputs
        finally:
            with self._lock:
                self._running -= 1
                last = self._closed and not self._running
            if last:
                self.engine.close()


@dataclass(frozen=True)
class _Item:
    """An image on its way: without pixels where decoding failed."""

    result: Result
    prepared: Prepared | None

    @property
    def shape(self) -> tuple[int, ...]:
        """What images that share a batch have in common."""
        return () if self.prepared is None else self.prepared.pixels.shape


def _answered(result: Result, found: Found, infer_ms: float, postprocess_ms: float) -> Result:
    timings = replace(result.timings, infer_ms=infer_ms, postprocess_ms=postprocess_ms)
    part: dict[str, Any] = {PARTS[type(found)]: found}
    return replace(result, timings=timings, **part)


def _failed(result: Result, error: Exception, kind: type[VisdeployError]) -> Result:
    known = error if isinstance(error, VisdeployError) else kind(f"[predict] image {result.index}: {error!r}")
    seen: BaseException | None = known
    while seen is not None:  # the frames of a traceback hold every image that was in them
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return Result(result.source, result.index, result.labels, result.palette, error=known)
