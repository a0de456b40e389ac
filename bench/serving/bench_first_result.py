"""From the start of a process to its first answer: with the cache of engines warm, and with none."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import model
from timing import Row, compare, main

ROUNDS = 5
ONE_ANSWER = """
import sys, visdeploy
with visdeploy.load(sys.argv[1], engine="openvino", precision=sys.argv[2]) as model:
    print(model.engine.precision, model(sys.argv[3]).masks.rle)
"""


def answer(precision: str, cache: Path) -> str:
    command = [sys.executable, "-c", ONE_ANSWER, str(model.BUNDLE), precision, str(model.photographs()[0])]
    environment = {**os.environ, "VISDEPLOY_CACHE": str(cache)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def contenders(precision: str, warm: Path) -> dict[str, Callable[[], str]]:
    def cold() -> str:
        with TemporaryDirectory() as cache:
            return answer(precision, Path(cache))

    return {"visdeploy, warm cache": lambda: answer(precision, warm), "no cache": cold}


def cases() -> list[Row]:
    model.prepare()
    rows: list[Row] = []
    with TemporaryDirectory() as warm:
        for precision in ("auto", "fp32", "int8"):
            answer(precision, Path(warm))
            rows += compare(f"first result of a process, {precision}", contenders(precision, Path(warm)), n=ROUNDS)
    return rows


if __name__ == "__main__":
    main(cases, ["visdeploy", "openvino"])
