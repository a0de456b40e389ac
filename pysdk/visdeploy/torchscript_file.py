"""A bundle in one TorchScript file that does the whole way from a photograph, for programs without Python.

The file calls `torch.ops.visdeploy`, so `visdeploy.torch_ops`, or in C++ its library, is loaded before it.
"""

import io
from collections.abc import Callable
from pathlib import Path

from visdeploy import bundle as bundles
from visdeploy.asked import logit_threshold
from visdeploy.bundle import Bundle
from visdeploy.engines import reason
from visdeploy.errors import EngineError, InputError, requires
from visdeploy.replayed import write_replayed
from visdeploy.report import Report
from visdeploy.spec import Manifest

with requires("[export] --format torchscript needs torch", "torchscript"):
    import torch
    from torch import Tensor, nn

    import visdeploy.torch_ops  # noqa: F401  (which scripting needs)
    from visdeploy.engines.torchscript import accepting_deprecation


def export_torchscript(bundle: Bundle, path: str | Path, *, progress: Callable[[str], None] | None = None) -> Report:
    """Write one `.ts` with everything inside; the file appears only when it answers as the bundle recorded.

    `forward` takes uint8 (B, h, w, 3) RGB of the network's size. A detector's answers with (boxes, scores, labels,
    counts) in pixels of that size, see `torch.ops.visdeploy.detect`; of the other tasks it answers as `Spec.task` says.

    `predict` takes one uint8 (H, W, 3) RGB image of any size, resizes and pads it as the spec says, and answers in
    pixels of that image: for detection and localization (boxes (K, 4) float32, scores (K,), labels (K,) int64); for
    segmentation (labels (K,) int64, bytes, offsets), where mask i, of label i, has the compressed counts of COCO's RLE
    in bytes[offsets[i]:offsets[i + 1]]; for classification (C,) probabilities; for restoration the (H * e, W * e, 3)
    uint8 RGB picture, where the spec's `enlarge` is e. It answers as `load(path)(image)` does with the torchscript
    engine, but where an image is enlarged, or shrunk without antialiasing, by bilinear or bicubic samples: these are
    OpenCV's in Python, and up to `tolerance.LETTERBOX_LEVELS` away here.

    The attributes `task`, `labels` (names by index) and `size` (h, w) say what it is.

    Args:
        bundle: An opened bundle.
        path: Target, `*.ts`.
        progress: Called with one line per step.

    Raises:
        InputError: The bundle came from an ONNX file, or cuts images into tiles.
        EngineError: torch refuses the bundle's network.
        CheckFailedError: The file answers differently; nothing is written.
    """
    say = progress or (lambda line: None)
    path, spec = Path(path), bundle.manifest
    if path.suffix != ".ts":
        raise InputError(f"[export] out: expected a file named *.ts, got {path}")
    if bundles.TORCHSCRIPT not in bundle.files:
        raise InputError(f"[export] {bundle.path}: holds no {bundles.TORCHSCRIPT}, as it was made from an ONNX file")
    if spec.resize == "tile":
        raise InputError(f"[export] {bundle.path}: looks at images through tiles, which a TorchScript file does not do")
    say("writing TorchScript from photograph to answer")
    described = {"visdeploy.json": spec.model_dump_json(exclude={"files"})}
    buffer = io.BytesIO()
    try:
        with accepting_deprecation():
            net = torch.jit.load(io.BytesIO(bundle.read(bundles.TORCHSCRIPT)), map_location="cpu").eval()
            torch.jit.save(torch.jit.script(_TASKS[spec.task](net, spec).eval()), buffer, _extra_files=described)
    except Exception as error:  # what a foreign file provokes; its message may not even be UTF-8
        raise EngineError(f"[export] torch refused {bundle.path} ({reason(error)})") from error

    def write(unproven: Path) -> None:
        unproven.write_bytes(buffer.getvalue())

    return write_replayed(bundle, path, write, say)


class _Whole(nn.Module):
    """What all tasks have in common: a network, and how it gets to see an image."""

    task: str
    labels: list[str]
    size: list[int]

    def __init__(self, net: nn.Module, spec: Manifest) -> None:
        super().__init__()
        self.net = net
        self.task = spec.task
        self.labels = list(spec.labels)
        self.size = list(spec.size)
        self.stretched = spec.resize == "stretch"
        self.native = spec.resize == "native"
        self.divisor = spec.divisor
        self.interpolation: str = spec.interpolation
        self.antialias = spec.antialias and spec.interpolation == "bilinear"
        self.pad_value = spec.pad_value

    def prepare(self, image: Tensor) -> tuple[Tensor, list[int]]:
        """Return (1, h, w, 3) as the network sees it, and height and width of what is image in it."""
        if image.dim() != 3:
            raise RuntimeError(f"[predict] image: expected uint8 (H, W, 3), got {image.dim()} dimensions")
        height, width = image.shape[0], image.shape[1]
        valid, padded = self.size, self.size
        if self.native:
            steps_down, steps_across = -(-height // self.divisor), -(-width // self.divisor)
            valid, padded = [height, width], [steps_down * self.divisor, steps_across * self.divisor]
        elif not self.stretched and height > 0 and width > 0:
            scale = min(self.size[0] / height, self.size[1] / width)
            valid = [max(1, int(round(height * scale))), max(1, int(round(width * scale)))]  # noqa: RUF046  (a float in TorchScript)
        shrinks = valid[0] <= height and valid[1] <= width
        interpolation = "area" if self.antialias and shrinks else self.interpolation
        pixels = torch.ops.visdeploy.letterbox(image, valid, padded, interpolation, self.pad_value)
        return pixels.unsqueeze(0), valid


class _Raw(_Whole):
    """Whose `forward` answers what the network does."""

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.net(images)
        return answer


def _to_source(boxes: Tensor, valid: list[int], image: Tensor) -> Tensor:
    """Return (N, 4) boxes in pixels of the image, cut off at its edges, as postprocess does it."""
    height, width = image.shape[0], image.shape[1]
    # Not by torch.tensor of both: TorchScript rounds its numbers to float32 first.
    placed = boxes.double()
    placed[:, 0::2] = (placed[:, 0::2] * (width / valid[1])).clamp(0, width)
    placed[:, 1::2] = (placed[:, 1::2] * (height / valid[0])).clamp(0, height)
    return placed.float()


def _softmax(logits: Tensor) -> Tensor:
    return logits.double().clamp(-1e30, 1e30).softmax(-1).float()


def _without_nan(answer: Tensor) -> Tensor:
    if bool(answer.isnan().any()):
        raise RuntimeError("[predict] the network answered with NaN")
    return answer


class _Detector(_Whole):
    anchors: Tensor

    def __init__(self, net: nn.Module, spec: Manifest) -> None:
        super().__init__(net, spec)
        assert spec.anchors is not None
        self.register_buffer("anchors", torch.from_numpy(spec.anchors.boxes(spec.size)))
        self.weights = list(spec.box_weights)
        self.threshold, self.iou_threshold = spec.threshold, spec.iou_threshold
        self.top_k, self.max_det, self.nms = spec.top_k, spec.max_det, str(spec.nms)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        answer = self.net(images)
        classes = len(self.labels)
        boxes, scores, labels, counts = torch.ops.visdeploy.detect(
            answer[:, :, :classes],
            answer[:, :, classes:],
            self.anchors,
            self.size,
            self.weights,
            self.threshold,
            self.iou_threshold,
            self.top_k,
            self.max_det,
            self.nms,
        )
        return boxes, scores, labels, counts

    @torch.jit.export
    def predict(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels, valid = self.prepare(image)
        boxes, scores, labels, counts = self.forward(pixels)
        count = int(counts[0])
        found = _to_source(boxes[0, :count], valid, image)
        kept = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
        return found[kept], scores[0, :count][kept], labels[0, :count][kept]


class _Localizer(_Raw):
    @torch.jit.export
    def predict(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels, valid = self.prepare(image)
        answer = _without_nan(self.forward(pixels)).double()
        height, width = self.size[0], self.size[1]
        shares = 1 / (1 + (-answer[:, :4].clamp(-80, 80)).exp())
        boxes = shares * torch.tensor([width, height, width, height], dtype=torch.float64)
        scores, labels = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        if answer.shape[1] > 4:
            scores, labels = _softmax(answer[:, 4:]).max(1)
        return _to_source(boxes, valid, image), scores, labels


class _Classifier(_Raw):
    def __init__(self, net: nn.Module, spec: Manifest) -> None:
        super().__init__(net, spec)
        self.softmax = spec.activation != "none"

    @torch.jit.export
    def predict(self, image: Tensor) -> Tensor:
        pixels, _ = self.prepare(image)
        answer = _without_nan(self.forward(pixels))[0]
        return _softmax(answer) if self.softmax else answer


class _Segmenter(_Raw):
    def __init__(self, net: nn.Module, spec: Manifest) -> None:
        super().__init__(net, spec)
        self.binary = spec.binary
        self.limit = logit_threshold(spec.threshold, spec)
        self.background = -1 if spec.background is None else spec.background

    @torch.jit.export
    def predict(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels, valid = self.prepare(image)
        fed, source = list(pixels.shape[1:3]), list(image.shape[:2])
        logits = self.forward(pixels)
        if valid != fed and list(logits.shape[2:]) != fed:
            # Padding may begin inside a cell of a network that answers at a fraction of its input's size.
            logits = nn.functional.interpolate(logits, fed, mode="bilinear", align_corners=False)
        if valid != fed:
            logits = logits[:, :, : valid[0], : valid[1]]
        if self.binary:
            text, offsets = torch.ops.visdeploy.encode_logits(logits[0], source, self.limit)
            # The bit that says that a number goes on; a mask of one run is empty.
            if int(((text - 48).bitwise_and(32) == 0).sum()) > 1:
                return torch.tensor([0 if self.background == 1 else 1]), text, offsets
            return torch.zeros(0, dtype=torch.int64), text[:0], offsets[:1]
        _, areas, text, offsets = torch.ops.visdeploy.semantic_map(logits[0], source)
        kept = areas > 0
        if self.background >= 0:
            kept[self.background] = False
        lengths = offsets[1:] - offsets[:-1]
        ends = lengths[kept].cumsum(0)
        text = text[kept.repeat_interleave(lengths)]
        return kept.nonzero().squeeze(1), text, torch.cat([torch.zeros(1, dtype=torch.int64), ends])


class _Restorer(_Raw):
    def __init__(self, net: nn.Module, spec: Manifest) -> None:
        super().__init__(net, spec)
        self.enlarge = spec.enlarge
        self.mean, self.std = ([255 * value for value in channels] for channels in (spec.mean, spec.std))

    def prepare(self, image: Tensor) -> tuple[Tensor, list[int]]:
        if image.dim() != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
            raise RuntimeError(f"[predict] image: expected uint8 (H, W, 3), got {list(image.shape)} or another type")
        planes = image.permute(2, 0, 1).unsqueeze(0).float()
        if self.enlarge > 1:
            planes = nn.functional.interpolate(planes, scale_factor=float(self.enlarge), mode="bicubic")
        height, width = planes.shape[2], planes.shape[3]
        padded = nn.functional.pad(planes, [0, -width % self.divisor, 0, -height % self.divisor], mode="replicate")
        return padded.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous(), [height, width]

    @torch.jit.export
    def predict(self, image: Tensor) -> Tensor:
        pixels, valid = self.prepare(image)
        answer = _without_nan(self.forward(pixels))[0, :, : valid[0], : valid[1]]
        std, mean = (torch.tensor(self.std).view(3, 1, 1), torch.tensor(self.mean).view(3, 1, 1))
        samples = (answer * std + mean).round().clamp(0, 255)
        return samples.byte().permute(1, 2, 0).contiguous()


_TASKS: dict[str, type[_Whole]] = {
    "detection": _Detector,
    "localization": _Localizer,
    "classification": _Classifier,
    "segmentation": _Segmenter,
    "restoration": _Restorer,
}
