"""fastai's DynamicUnet for any backbone, without hooks."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from visdeploy.errors import InputError
from visdeploy.models.encoders import create_pyramid
from visdeploy.models.registry import register

Upsampling = Literal["shuffle", "transposed", "nearest", "bilinear"]
Norm = Literal["none", "batch"]


def convolution(
    in_channels: int, out_channels: int, size: int = 3, *, norm: Norm = "none", relu: bool = True
) -> nn.Sequential:
    """Return convolution, BatchNorm if asked for, ReLU: the order that engines fuse into one operation."""
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight)
    return _completed(conv, norm, relu)


def _completed(conv: nn.Conv2d | nn.ConvTranspose2d, norm: Norm, relu: bool = True) -> nn.Sequential:
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers: list[nn.Module] = [conv]
    if norm == "batch":
        layers.append(_batch_norm(conv.out_channels))
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.bias, 1e-3)
    return norm


def upsampling(
    kind: Upsampling, in_channels: int, out_channels: int, *, blur: bool = False, norm: Norm = "none"
) -> nn.Sequential:
    """Return layers that map (B, in, h, w) to (B, out, 2h, 2w), none of it negative.

    Args:
        kind: "shuffle": a 1x1 convolution to four times the channels, rearranged into pixels; it starts without a
            checkerboard (ICNR: Aitken et al., "Checkerboard artifact free sub-pixel convolution", 2017). "transposed":
            a transposed convolution of kernel 2, stride 2. "nearest", "bilinear": resized, then a 3x3 convolution.
        in_channels: Of the input.
        out_channels: Of the result.
        blur: Average each pixel with its upper and left neighbours, against checkerboards (Sugawara et al., 2018).
        norm: "batch" for a BatchNorm after the convolution.
    """
    layers: list[nn.Module]
    if kind == "shuffle":
        layers = [convolution(in_channels, 4 * out_channels, 1, norm=norm), nn.PixelShuffle(2)]
        one_of_four = nn.init.kaiming_normal_(torch.empty(out_channels, in_channels, 1, 1))
        with torch.no_grad():
            layers[0].get_parameter("0.weight").copy_(one_of_four.repeat_interleave(4, dim=0))
    elif kind == "transposed":
        conv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=norm == "none")
        # Each output pixel is a sum over the input channels alone.
        nn.init.normal_(conv.weight, std=(2 / in_channels) ** 0.5)
        layers = [_completed(conv, norm)]
    else:
        resize = nn.Upsample(scale_factor=2.0, mode=kind, align_corners=False if kind == "bilinear" else None)
        layers = [resize, convolution(in_channels, out_channels, norm=norm)]
    if blur:
        layers += [nn.ReplicationPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, stride=1)]
    return nn.Sequential(*layers)


class SpectralConv(nn.Module):
    """A 1x1 convolution whose matrix is divided by its largest singular value, as `torch.nn.utils.spectral_norm` does.

    Without that function's hooks, so that it can be scripted. In training each forward improves the estimate of the
    singular vectors `u`, `v` by one power iteration (Miyato et al., "Spectral normalization for GANs", 2018).
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.kaiming_normal_(torch.empty(out_channels, in_channels, 1)))
        self.register_buffer("u", functional.normalize(torch.randn(out_channels), dim=0))
        self.register_buffer("v", functional.normalize(torch.randn(in_channels), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, n) to (B, out, n)."""
        matrix = self.weight[:, :, 0]
        # Sums of products instead of matrix products, which autocast would round to bfloat16.
        if self.training:
            with torch.no_grad():
                self.v.copy_(functional.normalize((matrix * self.u[:, None]).sum(0), dim=0))
                self.u.copy_(functional.normalize((matrix * self.v).sum(1), dim=0))
        # Copies, because the next forward changes what the backward of this one needs.
        largest = (self.u.clone() * (matrix * self.v.clone()).sum(1)).sum()
        return functional.conv1d(x, self.weight / largest)


class SelfAttention(nn.Module):
    """Each pixel takes from others what is like it (Zhang et al., "Self-attention GANs", 2018), at first nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 8:
            raise InputError(f"[dynamic_unet] self_attention: expected at least 8 channels where it is, got {channels}")
        self.query = SpectralConv(channels, channels // 8)
        self.key = SpectralConv(channels, channels // 8)
        self.value = SpectralConv(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        pixels = x.flatten(2)
        # fastai normalises over the queries, so that they play the part of keys, and the other way round.
        seen = functional.scaled_dot_product_attention(
            self.key(pixels).transpose(1, 2),
            self.query(pixels).transpose(1, 2),
            self.value(pixels).transpose(1, 2),
            scale=1.0,
        )
        return x + self.gamma * seen.transpose(1, 2).reshape(x.shape)


def resized_like(x: Tensor, reference: Tensor) -> Tensor:
    """Return `x` with the height and width of `reference`, by nearest neighbours; `x` itself where they agree."""
    # A trace keeps the branch that it took: the comparison of shapes would warn of that.
    if x[:, :1].is_same_size(reference[:, :1]):
        return x
    return functional.interpolate(x, size=reference.shape[-2:], mode="nearest")


class DynamicUnetBlock(nn.Module):
    """Upsample to half the channels, join the normalised cross feature, two convolutions, perhaps self-attention."""

    def __init__(
        self, up: nn.Module, cross_channels: int, channels: tuple[int, int], *, attention: bool, norm: Norm
    ) -> None:
        super().__init__()
        in_channels, out_channels = channels
        self.shuf = up
        self.bn = _batch_norm(cross_channels)
        self.conv1 = convolution(in_channels, out_channels, norm=norm)
        self.conv2 = convolution(out_channels, out_channels, norm=norm)
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, cross: Tensor) -> Tensor:
        """Map (B, up, h, w) and the finer (B, cross, H, W) to (B, out, H, W)."""
        up = resized_like(self.shuf(x), cross)
        # What was upsampled has gone through its own ReLU.
        joined = torch.cat([up, functional.relu(self.bn(cross), inplace=True)], dim=1)
        out: Tensor = self.attention(self.conv2(self.conv1(joined)))
        return out


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity; `inner` is the width between them."""

    def __init__(self, channels: int, inner: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = convolution(channels, inner, norm=norm)
        self.conv2 = convolution(inner, channels, norm=norm, relu=False)
        if norm == "batch":
            # It starts as the identity.
            nn.init.zeros_(self.conv2.get_parameter("1.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return functional.relu(self.conv2(self.conv1(x)) + x, inplace=True)


@register(
    "dynamic_unet",
    "fast.ai's DynamicUnet over any ResNet, MobileNetV2 or timm backbone",
    tasks=("segmentation", "restoration"),
    encoder="resnet34",
)
class DynamicUnet(nn.Module):
    """Backbone, two middle convolutions, a `DynamicUnetBlock` per finer feature map, a residual block on the full size.

    It takes images of any size: maps that differ by a pixel are resized by nearest neighbours, as in fastai. A graph
    that was traced with a multiple of the coarsest stride, as those of `export` are, takes multiples only.

    Args:
        encoder: Name of the backbone.
        num_classes: Channels of the answer.
        upsample: How maps are doubled in size, see `upsampling`; fastai's is "shuffle".
        blur: Blur what was upsampled in each block.
        blur_final: Whether `blur` goes for the last block too.
        self_attention: After the third block from the end.
        last_cross: Join the input image before the last convolutions.
        bottle: Halve the width inside the residual block that `last_cross` brings. (fastai 2 also halves what comes out
            of it, which its last convolution then refuses.)
        norm: "batch" for a BatchNorm after every convolution of the decoder; fastai's default is "none".
        residual: Add the input to the answer, for restoration.

    Raises:
        InputError: The backbone has fewer than two maps, or an option does not fit.
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        *,
        upsample: Upsampling = "shuffle",
        blur: bool = False,
        blur_final: bool = True,
        self_attention: bool = False,
        last_cross: bool = True,
        bottle: bool = False,
        norm: Norm = "none",
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and num_classes != 3:
            raise InputError(
                f"[dynamic_unet] residual: adds the answer to an image of 3 channels, so num_classes must be 3, "
                f"got {num_classes}"
            )
        self.encoder = create_pyramid(encoder, to_pooling=True)
        *finer, width = self.encoder.channels
        if self_attention and len(finer) < 3:
            raise InputError(
                f"[dynamic_unet] self_attention: stands in the third block from the end, but {encoder!r} has only "
                f"{len(finer)} finer maps, so that there is no such block"
            )
        self.bn = _batch_norm(width)
        self.middle = nn.Sequential(convolution(width, 2 * width, norm=norm), convolution(2 * width, width, norm=norm))
        self.blocks = nn.ModuleList()
        for level in range(len(finer) - 1, -1, -1):
            last = level == 0
            up = upsampling(upsample, width, width // 2, blur=blur and (blur_final or not last), norm=norm)
            joined = width // 2 + finer[level]
            width = joined // 2 if last else joined
            attention = self_attention and level == 2
            self.blocks.append(DynamicUnetBlock(up, finer[level], (joined, width), attention=attention, norm=norm))
        full_size = self.encoder.strides[0] == 1
        self.last_up = nn.Identity() if full_size else upsampling(upsample, width, width, norm=norm)
        self.last_cross, self.residual = last_cross, residual
        width += 3 if last_cross else 0
        self.last = ResidualBlock(width, width // 2 if bottle else width, norm) if last_cross else nn.Identity()
        self.head = convolution(width, num_classes, 1, norm=norm, relu=False)
        if residual:
            # The first answer is the input.
            nn.init.zeros_(self.head[-1].get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised float32 (B, 3, H, W) to (B, num_classes, H, W)."""
        features = self.encoder(x)
        y = self.middle(functional.relu(self.bn(features[-1]), inplace=True))
        level = len(features) - 2
        for block in self.blocks:
            y = block(y, features[level])
            level -= 1
        y = resized_like(self.last_up(y), x)
        if self.last_cross:
            # In autocast the image alone is float32: all that follows would be too.
            y = torch.cat([y, x if x.dtype == y.dtype else x.to(y.dtype)], dim=1)
        out: Tensor = self.head(self.last(y))
        return out + x if self.residual else out

    def layouts(self) -> dict[str, dict[str, str]]:
        """Return what fastai calls the parameters, see `weights.load_weights`.

        Its DynamicUnet is a list: backbone, BatchNorm, ReLU, middle, blocks, perhaps a last pixel shuffle, a resize,
        perhaps the joined image and a residual block, the last convolution.
        """
        names = {**self.encoder.by_position("layers.0"), r"^layers\.1\.": "bn.", r"^layers\.3\.": "middle."}
        names |= {rf"^layers\.{4 + index}\.": f"blocks.{index}." for index in range(len(self.blocks))}
        position = 4 + len(self.blocks)
        if self.encoder.strides[0] > 1:
            names[rf"^layers\.{position}\."] = "last_up."
            position += 1
        if self.last_cross:
            names[rf"^layers\.{position + 2}\.convpath\.0\."] = "last.conv1."
            names[rf"^layers\.{position + 2}\.convpath\.1\."] = "last.conv2."
            position += 2
        names[rf"^layers\.{position + 1}\."] = "head."
        names[r"\.conv2\.\d\.(query|key|value)\.0\.weight_orig$"] = r".attention.\1.weight"
        names[r"\.conv2\.\d\.(query|key|value)\.0\.weight_([uv])$"] = r".attention.\1.\2"
        names[r"\.conv2\.\d\.gamma$"] = ".attention.gamma"
        return {"fastai": names}
