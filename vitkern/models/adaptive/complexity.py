"""How much there is to see in an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from vitkern.models import _check

_TEXTURE_WINDOW = 8
_FLOOR = 0.01
"""Added before the logarithm: contrasts below it, of images with unit variance, are none."""
_TYPICAL = (0.1, 0.2)
"""Edges and texture of an ordinary photograph, which gets the middle score before training."""


class ComplexityEstimator(nn.Module):
    """One score between 0 and 1 for each image: edges, texture, and learned features.

    Edges are the mean length of the Sobel gradient, texture is the mean standard deviation inside
    windows of 8×8 pixels, both of the mean over channels and on a logarithmic scale; two strided
    convolutions add what training finds useful. A linear layer and a sigmoid make the score.

    Before training the score already rises with edges and texture, and an ordinary photograph with
    the usual normalisation (mean 0, variance 1) lies in the middle; a flat image is near 0.

    Args:
        in_chans: image channels.
        features: channels of the learned features.

    Attributes:
        sobel: (2, 1, 3, 3), a buffer: the derivatives along rows and columns of unit steps.

    Raises:
        TypeError: counts that are not ints.
        ValueError: counts below 1.
    """

    sobel: torch.Tensor

    def __init__(self, in_chans: int = 3, features: int = 16) -> None:
        super().__init__()
        _check.integer("in_chans", in_chans, minimum=1)
        _check.integer("features", features, minimum=1)
        self.in_chans = in_chans
        smooth = torch.tensor([1.0, 2.0, 1.0])
        difference = torch.tensor([-1.0, 0.0, 1.0])
        across = torch.outer(smooth, difference) / 8
        self.register_buffer("sobel", torch.stack((across, across.T))[:, None])
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, features, kernel_size=4, stride=4),
            nn.GELU(),
            nn.Conv2d(features, features, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
        )
        self.score = nn.Linear(2 + features, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The score of edges and texture alone, with a little of the learned features."""
        edges, texture = _TYPICAL
        typical = torch.tensor([edges + _FLOOR, texture + _FLOOR]).log()
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        with torch.no_grad():
            self.score.weight[:, :2] = 1.0
            self.score.bias.copy_(-typical.sum())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores.

        Args:
            images: (B, in_chans, H, W), floating point, at least 8×8.

        Returns:
            (B,), between 0 (nothing to see) and 1.

        Raises:
            TypeError: images that are not a floating-point tensor.
            ValueError: another number of dimensions or channels, or images that are too small.
        """
        height, width = _check.images(images, self.in_chans)
        if min(height, width) < _TEXTURE_WINDOW:
            raise ValueError(
                f"images must be at least {_TEXTURE_WINDOW}×{_TEXTURE_WINDOW}, got {height}×{width}"
            )
        grey = images.mean(dim=1, keepdim=True)
        contrasts = torch.stack((self._edges(grey), self._texture(grey)), dim=1)
        learned = self.features(images).mean(dim=(2, 3))
        known = (contrasts + _FLOOR).log()
        return self.score(torch.cat((known, learned), dim=1)).sigmoid().squeeze(1)

    def _edges(self, grey: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B,): the mean length of the gradient at every second pixel of every
        second row; no edge at the border."""
        gradient = F.conv2d(grey, self.sobel.to(grey.dtype), stride=2)
        # The root has no derivative at 0, where flat images are.
        return (gradient.square().sum(1) + 1e-12).sqrt().mean(dim=(1, 2))

    @staticmethod
    def _texture(grey: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B,): the mean standard deviation inside whole windows."""
        height, width = (size // _TEXTURE_WINDOW * _TEXTURE_WINDOW for size in grey.shape[2:])
        windows = grey[:, 0, :height, :width].unflatten(1, (-1, _TEXTURE_WINDOW))
        windows = windows.unflatten(3, (-1, _TEXTURE_WINDOW))
        variance = (windows - windows.mean(dim=(2, 4), keepdim=True)).square().mean(dim=(2, 4))
        return (variance + 1e-12).sqrt().mean(dim=(1, 2))
