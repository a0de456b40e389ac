"""The one file that knows the order: decode, resize, infer, postprocess."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args, overload

import numpy as np
from numpy.typing import NDArray

from visdeploy.bundle import Bundle
from visdeploy.engines import Engine, open_engine
from visdeploy.errors import EngineError, InputError, VisdeployError
from visdeploy.image import Color, ImageSource, decode
from visdeploy.postprocess import find_masks, logit_threshold
from visdeploy.preprocess import Prepared, prepare
from visdeploy.spec import Manifest
from visdeploy.types import Result, Timings

if TYPE_CHECKING:
    from visdeploy.benchmark import Measurement
    from visdeploy.verify import Report


def load(
    path: str | Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    num_threads: int | None = None,
) -> "Predictor":
    """Open a bundle for prediction, after checking every checksum in it.

    Args:
        path: A `.vdz` file, or a directory with the same files.
        engine: "openvino", "onnxruntime", "torchscript", or "auto" for the first of these that is installed.
        device: "auto" or "cpu".
        precision: "auto", "fp32", or what the engine offers beside it ("bf16" and "fp16" with OpenVINO).
        num_threads: Threads for one inference; default, the container's CPU quota.

    Returns:
        A predictor: call it with an image, or use it as a context manager.

    Raises:
        BundleError: The bundle is damaged, altered or too new.
        MissingDependencyError: The engine's package is not installed.
        EngineError: The engine refuses the model or the precision.

    Example:
        >>> with load("car.vdz") as model:
        ...     model("car.jpg").plot().save("overlay.png")
    """
    bundle = Bundle.open(path)
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
        self._closed = False
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(load, engine=self.engine.name, precision=self.engine.precision, num_threads=self._num_threads)
        return again, (self.path.absolute(),)

    @overload
    def __call__(
        self, image: list[ImageSource], *, color: Color = "rgb", threshold: float | None = None
    ) -> list[Result]: ...
    @overload
    def __call__(self, image: ImageSource, *, color: Color = "rgb", threshold: float | None = None) -> Result: ...
    def __call__(self, image: Any, *, color: Color = "rgb", threshold: float | None = None) -> Result | list[Result]:
        """Predict one image, or each of a list.

        Args:
            image: Path, bytes of an image file, (H, W, 3) uint8 array, or PIL image; or a list of these.
            color: Channel order of arrays, "rgb" or "bgr".
            threshold: Probability above which a binary pixel is foreground; default, the spec's.

        Raises:
            InputError: An image cannot be decoded, or an argument is wrong.
        """
        self._check_call(threshold)
        if isinstance(image, list):
            return [self._predict(entry, index, color, threshold) for index, entry in enumerate(image)]
        return self._predict(image, 0, color, threshold)

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        color: Color = "rgb",
        threshold: float | None = None,
    ) -> Iterator[Result]:
        """Predict any number of images in order, with bounded memory; decoding runs ahead of inference.

        An image that cannot be predicted yields a `Result` whose `error` is set, and the others go on. Where `images`
        itself raises, what it gave before is answered first.

        Args:
            images: Paths, bytes, arrays or PIL images; read only as far as needed. An array may be reused for the next.
            batch_size: Neighbours of one size that share an inference.
            color: Channel order of arrays.
            threshold: As in a call.

        Raises:
            InputError: An argument is wrong.
        """
        if batch_size < 1:
            raise InputError(f"[stream] batch_size: expected at least 1, got {batch_size}")
        if color not in get_args(Color):
            raise InputError(f"[stream] color: expected rgb or bgr, got {color!r}")
        refuse_single(images, "[stream] images")
        self._check_call(threshold)
        return self._stream(iter(images), batch_size, color, threshold)

    def benchmark(self, images: Sequence[ImageSource], *, rounds: int = 20) -> "Measurement":
        """Time each stage over `images`, again and again; see `visdeploy.benchmark`."""
        from visdeploy import benchmark

        return benchmark.measure([self], images, rounds=rounds)[0]

    def verify(self) -> "Report":
        """Replay the bundle's golden images through this engine; see `visdeploy.verify`."""
        from visdeploy import verify

        return verify.verify(self.path, engines=[self])

    def close(self) -> None:
        """Release the engine; the predictor cannot be used afterwards."""
        self._closed = True
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_call(self, threshold: float | None) -> None:
        if self._closed:
            raise InputError("[predict] the model was closed; load it again")
        if os.getpid() != self._process:
            raise EngineError("[predict] the model was loaded before this process was forked; load it in this one")
        if threshold is None:
            return
        if not self.spec.binary:
            raise InputError(
                "[predict] threshold: only a binary model has one; this one takes the best class per pixel"
            )
        logit_threshold(threshold, self.spec)

    def _predict(self, source: Any, index: int, color: Color, threshold: float | None) -> Result:
        return self._finish([self._prepare(_own(source), index, color)], threshold)[0]

    def _stream(
        self, images: Iterator[ImageSource], batch_size: int, color: Color, threshold: float | None
    ) -> Iterator[Result]:
        together = min(batch_size, self.spec.max_batch)
        waiting: deque[Future[_Item]] = deque()
        numbered = enumerate(images)
        failure: Exception | None = None
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="visdeploy-decode") as pool:

            def refill() -> None:
                nonlocal failure
                try:
                    for index, source in islice(numbered, 2 * batch_size - len(waiting)):
                        waiting.append(pool.submit(self._try_prepare, _own(source), index, color))
                except Exception as error:  # the caller's own, raised once all that came before it is answered
                    failure = error

            try:
                refill()
                while waiting:
                    self._check_call(threshold)
                    batch = [waiting.popleft().result()]
                    while waiting and len(batch) < together and waiting[0].result().fits(batch[0]):
                        batch.append(waiting.popleft().result())
                    refill()
                    yield from self._try_finish(batch, threshold)
                if failure is not None:
                    raise failure
            finally:
                for future in waiting:
                    future.cancel()

    def _prepare(self, source: Any, index: int, color: Color) -> "_Item":
        result = Result(_describe(source), index, self.spec.labels, self.spec.palette)
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
            known = error if isinstance(error, VisdeployError) else InputError(f"[predict] image {index}: {error!r}")
            return _Item(Result(_describe(source), index, self.spec.labels, self.spec.palette, error=known), None)

    def _finish(self, batch: Sequence["_Item"], threshold: float | None) -> list[Result]:
        inputs = [item.prepared for item in batch if item.prepared is not None]
        start = time.perf_counter()
        logits = self.engine.infer(np.stack([prepared.pixels for prepared in inputs]))
        share = 1e3 * (time.perf_counter() - start) / len(inputs)
        if logits.ndim != 4 or len(logits) != len(inputs):
            raise EngineError(f"{self.engine.name} answered a batch of {len(inputs)} with the shape {logits.shape}")
        return [
            self._answer(item.result, prepared, planes, share, threshold)
            for item, prepared, planes in zip(batch, inputs, logits, strict=True)
        ]

    def _try_finish(self, batch: Sequence["_Item"], threshold: float | None) -> list[Result]:
        if batch[0].prepared is None:
            return [batch[0].result]
        try:
            return self._finish(batch, threshold)
        except VisdeployError as error:
            return [replace(item.result, error=error) for item in batch]

    def _answer(
        self, result: Result, prepared: Prepared, logits: NDArray[np.float32], infer_ms: float, threshold: float | None
    ) -> Result:
        start = time.perf_counter()
        masks = find_masks(logits, prepared, self.spec, threshold)
        took = 1e3 * (time.perf_counter() - start)
        return replace(result, masks=masks, timings=replace(result.timings, infer_ms=infer_ms, postprocess_ms=took))


@dataclass(frozen=True)
class _Item:
    """An image on its way: without pixels where decoding failed."""

    result: Result
    prepared: Prepared | None

    def fits(self, other: "_Item") -> bool:
        """Whether both can share a batch."""
        if self.prepared is None or other.prepared is None:
            return False
        return bool(self.prepared.pixels.shape == other.prepared.pixels.shape)


def refuse_single(images: object, argument: str) -> None:
    """Raise InputError for one image where several are expected: its letters or rows would pass for images."""
    if isinstance(images, str | bytes | os.PathLike) or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise InputError(f"{argument}: expected several images, got a single {type(images).__name__}")


def _own(source: Any) -> Any:
    """Copy what the caller may overwrite with the next frame while this one is still waiting, or shown in a result."""
    if isinstance(source, np.ndarray):
        return source.copy()
    return bytes(source) if isinstance(source, bytearray | memoryview) else source


def _describe(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"{type(source).__name__} in memory"
