"""Anchors as a bundle has them: the arguments of the op that makes them, or the boxes themselves."""

from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_ANCHORS: Final = 1 << 20
"""More than any detector has; a rule of a few bytes could otherwise ask for gigabytes."""

Cells = Annotated[int, Field(ge=1, le=4096)]
FeatureSizes = Annotated[tuple[tuple[Cells, Cells], ...], Field(min_length=1, max_length=32)]
# Within these, every anchor is finite in float32.
Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
PerMap = tuple[Annotated[tuple[Positive, ...], Field(min_length=1, max_length=64)], ...]
PerMapOrNone = tuple[Annotated[tuple[Positive, ...], Field(max_length=64)], ...]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    feature_sizes: FeatureSizes

    def _arguments(self) -> dict[str, Any]:
        return self.model_dump(exclude={"rule"})

    def _per_cell(self) -> list[int]:
        """Return how many anchors a cell of each map has, after a look at the lists' lengths."""
        raise NotImplementedError

    def _expect_lengths(self, **lists: int | None) -> None:
        for name, expected in lists.items():
            given = getattr(self, name)
            if given is not None and len(given) != expected:
                raise ValueError(f"{name}: expected {expected} entries, got {len(given)}")

    @property
    def count(self) -> int:
        """The number of anchors."""
        cells = (height * width for height, width in self.feature_sizes)
        return sum(cells * each for cells, each in zip(cells, self._per_cell(), strict=True))

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        if self.count > MAX_ANCHORS:
            raise ValueError(f"feature_sizes: expected at most {MAX_ANCHORS} anchors in all, got {self.count}")
        return self


class DefaultBoxes(_Rule):
    """SSD's, see `ops.default_boxes`."""

    rule: Literal["default_boxes"] = "default_boxes"
    aspect_ratios: PerMapOrNone
    min_ratio: Positive = 0.15
    max_ratio: Positive = 0.9
    scales: tuple[Positive, ...] | None = None
    steps: tuple[Positive, ...] | None = None
    clip: bool = True

    def _per_cell(self) -> list[int]:
        maps = len(self.feature_sizes)
        self._expect_lengths(aspect_ratios=maps, scales=maps + 1, steps=maps)
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors; see `ListedBoxes.boxes`."""
        from visdeploy import ops

        return ops.default_boxes(size, **self._arguments())


class MultiboxPrior(_Rule):
    """Those of "Dive into Deep Learning", see `ops.multibox_prior`: sizes and ratios of each feature map."""

    rule: Literal["multibox_prior"] = "multibox_prior"
    sizes: PerMap
    ratios: PerMap

    def _per_cell(self) -> list[int]:
        maps = len(self.feature_sizes)
        self._expect_lengths(sizes=maps, ratios=maps)
        return [len(sizes) + len(ratios) - 1 for sizes, ratios in zip(self.sizes, self.ratios, strict=True)]

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors; see `ListedBoxes.boxes`."""
        from visdeploy import ops

        maps = zip(self.feature_sizes, self.sizes, self.ratios, strict=True)
        shares = np.concatenate([ops.multibox_prior(*entry)[0] for entry in maps])
        return shares * np.array([size[1], size[0]] * 2, np.float32)


class GridAnchors(_Rule):
    """Those of Faster R-CNN and RetinaNet, see `ops.grid_anchors`."""

    rule: Literal["grid_anchors"] = "grid_anchors"
    strides: FeatureSizes
    sizes: PerMap
    aspect_ratios: PerMap

    def _per_cell(self) -> list[int]:
        maps = len(self.feature_sizes)
        self._expect_lengths(strides=maps, sizes=maps, aspect_ratios=maps)
        return [len(sizes) * len(ratios) for sizes, ratios in zip(self.sizes, self.aspect_ratios, strict=True)]

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors; see `ListedBoxes.boxes`."""
        from visdeploy import ops

        return ops.grid_anchors(**self._arguments())


class ListedBoxes(BaseModel):
    """Anchors of any other origin, x1, y1, x2, y2 in pixels at network size."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rule: Literal["boxes"] = "boxes"
    corners: Annotated[
        tuple[tuple[Coordinate, Coordinate, Coordinate, Coordinate], ...], Field(min_length=1, max_length=MAX_ANCHORS)
    ]

    @property
    def count(self) -> int:
        """The number of anchors."""
        return len(self.corners)

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors, (N, 4) float32 x1, y1, x2, y2 in pixels of an image of `size` (height, width)."""
        return np.array(self.corners, np.float32)


Anchors = Annotated[DefaultBoxes | MultiboxPrior | GridAnchors | ListedBoxes, Field(discriminator="rule")]
