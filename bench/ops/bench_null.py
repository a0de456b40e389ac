"""What does a call into the native module cost? The template of a bench."""

import numpy as np

from timing import Row, compare, main
from visdeploy import ops, reference


def cases() -> list[Row]:
    rows = []
    for n in (1, 1000, 1_000_000):
        x = np.arange(n, dtype=np.float32)
        rows += compare(
            f"null ({n},) float32", {"visdeploy": lambda x=x: ops.null(x), "numpy": lambda x=x: reference.null(x)}
        )
    return rows


if __name__ == "__main__":
    main(cases, ["visdeploy", "numpy"])
