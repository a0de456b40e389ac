"""What a caller asks of a model beside its answer, checked against the model's task."""

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeGuard

from visdeploy.errors import InputError
from visdeploy.spec import UNUSED, Manifest, Spec


@dataclass(frozen=True)
class Asked:
    """Arguments of a call or a stream; None leaves each to the spec.

    Attributes:
        threshold: Probability above which a binary pixel is foreground.
        conf: Score above which a box is returned, from 0 to 1; a detector's, as the next three.
        iou: Largest IoU of two boxes of one class, from 0 to 1.
        max_det: The most boxes of one image, best first.
        classes: Names or indices of the classes to look for, or a single one; the boxes of others do not count in
            `max_det`.
        min_area: Connected parts of masks with fewer pixels of the source image become background; a segmenter's.
        fill_holes: Whether background that one class encloses becomes that class; a segmenter's.
    """

    threshold: float | None = None
    conf: float | None = None
    iou: float | None = None
    max_det: int | None = None
    classes: str | int | Sequence[str | int] | None = None
    min_area: int | None = None
    fill_holes: bool | None = None

    def check(self, spec: Spec) -> None:
        """Refuse what does not go with the model.

        Raises:
            InputError: An argument of another task, or a value out of range.
        """
        if self.threshold is not None and not spec.binary:
            instead = {"segmentation": "this one takes the best class per pixel", "detection": "a detector has conf"}
            raise InputError(
                "[predict] threshold: only a binary model has one; "
                + instead.get(spec.task, f"this one's task is {spec.task}")
            )
        if self.threshold is not None:
            logit_threshold(self.threshold, spec)
        for name in ("conf", "iou", "max_det", "classes"):
            if getattr(self, name) is not None and spec.task != "detection":
                raise InputError(f"[predict] {name}: only a detector has it; this model's task is {spec.task}")
        for name, share in (("conf", self.conf), ("iou", self.iou)):
            if share is not None and (not isinstance(share, Real) or isinstance(share, bool) or not 0 <= share <= 1):
                raise InputError(f"[predict] {name}: expected a number from 0 to 1, got {share!r}")
        if self.max_det is not None and (not _is_whole(self.max_det) or self.max_det < 1):
            raise InputError(f"[predict] max_det: expected a whole number of at least 1, got {self.max_det!r}")
        self._check_clean_up(spec)
        self.indices(spec)

    def cleaning(self, spec: Manifest) -> Manifest:
        """Return the spec with the clean-up of masks that is asked for."""
        given = {"min_area": self.min_area, "fill_holes": self.fill_holes}
        changed = {name: value for name, value in given.items() if value is not None}
        return spec.model_copy(update=changed) if changed else spec

    def _check_clean_up(self, spec: Spec) -> None:
        for name in ("min_area", "fill_holes"):
            if getattr(self, name) is None:
                continue
            if spec.task != "segmentation":
                raise InputError(f"[predict] {name}: only a segmenter has it; this model's task is {spec.task}")
            if not spec.has_background and getattr(self, name):
                raise InputError(f"[predict] {name}: this model has no background, which removed parts could become")
        if self.min_area is not None and (not _is_whole(self.min_area) or self.min_area < 0):
            raise InputError(f"[predict] min_area: expected a whole number of pixels, got {self.min_area!r}")
        if self.fill_holes is not None and not isinstance(self.fill_holes, bool):
            raise InputError(f"[predict] fill_holes: expected True or False, got {self.fill_holes!r}")

    def indices(self, spec: Spec) -> frozenset[int] | None:
        """Return the classes to look for, or None for all.

        Raises:
            InputError: The model has no such class.
        """
        if self.classes is None:
            return None
        if isinstance(self.classes, str) or _is_whole(self.classes):
            return frozenset([_index(self.classes, spec)])
        if not isinstance(self.classes, Collection) or isinstance(self.classes, bytes) or not len(self.classes):
            raise InputError(f"[predict] classes: expected a list of names or indices, got {self.classes!r}")
        return frozenset(_index(entry, spec) for entry in self.classes)


def logit_threshold(probability: float, spec: Spec) -> float:
    """Return the output value that stands for a probability.

    Raises:
        InputError: The probability is not strictly between 0 and 1.
    """
    if not isinstance(probability, Real) or not 0 < probability < 1:
        raise InputError(f"[predict] threshold: expected a probability between 0 and 1, got {probability!r}")
    return math.log(probability / (1 - probability)) if spec.activation == "sigmoid" else probability


def _index(entry: str | int, spec: Spec) -> int:
    known = {label: i for i, label in enumerate(spec.labels) if i != spec.background and label != UNUSED}
    if isinstance(entry, str) and entry in known:
        return known[entry]
    if _is_whole(entry) and int(entry) in known.values():
        return int(entry)
    close = difflib.get_close_matches(str(entry), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(list(known)[:20])}"
    raise InputError(f"[predict] classes: the model knows no class {entry!r}; {hint}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)
