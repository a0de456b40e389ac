"""What is known of the CUDA kernels without a GPU, written into docs/cuda.md.

Registers, shared memory and spills are the compiler's; launches, memory and copies are counted while the kernels run on
the CPU. The floor is the time that reading the input and writing the output takes at a GPU's memory bandwidth.
"""

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import cuda_arrays
from visdeploy import gpu_check, mask, ops

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "cuda.md"
ARCHITECTURES = (75, 90)
BANDWIDTH = {"H100": 3.35e12, "T4": 0.32e12}


def kernels(nvcc: str) -> Iterator[tuple[str, str, dict[int, tuple[int, int, int]]]]:
    """Yield file, kernel, and for each architecture its registers, bytes of shared memory and bytes spilled."""
    for source in sorted((ROOT / "csrc").glob("*/*.cu")):
        found: dict[str, dict[int, tuple[int, int, int]]] = {}
        for architecture in ARCHITECTURES:
            command = [nvcc, "-std=c++17", f"-arch=sm_{architecture}", "-fmad=false", "-Xptxas=-v", "-cubin"]
            done = subprocess.run(
                [*command, f"-I{ROOT / 'csrc'}", "-o", "/dev/null", source], capture_output=True, text=True, check=True
            )
            for block in done.stderr.split("Compiling entry function ")[1:]:
                name = subprocess.check_output(["c++filt", block.split("'")[1]], text=True).strip()
                if "cub::" in name:
                    continue
                numbers = [re.search(pattern, block) for pattern in (r"(\d+) registers", r"(\d+) bytes smem")]
                spilled = sum(int(text) for text in re.findall(r"(\d+) bytes spill", block))
                registers, shared = (int(number[1]) if number else 0 for number in numbers)
                found.setdefault(short(name), {})[architecture] = registers, shared, spilled
        for name, figures in found.items():
            yield source.name, name, figures


def short(name: str) -> str:
    """Return nms_kernel<float> of a demangled signature."""
    name = re.sub(r"\(anonymous namespace\)::|visdeploy::(cuda::)?", "", name).removeprefix("void ")
    return re.sub(r"\(.*", "", name)


def cases() -> Iterator[tuple[str, Any, tuple[Any, ...], dict[str, Any]]]:
    """Yield what the table has a row for: name, function, arguments, options."""
    rng = np.random.default_rng(0)
    for n in (1000, 10_000, 100_000):
        corner, side = rng.random((n, 2)) * 1000, rng.random((n, 2)) * 100 + 1
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        yield f"nms, {n:,} boxes", ops.nms, (boxes, rng.random(n, np.float32), 0.5), {}
    some = boxes[:20_000], rng.random(20_000, np.float32), rng.integers(0, 80, 20_000), 0.5
    yield "batched_nms, 20,000 boxes, 80 classes", ops.batched_nms, some, {}
    anchors = boxes[:8732] * np.float32(0.3)
    for images in (1, 8):
        logits = rng.normal(0, 1, (images, 8732, 91)).astype(np.float32)
        logits[..., 0] += 9
        offsets = rng.normal(0, 1, (images, 8732, 4)).astype(np.float32)
        yield f"decode_boxes, {images} x 8,732", ops.decode_boxes, (offsets, anchors), {"weights": (10, 10, 5, 5)}
        yield f"detect, {images} x 8,732 x 91", ops.detect, (logits, offsets, anchors), {"image_size": (300, 300)}
    probabilities = rng.dirichlet([1, 1], (1, 5444)).astype(np.float32).transpose(0, 2, 1)
    book = probabilities, offsets[:1, :5444].reshape(1, -1), anchors[:5444] / 300
    yield "multibox_detection, 5,444 anchors", ops.multibox_detection, book, {}
    for n in (1, 16):
        blobs = np.stack([np.kron(gpu_check.waves(54, 96, rng), np.ones((20, 20), np.float32)) for _ in range(n)])
        yield f"encode, {n} x 1080 x 1920", mask.encode, (blobs > 0.5,), {"axis": 0}
        yield f"encode_logits, {n} x 1080 x 1920", mask.encode_logits, (blobs,), {}
    yield "encode_logits, 256 x 256 to 1080 x 1920", mask.encode_logits, (blobs[0, :256, :256], (1080, 1920)), {}
    classes = np.stack([gpu_check.waves(128, 128, rng) for _ in range(21)])
    yield "semantic_map, 21 x 128 x 128 to 512 x 512", ops.semantic_map, (classes, (512, 512)), {}


def figures() -> Iterator[tuple[str, int, int, int]]:
    """Yield case, bytes of input and output, launches, and bytes of memory used beside the input."""
    core, shim = cuda_arrays.core(), cuda_arrays.shim()
    for case, function, arguments, options in cases():
        there = [core.DeviceArray(part) if isinstance(part, np.ndarray) else part for part in arguments]
        before = shim.shim_live_bytes()
        shim.shim_reset()
        answer = function(*there, **options)
        yield case, size(arguments) + size(answer), shim.shim_kernel_launches(), shim.shim_peak_bytes() - before


def size(value: Any) -> int:
    """Return the bytes of arrays and texts, however nested."""
    if isinstance(value, dict):
        return size(value["counts"])
    if isinstance(value, (list, tuple)):
        return sum(map(size, value))
    if hasattr(value, "__dataclass_fields__"):
        return size(list(vars(value).values()))
    if hasattr(value, "numpy"):
        value = value.numpy()
    return len(value) if isinstance(value, bytes) else getattr(value, "nbytes", 0)


def table(head: str, rows: list[str]) -> str:
    """Return a Markdown table of rows that have their bars."""
    return "\n".join([head, re.sub(r"[^|]+", "---", head), *rows])


def write(name: str, text: str) -> None:
    """Put a text between the marks of that name on the page."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = PAGE.read_text()
    PAGE.write_text(page[: page.index(begin) + len(begin)] + f"\n{text}\n" + page[page.index(end) :])


def main() -> None:
    """Fill both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", default="nvcc")
    rows = []
    for file, kernel, by_architecture in kernels(parser.parse_args().nvcc):
        numbers = [" | ".join(map(str, by_architecture[architecture])) for architecture in ARCHITECTURES]
        rows.append(f"| {file} | `{kernel}` | {' | '.join(numbers)} |")
    columns = " | ".join(f"sm_{a} registers | shared | spilled" for a in ARCHITECTURES)
    write("kernels", table(f"| file | kernel | {columns} |", rows))

    with cuda_arrays.in_force(cuda_arrays.core()):
        rows = []
        for case, moved, launches, memory in figures():
            floors = " | ".join(f"{1e6 * moved / bandwidth:,.1f}" for bandwidth in BANDWIDTH.values())
            rows.append(f"| {case} | {moved / 1e6:,.2f} | {floors} | {launches} | {memory / 1e6:,.1f} |")
    floors = " | ".join(f"floor on {gpu}, us" for gpu in BANDWIDTH)
    write("ops", table(f"| case | MB in and out | {floors} | launches | working memory, MB |", rows))


if __name__ == "__main__":
    main()
