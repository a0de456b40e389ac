"""How good a bundle is on labelled images, at the size of the images themselves."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from visdeploy.errors import InputError
from visdeploy.metrics import Confusion
from visdeploy.predictor import Predictor

if TYPE_CHECKING:
    from visdeploy.data import Item


def evaluate(
    predictor: Predictor, items: Sequence["Item"], *, progress: Callable[[int], None] | None = None
) -> dict[str, float]:
    """Predict every item and compare with its mask, pixel by pixel, over the whole set.

    Args:
        predictor: An opened segmenter.
        items: Labelled images, such as a dataset's `val`.
        progress: Called with the number of images done.

    Returns:
        What `metrics.Confusion.metrics` says.

    Raises:
        InputError: There are no items, or an image or mask cannot be used.
    """
    if not items:
        raise InputError("[val] data: there are no labelled images to compare with")
    spec = predictor.spec
    confusion = Confusion(len(spec.labels))
    for done, item in enumerate(items, 1):
        sample = item.load()
        masks = predictor(sample.image).masks
        assert masks is not None
        assert sample.mask is not None
        confusion.add(sample.mask, masks.to_numpy())
        if progress is not None:
            progress(done)
    return confusion.metrics(spec.labels, spec.background)
