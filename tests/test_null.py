import numpy as np
import pytest

from visdeploy import ops, reference
from visdeploy.errors import InputError

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_null_equals_reference(n: int, step: int) -> None:
    x = np.arange(2 * n, dtype=np.float32)[::step]
    x.flags.writeable = False
    np.testing.assert_array_equal(ops.null(x), reference.null(x))


def test_null_does_not_share_memory() -> None:
    x = np.ones(3, np.float32)
    assert not np.shares_memory(x, ops.null(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(3), r"^\[null\] x: expected float32, got float64$"),
        (np.zeros((3, 1), np.float32), r"^\[null\] x: expected 1-D, got 2-D$"),
    ],
)
def test_null_refuses(x: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.null(x)


def test_null_refuses_other_kinds() -> None:
    with pytest.raises(TypeError, match=r"^\[null\] x: expected a NumPy array or .*, got list$"):
        ops.null([1.0])
