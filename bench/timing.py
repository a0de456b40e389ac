"""Interleaved timing of rivals that agree, and the JSON that README tables are made from."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BUDGET_S = 1.0
# Where place() puts what ours, and those rivals that can, are called with: "cpu", or "cuda" by --device.
device = "cpu"
# What is faster is called so often in a row that it takes this long: a single call would time the clock and the caches.
LEAST_S = 2e-4


@dataclass(frozen=True)
class Row:
    """One contender of one case. `ratio` is how many times faster the first one, ours, was in the same round."""

    case: str
    contender: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    n: int
    ratio: float
    ratio_p10: float
    ratio_p90: float


def equal(a: Any, b: Any) -> bool:
    """Compare results that may hold arrays."""
    a, b = (x.cpu().numpy() if hasattr(x, "cpu") else x for x in (a, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


def place(array: Any) -> Any:
    """Return a NumPy array or tensor as it is on a CPU, and else as a tensor on the device."""
    if device == "cpu":
        return array
    import torch

    return torch.as_tensor(array).to(device)


def seconds(call: Callable[[], Any], calls: int) -> float:
    """Time one call, as the mean of several in a row, to the end of what it left on the device."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def compare(
    case: str, contenders: dict[str, Callable[[], Any]], same: Callable[[Any, Any], bool] = equal, n: int | None = None
) -> list[Row]:
    """Check that all contenders answer alike, then time them in turns.

    Args:
        case: What is measured: op, shape, dtype.
        contenders: Name to call.
        same: Decides whether two answers agree.
        n: Rounds; None fits about `BUDGET_S` per contender, at least 5.
    """
    answers = {name: call() for name, call in contenders.items()}
    first, *others = answers
    for name in others:
        if not same(answers[first], answers[name]):
            raise SystemExit(f"{case}: {first} and {name} disagree, so their times say nothing")
    alone = {name: seconds(call, 1) for name, call in contenders.items()}
    calls = {name: max(1, int(LEAST_S / alone[name])) for name in contenders}
    if n is None:
        n = int(np.clip(BUDGET_S * len(contenders) / sum(alone[name] * calls[name] for name in contenders), 5, 300))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    shuffled = np.random.default_rng(0)
    for _ in range(n):
        # In any order: what the one before leaves in caches and in the allocator is worth something.
        for name in shuffled.permutation(list(contenders)):
            times[name].append(1e3 * seconds(contenders[name], calls[name]))
    rows = []
    for name, values in times.items():
        p10, median, p90 = np.percentile(values, [10, 50, 90]).tolist()
        ratios = np.divide(values, times[first])
        low, ratio, high = np.percentile(ratios, [10, 50, 90]).tolist()
        rows.append(Row(case, name, median, p10, p90, n, ratio, low, high))
        print(f"{case:40} {name:28} {median:9.3f} ms  x{ratio:.2f} [{low:.2f}, {high:.2f}]  n={n}", flush=True)
    return rows


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Describe what the times were taken on."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip()

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": models[0] if models else platform.processor(),
        "threads": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", ":/bench/*.py", ":/csrc", ":/pysdk", ":/CMakeLists.txt")),
    }


def main(cases: Callable[[], list[Row]], packages: Sequence[str]) -> None:
    """Run a bench script: `--json PATH` keeps the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    global device
    device = arguments.device
    rows = cases()
    if arguments.json:
        document = {**machine(packages), "device": device, "rows": [asdict(row) for row in rows]}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
