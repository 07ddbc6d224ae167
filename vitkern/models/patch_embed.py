"""Images into patches, and patches into tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check


class PatchEmbed(nn.Module):
    """Cuts images into patches that do not overlap and maps each linearly to a token.

    The linear map is a convolution whose stride is its kernel size. Dosovitskiy et al., "An Image
    is Worth 16x16 Words", 2020 (arXiv 2010.11929), section 3.1.

    Args:
        img_size: image size, an int or (height, width).
        patch_size: patch size, an int or (height, width).
        in_chans: image channels.
        embed_dim: channels of a token.
        bias: give the linear map a bias.
        norm_layer: makes a norm over the ``embed_dim`` channels; none if None.
        flatten: return a sequence (B, N, D) rather than a feature map (B, H, W, D).
        strict_img_size: accept images of ``img_size`` only; otherwise every size that the patch
            divides, or with ``dynamic_img_pad`` every size.
        dynamic_img_pad: pad images with zeros at the bottom and right to whole patches.

    Attributes:
        grid_size: patches of an image of ``img_size``, as (rows, columns).
        num_patches: their number.

    Raises:
        TypeError: sizes that are not ints or pairs of ints.
        ValueError: sizes below 1, or an ``img_size`` that the patch does not divide while
            ``dynamic_img_pad`` is off.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        *,
        bias: bool = True,
        norm_layer: Callable[[int], nn.Module] | None = None,
        flatten: bool = True,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
    ) -> None:
        super().__init__()
        _check.integer("in_chans", in_chans, minimum=1)
        _check.integer("embed_dim", embed_dim, minimum=1)
        self.img_size = _check.pair("img_size", img_size, minimum=1)
        self.patch_size = _check.pair("patch_size", patch_size, minimum=1)
        self.in_chans = in_chans
        self.flatten = flatten
        self.strict_img_size = strict_img_size
        self.dynamic_img_pad = dynamic_img_pad
        if not dynamic_img_pad:
            self._check_whole_patches("img_size", *self.img_size)
        self.grid_size = self.grid_of(*self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

        self.proj = nn.Conv2d(
            in_chans, embed_dim, kernel_size=self.patch_size, stride=self.patch_size, bias=bias
        )
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier uniform for the weight as the (embed_dim, in_chans·ph·pw) matrix that it is."""
        nn.init.xavier_uniform_(self.proj.weight.view(self.proj.out_channels, -1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image of this size, padding included."""
        rows, columns = self.patch_size
        if self.dynamic_img_pad:
            return -(-height // rows), -(-width // columns)
        return height // rows, width // columns

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens of images.

        Args:
            images: (B, in_chans, H, W), floating point.

        Returns:
            (B, rows·columns, embed_dim), or (B, rows, columns, embed_dim) without ``flatten``.

        Raises:
            TypeError: images that are not a floating-point tensor.
            ValueError: another number of dimensions or channels, or a size that is not accepted.
        """
        height, width = _check.images(images, self.in_chans)
        self._check_image_size(height, width)
        if self.dynamic_img_pad:
            below, right = -height % self.patch_size[0], -width % self.patch_size[1]
            images = F.pad(images, (0, right, 0, below))
        features = self.proj(images)  # (B, D, rows, columns)
        if self.flatten:
            features = features.flatten(2).transpose(1, 2)
        else:
            features = features.permute(0, 2, 3, 1)
        return self.norm(features)

    def _check_image_size(self, height: int, width: int) -> None:
        if self.strict_img_size:
            if (height, width) != self.img_size:
                raise ValueError(
                    f"images must be {self.img_size[0]}×{self.img_size[1]} (img_size, height ×"
                    f" width), got {height}×{width}; dynamic_img_size=True accepts other sizes"
                )
        elif not self.dynamic_img_pad:
            self._check_whole_patches("images", height, width)

    def _check_whole_patches(self, name: str, height: int, width: int) -> None:
        rows, columns = self.patch_size
        if height % rows or width % columns or height < rows or width < columns:
            raise ValueError(
                f"{name} must be whole patches of {rows}×{columns} (patch_size, height × width),"
                f" got {height}×{width}; dynamic_img_pad=True pads"
            )
