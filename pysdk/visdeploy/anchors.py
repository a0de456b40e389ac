"""Anchors as a bundle has them: the arguments of the op that makes them, or the boxes themselves."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Cells = Annotated[int, Field(ge=1, le=4096)]
FeatureSizes = Annotated[tuple[tuple[Cells, Cells], ...], Field(min_length=1, max_length=32)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
PerMap = tuple[Annotated[tuple[Positive, ...], Field(max_length=64)], ...]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def _arguments(self) -> dict[str, Any]:
        return self.model_dump(exclude={"rule"})


class DefaultBoxes(_Rule):
    """SSD's, see `ops.default_boxes`."""

    rule: Literal["default_boxes"] = "default_boxes"
    feature_sizes: FeatureSizes
    aspect_ratios: PerMap
    min_ratio: Positive = 0.15
    max_ratio: Positive = 0.9
    scales: tuple[Positive, ...] | None = None
    steps: tuple[Positive, ...] | None = None
    clip: bool = True

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors; see `ListedBoxes.boxes`."""
        from visdeploy import ops

        return ops.default_boxes(size, **self._arguments())


class MultiboxPrior(_Rule):
    """Those of "Dive into Deep Learning", see `ops.multibox_prior`: sizes and ratios of each feature map."""

    rule: Literal["multibox_prior"] = "multibox_prior"
    feature_sizes: FeatureSizes
    sizes: PerMap
    ratios: PerMap

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors; see `ListedBoxes.boxes`."""
        from visdeploy import ops

        maps = zip(self.feature_sizes, self.sizes, self.ratios, strict=True)
        shares = np.concatenate([ops.multibox_prior(*entry)[0] for entry in maps])
        return shares * np.array([size[1], size[0]] * 2, np.float32)


class GridAnchors(_Rule):
    """Those of Faster R-CNN and RetinaNet, see `ops.grid_anchors`."""

    rule: Literal["grid_anchors"] = "grid_anchors"
    feature_sizes: FeatureSizes
    strides: FeatureSizes
    sizes: PerMap
    aspect_ratios: PerMap

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors; see `ListedBoxes.boxes`."""
        from visdeploy import ops

        return ops.grid_anchors(**self._arguments())


class ListedBoxes(_Rule):
    """Anchors of any other origin, x1, y1, x2, y2 in pixels at network size."""

    rule: Literal["boxes"] = "boxes"
    corners: Annotated[
        tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat], ...], Field(min_length=1, max_length=1 << 20)
    ]

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the anchors, (N, 4) float32 x1, y1, x2, y2 in pixels of an image of `size` (height, width).

        Raises:
            InputError: The lists of a rule do not fit each other.
        """
        return np.array(self.corners, np.float32)


Anchors = Annotated[DefaultBoxes | MultiboxPrior | GridAnchors | ListedBoxes, Field(discriminator="rule")]
