"""The small layers that every vision transformer here is built from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from vitkern.models import _check


class Mlp(nn.Module):
    """Two linear layers with an activation between them, applied to each token by itself.

    ``y = drop2(fc2(drop1(act(fc1(x)))))``; the activation is the exact GELU (Hendrycks and Gimpel,
    "Gaussian Error Linear Units", 2016, arXiv 1606.08415) unless another is given.

    Args:
        in_features: channels of the input.
        hidden_features: channels between the layers; ``in_features`` if None.
        out_features: channels of the output; ``in_features`` if None.
        act_layer: makes the activation.
        drop: dropout rate after each linear layer.

    Raises:
        TypeError: channels that are not ints.
        ValueError: channels below 1, or a rate outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        *,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        hidden_features = in_features if hidden_features is None else hidden_features
        out_features = in_features if out_features is None else out_features
        _check.integer("in_features", in_features, minimum=1)
        _check.integer("hidden_features", hidden_features, minimum=1)
        _check.integer("out_features", out_features, minimum=1)
        _check.rate("drop", drop)
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_features, out_features)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features), in x's dtype."""
        x = self.drop1(self.act(self.fc1(x)))
        return self.drop2(self.fc2(x))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch, small at first.

    Touvron et al., "Going deeper with Image Transformers", 2021 (arXiv 2103.17239).

    Args:
        dim: channels.
        init_values: what every factor starts from.

    Raises:
        TypeError: ``dim`` is not an int.
        ValueError: ``dim`` below 1.
    """

    def __init__(self, dim: int, init_values: float = 1e-5) -> None:
        super().__init__()
        _check.integer("dim", dim, minimum=1)
        self.init_values = init_values
        self.gamma = nn.Parameter(torch.full((dim,), float(init_values)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., dim) -> (..., dim)."""
        return x * self.gamma

    def extra_repr(self) -> str:
        return f"{self.gamma.shape[0]}, init_values={self.init_values}"


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves a residual branch out for random samples.

    The branches that stay are divided by the probability of staying, which keeps the expectation;
    in evaluation nothing happens. Huang et al., "Deep Networks with Stochastic Depth", 2016
    (arXiv 1603.09382).

    Args:
        drop_prob: the probability that a sample loses the branch.

    Raises:
        ValueError: a probability outside [0, 1).
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        _check.rate("drop_prob", drop_prob)
        self.drop_prob = drop_prob

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, ...); one draw for each of the B samples."""
        if not self.training or self.drop_prob == 0.0:
            return x
        keep_prob = 1.0 - self.drop_prob
        one_per_sample = (x.shape[0],) + (1,) * (x.dim() - 1)
        stays = x.new_empty(one_per_sample).bernoulli_(keep_prob)
        return x * (stays / keep_prob)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"


def drop_path(drop_prob: float) -> nn.Module:
    """A :class:`DropPath`, or an identity where there is nothing to drop."""
    return DropPath(drop_prob) if drop_prob > 0.0 else nn.Identity()


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates for ``depth`` blocks that rise linearly from 0 at the first to ``last``.

    Raises:
        ValueError: ``last`` outside [0, 1).
    """
    _check.rate("drop_path_rate", last)
    return [last * block / max(depth - 1, 1) for block in range(depth)]


def initialise_linear_layers(model: nn.Module) -> None:
    """Weights of every ``nn.Linear`` from a normal (std 0.02, truncated at ±2), biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
