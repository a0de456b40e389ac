"""What happens to photographs: fast.ai's "crappify", of which restoration undoes what can be undone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Degrade:
    """Makes of a picture one to restore.

    Attributes:
        scale: Height and width are divided by it; a remainder of pixels right and bottom is cut off.
    """

    scale: int = 1

    def __call__(self, picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Return a worse picture.

        Args:
            picture: (H, W, 3) uint8 RGB.
            seed: Decides all that is drawn by lot.

        Returns:
            (H // scale, W // scale, 3) uint8 RGB.
        """
        raise NotImplementedError
