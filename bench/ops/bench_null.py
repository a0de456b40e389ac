"""What does a call into the native module cost? The template of a bench."""

from functools import partial

import numpy as np

from timing import Row, compare, main, place
from visdeploy import ops, reference


def cases() -> list[Row]:
    rows = []
    for n in (1, 1000, 1_000_000):
        x = np.arange(n, dtype=np.float32)
        contenders = {"visdeploy": partial(ops.null, place(x)), "numpy": partial(reference.null, x)}
        rows += compare(f"null ({n},) float32", contenders)
    return rows


if __name__ == "__main__":
    main(cases, ["visdeploy", "numpy"])
