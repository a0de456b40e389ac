"""What a restored picture is compared by besides its samples: features of a network that knows photographs.

After the perceptual and style losses of Johnson et al. 2016 (https://arxiv.org/abs/1603.08155), as lesson 7 of
fast.ai's course of 2019 uses them for super-resolution: everything is compared by L1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_MAPS = 3  # the finest ones: details are what restoration is about


class FeatureLoss:
    """Differences of two pictures in the finest feature maps of a frozen encoder.

    It is no module, so that what trains does not change, average or save the encoder.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder.requires_grad_(False).eval()

    def __call__(self, picture: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compare (B, 3, H, W) pictures, normalised as the encoder knows them.

        Returns:
            The L1 distance of features, and that of their Gram matrices; each the mean over the maps.
        """
        self.encoder.to(picture.device)
        with torch.no_grad():
            wanted = self.encoder(target)[:_MAPS]
        found = self.encoder(picture)[:_MAPS]
        features = [functional.l1_loss(a.float(), b.float()) for a, b in zip(found, wanted, strict=True)]
        grams = [functional.l1_loss(gram_matrix(a), gram_matrix(b)) for a, b in zip(found, wanted, strict=True)]
        return torch.stack(features).mean(), torch.stack(grams).mean()


def gram_matrix(features: Tensor) -> Tensor:
    """Return the (B, C, C) float32 mean products of channels of (B, C, H, W) features: what there is, not where."""
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat.shape[2]
