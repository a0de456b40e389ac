"""Random views of a training pair: image and mask move together."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from visdeploy.data.dataset import IGNORE_INDEX


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
