"""Random views of a training pair: image and mask, or image and boxes, move together."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from visdeploy.data.dataset import IGNORE_INDEX

_TRIES = 10
_LUMA = np.array([0.299, 0.587, 0.114])

Matrix = NDArray[np.float64]


class Augment:
    """Mirror, rotate, zoom, shift and relight with torchvision's transforms; draws from torch's global generator.

    Pixels that a rotation or zoom brings in from outside are black and carry no label.

    Args:
        flip: Mirror left to right, half of the time.
        rotate: Largest rotation, in degrees.
        scale: Smallest and largest zoom.
        shift: Largest shift, as a share of each side.
        lighting: Largest relative change of brightness, contrast and saturation.
    """

    def __init__(
        self,
        *,
        flip: bool = True,
        rotate: float = 5.0,
        scale: tuple[float, float] = (0.8, 1.4),
        shift: float = 0.1,
        lighting: float = 0.2,
    ) -> None:
        steps: list[Any] = [v2.RandomHorizontalFlip()] if flip else []
        if rotate or shift or scale != (1.0, 1.0):
            outside: dict[Any, int] = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE_INDEX}
            steps.append(
                v2.RandomAffine(
                    rotate,
                    translate=(shift, shift),
                    scale=scale,
                    interpolation=v2.InterpolationMode.BILINEAR,
                    fill=outside,
                )
            )
        if lighting:
            steps.append(v2.ColorJitter(brightness=lighting, contrast=lighting, saturation=lighting))
        self._transform = v2.Compose(steps) if steps else v2.Identity()

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a new view.

        Args:
            image: (3, H, W) uint8.
            mask: (H, W) uint8 class index.

        Returns:
            Both in the same shapes and dtypes, as plain tensors.
        """
        image, mask = self._transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


@dataclass(frozen=True)
class Mirror:
    """Mirror, and change no sample; draws from torch's global generator.

    Attributes:
        flip: Left to right, half of the time.
        upside_down: Top to bottom, half of the time.
    """

    flip: bool = True
    upside_down: bool = False

    def __call__(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        """Return all (..., H, W) tensors mirrored alike."""
        chosen = torch.rand(2) < 0.5
        axes = [axis for axis, wanted in ((-1, self.flip), (-2, self.upside_down)) if wanted and chosen[axis]]
        return tuple(picture.flip(axes) for picture in pictures)


@dataclass(frozen=True)
class AugmentBoxes:
    """Crop or zoom out, mirror, turn and relight; draws from torch's global generator.

    A view is a window of the image: of a part of it where the zoom is above 1, with the image somewhere inside it, on
    its mean colour, where the zoom is below 1. A view in which no object is left is drawn anew, ten times at most; then
    the whole image is the view. An object of which less than `min_visible` of its area is seen loses its box; the boxes
    of others are clipped to the view.

    Attributes:
        flip: Mirror left to right, half of the time.
        upside_down: Mirror top to bottom, half of the time; for images without an up, as a microscope's.
        rotate: Largest rotation in degrees. A box then becomes the frame of the turned ellipse that it holds, which
            fits what is round and cuts the corners of the rest: 5 degrees cost a square 8% of its width.
        scale: Smallest and largest zoom.
        aspect: Largest ratio by which the zooms of both sides may differ.
        lighting: Largest relative change of brightness, contrast and saturation.
        min_visible: Share of an object's box that has to be seen.
    """

    flip: bool = True
    upside_down: bool = False
    rotate: float = 0.0
    scale: tuple[float, float] = (0.6, 1.6)
    aspect: float = 1.2
    lighting: float = 0.2
    min_visible: float = 0.4

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a new view.

        Args:
            image: (3, H, W) uint8.
            boxes: (N, 4) float32 x1, y1, x2, y2 in pixels.
            labels: (N,) anything that belongs to the boxes.

        Returns:
            The view in the shape of the image, and the M <= N boxes that are left, with their labels.
        """
        height, width = image.shape[1:]
        corners = boxes.numpy()
        for _ in range(_TRIES):
            view = self._view(width, height)
            moved, kept = _move(corners, view, width, height, self.min_visible)
            if kept.any() or not len(corners):
                break
        else:
            view = np.eye(2, 3)
            moved, kept = corners, np.ones(len(corners), bool)
        pixels = cv2.merge(list(image.numpy()))
        if (view != np.eye(2, 3)).any():
            pixels = _warp(pixels, view)
        if self.lighting:
            pixels = self._relight(pixels)
        chosen = torch.from_numpy(kept)
        return torch.from_numpy(np.stack(cv2.split(pixels))), torch.from_numpy(moved[kept]), labels[chosen]

    def _view(self, width: int, height: int) -> Matrix:
        """Draw a (2, 3) map from the image to the view."""
        mirror, upend, angle, zoom, stretch, across, down = torch.rand(7).tolist()
        low, high = np.log(self.scale)
        zoom, stretch = np.exp(low + (high - low) * zoom), self.aspect ** (stretch - 0.5)
        scale_x, scale_y = zoom * stretch, zoom / stretch
        left, top = across * width * (1 - scale_x), down * height * (1 - scale_y)
        view = np.array([[scale_x, 0.0, left], [0.0, scale_y, top]])
        if self.flip and mirror < 0.5:
            view[0] = [0, 0, width] - view[0]
        if self.upside_down and upend < 0.5:
            view[1] = [0, 0, height] - view[1]
        if self.rotate:
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), self.rotate * (2 * angle - 1), 1.0)
            view = np.column_stack([turn[:, :2] @ view[:, :2], turn @ [*view[:, 2], 1.0]])
        return view

    def _relight(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        brightness, contrast, saturation = (1 + self.lighting * (2 * torch.rand(3) - 1)).tolist()
        mix = contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
        gray = float(np.dot(_LUMA, cv2.mean(pixels)[:3]))
        change = brightness * np.column_stack([mix, np.full(3, (1 - contrast) * gray)])
        return np.asarray(cv2.transform(pixels, change), np.uint8)


def _warp(pixels: NDArray[np.uint8], view: Matrix) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    # OpenCV counts from the middle of the first pixel, boxes from its corner.
    centred = view + np.column_stack([np.zeros((2, 2)), view[:, :2] @ [0.5, 0.5] - 0.5])
    around = cv2.mean(pixels)
    return np.asarray(cv2.warpAffine(pixels, centred, (width, height), flags=cv2.INTER_LINEAR, borderValue=around))


def _move(
    corners: NDArray[np.float32], view: Matrix, width: int, height: int, min_visible: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return (N, 4) boxes in the view, clipped to it, and (N,) whether enough of each is seen."""
    centres = (corners[:, :2] + corners[:, 2:]) / 2 @ view[:, :2].T + view[:, 2]
    # Without rotation, or at right angles, each sum has one term, and the frame is exact.
    halves = np.sqrt(((corners[:, 2:] - corners[:, :2]) / 2) ** 2 @ view[:, :2].T ** 2)
    whole = np.concatenate([centres - halves, centres + halves], axis=1)
    seen = np.clip(whole, 0, [width, height] * 2)
    share = np.prod(seen[:, 2:] - seen[:, :2], axis=1) / np.maximum(4 * np.prod(halves, axis=1), 1e-9)
    return seen.astype(np.float32), (share >= min_visible) & (np.prod(seen[:, 2:] - seen[:, :2], axis=1) > 0)
