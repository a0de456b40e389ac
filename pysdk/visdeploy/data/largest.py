"""One object per image: the largest, as a task with one answer needs it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from visdeploy.data.dataset import Dataset, Item, Objects


def largest_object(objects: Objects) -> int | None:
    """Return the index of the object of the largest area, the first of equals; None where there is none.

    Ignored objects do not count.
    """
    if not (~objects.ignored).any():
        return None
    width, height = (objects.xyxy[:, 2:] - objects.xyxy[:, :2]).astype(np.float64).T
    return int(np.argmax(np.where(objects.ignored, -1.0, width * height)))


def largest_objects(dataset: Dataset) -> Dataset:
    """Keep the largest object of each image, for a task with one answer per image.

    Images without an object are left out, and a note counts them. There is no background any more: `labels` has the
    classes alone, and `Item.label` and the one row of `Sample.objects` count them from 0. What is reduced already is
    returned as it is.
    """
    if all(item.label is not None for item in (*dataset.train, *dataset.val)):
        return dataset
    train, val = (_reduce(items) for items in (dataset.train, dataset.val))
    left_out = len(dataset.train) + len(dataset.val) - len(train) - len(val)
    notes = (f"{left_out} images without an object are left out",) if left_out else ()
    return replace(
        dataset,
        labels=dataset.labels[1:],
        palette=dataset.palette[1:],
        train=train,
        val=val,
        background=None,
        notes=(*dataset.notes, *notes),
    )


def _reduce(items: Sequence[Item]) -> list[Item]:
    reduced = []
    for item in items:
        objects = item.load_objects() if item.load_objects else None
        index = None if objects is None else largest_object(objects)
        if objects is None or index is None:
            continue
        label = int(objects.labels[index]) - 1
        reduced.append(
            replace(item, load_objects=partial(_single, tuple(objects.xyxy[index].tolist()), label), label=label)
        )
    return reduced


def _single(corners: tuple[float, ...], label: int) -> Objects:
    return Objects(np.array([corners], np.float32), np.array([label], np.int64), np.zeros(1, bool))
