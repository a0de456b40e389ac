"""torch.ops.visdeploy: each op answers exactly as its function in Python, alone and inside of graphs."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from visdeploy import mask, ops, torch_library, torch_ops
from visdeploy.engines.torchscript import accepting_deprecation
from visdeploy.errors import InputError

native = torch.ops.visdeploy
Case = tuple[Callable, tuple, Callable]


def boxes_of(rng, n, dtype=np.float32):
    """Boxes that overlap, some without area, with NaN, or equal to others, and scores with ties."""
    corners = rng.uniform(0, 60, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(-2, 30, (n, 2))], 1).astype(dtype)
    boxes[rng.random(n) < 0.1] = boxes[:1]
    boxes[rng.random(n) < 0.05, 1] = np.nan
    return boxes, (rng.integers(0, 40, n) / 40).astype(dtype)


def heads(rng, images=2, n=50, classes=4):
    logits = rng.normal(0, 2, (images, n, classes)).astype(np.float32)
    logits[:, 3] = np.nan
    offsets = rng.normal(0, 1, (images, n, 4)).astype(np.float32)
    anchors = np.nan_to_num(boxes_of(rng, n)[0])
    return logits, offsets, anchors


def strided(array):
    """The same values in memory that is not contiguous."""
    tensor = torch.from_numpy(array.copy())
    wide = torch.empty(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def joined(rles):
    counts = [rle["counts"] for rle in rles]
    return np.frombuffer(b"".join(counts), np.uint8), np.cumsum([0] + [len(text) for text in counts])


def padded(detections, max_det):
    boxes = np.zeros((len(detections), max_det, 4), np.float32)
    scores, labels = boxes[..., 0].copy(), boxes[..., 0].astype(np.int64)
    counts = np.array([len(found.scores) for found in detections], np.int64)
    for i, found in enumerate(detections):
        boxes[i, : counts[i]], scores[i, : counts[i]], labels[i, : counts[i]] = found.boxes, found.scores, found.labels
    return boxes, scores, labels, counts


def case(name: str, seed: int) -> tuple[tuple, dict, tuple]:
    """Arguments of an op as arrays, its options, and the answer of the function in Python."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 90))
    if name == "nms":
        boxes, scores = boxes_of(rng, n, np.float64 if seed % 2 else np.float32)
        return (boxes, scores, 0.4), {}, (ops.nms(boxes, scores, 0.4),)
    if name == "batched_nms":
        (boxes, scores), labels = boxes_of(rng, n), rng.integers(0, 3, n)
        mode = ("exact", "torchvision")[seed % 2]
        return (boxes, scores, labels, 0.4), {"mode": mode}, (ops.batched_nms(boxes, scores, labels, 0.4, mode=mode),)
    if name == "decode_boxes":
        _, offsets, anchors = heads(rng, n=n + 1)
        options = {"weights": [10.0, 10, 5, 5], "clip": [40.0, 50]} if seed % 2 else {"variances": [0.1, 0.2]}
        return (offsets, anchors), options, (ops.decode_boxes(offsets, anchors, **options),)
    if name == "detect":
        logits, offsets, anchors = heads(rng, n=n + 4)
        options = {"image_size": [48, 64], "max_det": 7, "mode": ("exact", "torchvision")[seed % 2]}
        return (logits, offsets, anchors), options, padded(ops.detect(logits, offsets, anchors, **options), 7)
    if name == "multibox_detection":
        logits, offsets, anchors = heads(rng, n=n + 4)
        probs, offsets = np.exp(logits).transpose(0, 2, 1).copy(), offsets.reshape(2, -1)
        return (probs, offsets, anchors), {}, (ops.multibox_detection(probs, offsets, anchors),)
    logits = rng.normal(size=(3, 9, 14)).astype(np.float32)
    if name == "encode_logits":
        options = {"size": [31, 17], "threshold": 0.3} if seed % 2 else {}
        return (logits,), options, joined(mask.encode_logits(logits, **options))
    if name == "semantic_map":
        classes, areas, rles = ops.semantic_map(logits, (31, 17))
        return (logits, [31, 17]), {}, (classes, areas, *joined(rles))
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    options = {"interpolation": ("area", "bilinear", "nearest")[seed % 3], "pad_value": 114}
    return (image, [20, 25], [32, 32]), options, (ops.letterbox(image, (20, 25), (32, 32), **options),)


NAMES = (
    *("nms", "batched_nms", "decode_boxes", "detect", "multibox_detection", "encode_logits", "semantic_map"),
    "letterbox",
)


def tensors(arguments, wrap=torch.from_numpy):
    return tuple(wrap(value) if isinstance(value, np.ndarray) else value for value in arguments)


def assert_answers(answer, expected):
    answer = answer if isinstance(answer, tuple) else (answer,)
    assert len(answer) == len(expected)
    for got, wanted in zip(answer, expected, strict=True):
        assert got.numpy().dtype == wanted.dtype
        np.testing.assert_array_equal(got.numpy(), wanted)


@pytest.mark.parametrize("wrap", [torch.from_numpy, strided], ids=["contiguous", "strided"])
@pytest.mark.parametrize("name", NAMES)
def test_ops_answer_as_in_python(name, wrap):
    for seed in range(12):
        arguments, options, expected = case(name, seed)
        assert_answers(getattr(native, name)(*tensors(arguments, wrap), **options), expected)


@pytest.mark.parametrize("name", NAMES)
def test_ops_pass_the_checks_of_torch(name):
    for seed in (2, 3):
        arguments, options, _ = case(name, seed)
        # They compare answers as if a NaN were not itself.
        finite = [np.nan_to_num(value) if isinstance(value, np.ndarray) else value for value in arguments]
        torch.library.opcheck(getattr(native, name).default, tensors(finite), options)


@pytest.fixture
def detector():
    """A module that detects, its arguments, and what it answers."""

    class Detector(torch.nn.Module):
        def __init__(self, anchors):
            super().__init__()
            self.register_buffer("anchors", anchors)

        def forward(self, logits, offsets):
            boxes, scores, labels, counts = torch.ops.visdeploy.detect(
                logits * 1.0, offsets, self.anchors, [48, 64], max_det=7
            )
            kept = torch.ops.visdeploy.nms(boxes[0], scores[0], 0.3)
            return boxes, scores, labels, counts, boxes[0][kept]

    arrays = heads(np.random.default_rng(5))
    logits, offsets, anchors = (torch.from_numpy(array) for array in arrays)
    first = padded(ops.detect(*arrays, image_size=(48, 64), max_det=7), 7)
    assert first[3].min() > 3
    return Detector(anchors).eval(), (logits, offsets), (*first, first[0][0][ops.nms(first[0][0], first[1][0], 0.3)])


@pytest.mark.parametrize("how", ["script", "trace", "freeze"])
def test_scripts_contain_them_and_are_saved_with_them(detector, how):
    module, arguments, expected = detector
    with accepting_deprecation():
        made = torch.jit.trace(module, arguments) if how == "trace" else torch.jit.script(module)
        made = torch.jit.freeze(made) if how == "freeze" else made
        file = io.BytesIO()
        torch.jit.save(made, file)
        file.seek(0)
        loaded = torch.jit.load(file)
    assert "visdeploy::detect" in str(loaded.graph)
    assert_answers(loaded(*arguments), expected)


def test_exported_programs_contain_them(detector):
    module, arguments, expected = detector
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, arguments, dynamic_shapes=({0: batch}, {0: batch}))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert_answers(loaded(*arguments), expected)
    assert loaded(*(torch.cat([argument] * 2) for argument in arguments))[0].shape == (4, 7, 4)


def test_compiled_modules_contain_them(detector):
    module, arguments, expected = detector
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_answers(compiled(*arguments), expected)


def test_empty_tensors_have_empty_answers():
    none = torch.zeros(0, 4), torch.zeros(0)
    assert native.nms(*none, 0.5).shape == (0,)
    assert native.batched_nms(*none, torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)
    assert native.decode_boxes(*none[:1], none[0], weights=[1.0] * 4).shape == (0, 4)
    boxes, _, _, counts = native.detect(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4), none[0], [9, 9], max_det=5)
    assert boxes.shape == (2, 5, 4)
    assert counts.tolist() == [0, 0]
    assert native.multibox_detection(torch.zeros(1, 3, 0), torch.zeros(1, 0), none[0]).shape == (1, 0, 6)
    text, offsets = native.encode_logits(torch.zeros(0, 4, 5))
    assert (text.shape, offsets.tolist()) == ((0,), [0])


zeros = torch.zeros
HEADS = zeros(2, 3, 2), zeros(2, 3, 4), zeros(3, 4)
SIZE = {"image_size": [9, 9]}
PHOTO = zeros(4, 4, 3, dtype=torch.uint8)
REFUSED = [
    (native.nms, (zeros(3), zeros(3), 0.5), (ops.nms, {})),
    (native.nms, (zeros(3, 4), zeros(3, dtype=torch.float64), 0.5), (ops.nms, {})),
    (native.nms, (zeros(3, 4), zeros(3), float("nan")), (ops.nms, {})),
    (native.batched_nms, (zeros(3, 4), zeros(3), zeros(3), 0.5), (ops.batched_nms, {})),
    (native.decode_boxes, (zeros(3, 4), zeros(3, 4)), (ops.decode_boxes, {})),
    (native.decode_boxes, (zeros(3, 5), zeros(3, 4)), (ops.decode_boxes, {"weights": [1.0] * 4})),
    (native.detect, (zeros(2, 3, 2), zeros(2, 4, 4), zeros(3, 4)), (ops.detect, {**SIZE})),
    (native.detect, (zeros(2, 3, 2).half(), zeros(2, 3, 4), zeros(3, 4)), (ops.detect, {**SIZE})),
    (native.detect, HEADS, (ops.detect, {**SIZE, "max_det": -1})),
    (native.detect, HEADS, (ops.detect, {"image_size": [9], "mode": "exact"})),
    (native.multibox_detection, (zeros(2, 3), zeros(2, 3), zeros(3, 4)), (ops.multibox_detection, {})),
    (native.encode_logits, (zeros(2),), (mask.encode_logits, {})),
    (native.encode_logits, (zeros(0, 3),), (mask.encode_logits, {})),
    (native.semantic_map, (zeros(300, 2, 2), [4, 4]), (ops.semantic_map, {})),
    (native.letterbox, (zeros(4, 4, 3), [2, 2], [2, 2]), (ops.letterbox, {})),
    (native.letterbox, (PHOTO, [9, 9], [9, 9]), (ops.letterbox, {"interpolation": "area"})),
    (native.letterbox, (PHOTO, [2, 2], [2, 2]), (ops.letterbox, {"interpolation": "cubic"})),
]


@pytest.mark.parametrize("refused", REFUSED)
def test_what_is_refused_has_the_sentence_it_has_in_python(refused):
    op, arguments, (function, options) = refused
    arrays = [value.numpy() if isinstance(value, torch.Tensor) else value for value in arguments]
    with pytest.raises(InputError) as expected:
        function(*arrays, **options)
    with pytest.raises(RuntimeError) as raised:
        op(*arguments, **options)
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        (torch.zeros(3, 4, device="meta"), None),
        (torch.zeros(3, 4).to_sparse(), "[nms] boxes: expected a dense tensor; make it one with .to_dense()"),
        (torch.zeros(3, 4, dtype=torch.complex64), "[nms] boxes: expected float32 or float64, got another dtype"),
    ],
)
def test_other_kinds_of_tensors_are_refused(boxes, sentence):
    if sentence is None:
        with pytest.raises(Exception, match=r"[Mm]eta|fake"):
            native.nms(boxes, torch.zeros(3, device="meta"), 0.5)
        return
    with pytest.raises(RuntimeError) as raised:
        native.nms(boxes, torch.zeros(3), 0.5)
    assert str(raised.value) == sentence


def test_memory_that_was_freed_is_refused():
    boxes = torch.zeros(3, 4)
    boxes.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"^\[nms\] boxes: expected a tensor whose memory was not freed$"):
        native.nms(boxes, torch.zeros(3), 0.5)


def test_room_for_an_answer_is_bounded():
    arguments = torch.zeros(2, 3, 2), torch.zeros(2, 3, 4), torch.zeros(3, 4), [9, 9]
    with pytest.raises(RuntimeError, match=r"^\[detect\] expected an answer that fits into memory, got shape \(2, "):
        native.detect(*arguments, max_det=1 << 60)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_library_is_loaded_on_import_alone():
    code = "import sys, visdeploy, visdeploy.ops; assert 'torch' not in sys.modules"
    assert run(code).returncode == 0


def test_a_torch_that_is_missing_is_said():
    code = (
        "import sys; sys.modules['torch'] = None\nfrom visdeploy.errors import MissingDependencyError\n"
        "try:\n import visdeploy.torch_ops\nexcept MissingDependencyError as error:\n print(error)"
    )
    assert "visdeploy.torch_ops needs torch (" in run(code).stdout


def test_a_build_without_torch_is_said():
    with pytest.raises(
        ImportError, match=r"^this visdeploy was built without torch and has no libother\.so: install a"
    ):
        torch_library.built_with_torch("libother.so")


def test_an_old_torch_and_a_damaged_library_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"needs torch 2\.11 or newer, got 2\.9\.1\+cpu: pip install --upgrade torch"):
        torch_ops._load(torch_ops.LIBRARY)
    monkeypatch.undo()
    damaged = tmp_path / "visdeploy_torch.so"
    damaged.write_bytes(b"\x7fELF")
    with pytest.raises(ImportError, match=r"does not load .*install another version of torch"):
        torch_ops._load(damaged)


def test_the_library_knows_no_python():
    names = subprocess.run(["nm", "-D", "--undefined-only", torch_ops.LIBRARY], capture_output=True, text=True).stdout
    assert "torch_call_dispatcher" in names or "aoti_torch_" in names
    assert not [name for name in names.split() if name.lstrip("_").startswith("Py")]
    defined = subprocess.run(["nm", "-DC", "--defined-only", torch_ops.LIBRARY], capture_output=True, text=True).stdout
    assert "visdeploy::" not in defined
