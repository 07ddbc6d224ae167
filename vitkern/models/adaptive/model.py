"""A vision transformer that spends less on images with less to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vitkern.models import _check
from vitkern.models._recompute import Recomputing
from vitkern.models.adaptive.attention import kept_tokens
from vitkern.models.adaptive.block import AdaptiveBlock
from vitkern.models.adaptive.complexity import ComplexityEstimator
from vitkern.models.layers import Mlp, drop_path_rates, initialise_linear_layers
from vitkern.models.patch_embed import PatchEmbed
from vitkern.models.position_embedding import embed_tokens, learned_tokens

ROUTES = ("simple", "medium", "complex")


@dataclass(frozen=True)
class Route:
    """What one kind of image is given: the patch that it is cut into, the share of tokens that are
    attended to, and how many MLPs a block runs."""

    name: str
    patch_size: int
    keep_ratio: float
    mlp_depth: int


class AdaptiveViT(Recomputing):
    """Three routes of different cost through one transformer, and an estimator that chooses.

    A :class:`ComplexityEstimator` gives an image one score. The route decides the patch size (large
    patches for simple images, so fewer tokens), how many tokens the gated sparse attention keeps,
    how many MLPs each block runs, and which head gives the logits (one, two or three linear
    layers). The blocks, the class token and the last norm are shared. The idea of spending by the
    input is that of Wang et al., "Not All Images are Worth 16x16 Words: Dynamic Transformers for
    Efficient Image Recognition", 2021 (arXiv 2105.15075), and of Rao et al., "DynamicViT", 2021
    (arXiv 2106.02034).

    In evaluation each image takes the route whose centre (1/6, 1/2, 5/6) its score is nearest to,
    that is, with bounds at 1/3 and 2/3. Images of a batch are grouped by route, and nothing of the
    other routes runs. In training every image takes all routes, and their logits are added with the
    weights ``softmax(-(score - centre)² / temperature)``, which have a gradient in the score.
    Nothing in the task makes a cheap route attractive: add ``weight * (probabilities @ costs)`` to
    the loss, with :meth:`forward_routes` and :meth:`relative_costs`, to ask for it.

    Args:
        img_size: image size, an int or (height, width); whole patches of every size.
        patch_sizes: of complex, medium and simple images.
        in_chans: image channels.
        num_classes: logits.
        embed_dim: channels of a token.
        depth: number of blocks.
        num_heads: attention heads; must divide ``embed_dim``.
        mlp_ratio: hidden channels of a block's three MLPs together for each channel of a token.
        keep_ratios: share of the tokens that are attended to, of complex, medium and simple images.
        temperature: how sharply training tells routes apart.
        drop_rate: dropout rate before the head.
        pos_drop_rate: dropout rate after the position embedding.
        proj_drop_rate: dropout rate after the attention's projection and the MLP's linear layers.
        attn_drop_rate: dropout rate of the attention weights.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.

    Attributes:
        routes: the three, simple first.
        tokens: of each route by its name, the class token included.

    Raises:
        TypeError: sizes and counts that are not ints.
        ValueError: sizes and counts out of range, not three of what there must be three of,
            ``num_heads`` that does not divide ``embed_dim``, an ``img_size`` that is not whole
            patches, a ratio outside (0, 1], or a rate outside [0, 1).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_sizes: Sequence[int] = (8, 16, 32),
        in_chans: int = 3,
        num_classes: int = 1000,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        keep_ratios: Sequence[float] = (0.25, 0.5, 1.0),
        temperature: float = 0.1,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check.integer("num_classes", num_classes, minimum=1)
        _check.integer("depth", depth, minimum=1)
        _check.heads("embed_dim", embed_dim, num_heads)
        _check.positive("temperature", temperature)
        _check.rate("drop_rate", drop_rate)
        _check.rate("pos_drop_rate", pos_drop_rate)
        self.routes = _routes(patch_sizes, keep_ratios)
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.temperature = temperature

        self.estimator = ComplexityEstimator(in_chans)
        patch_embeds = {
            route.name: PatchEmbed(img_size, route.patch_size, in_chans, embed_dim)
            for route in self.routes
        }
        self.tokens = {name: 1 + patches.num_patches for name, patches in patch_embeds.items()}
        self.patch_embeds = nn.ModuleDict(patch_embeds)
        self.pos_embeds = nn.ParameterDict(
            {
                name: learned_tokens(count, embed_dim, std=0.02)
                for name, count in self.tokens.items()
            }
        )
        self.cls_token = learned_tokens(1, embed_dim, std=1e-6)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(
            AdaptiveBlock(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                mlp_depth=len(ROUTES),
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
                drop_path_rate=rate,
            )
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.heads = nn.ModuleDict(
            {
                "simple": nn.Linear(embed_dim, num_classes),
                "medium": Mlp(embed_dim, embed_dim, num_classes),
                "complex": nn.Sequential(
                    Mlp(embed_dim, 2 * embed_dim, embed_dim),
                    nn.GELU(),
                    nn.Linear(embed_dim, num_classes),
                ),
            }
        )
        initialise_linear_layers(self)
        self.estimator.reset_parameters()

    def forward(
        self, images: torch.Tensor, routes: Sequence[int] | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits.

        Args:
            images: (B, in_chans, H, W), floating point.
            routes: (B,), the number of each image's route (0 simple, 1 medium, 2 complex), in place
                of the estimator's choice or, in training, of the mixture.

        Returns:
            (B, num_classes).

        Raises:
            TypeError: images that are not a floating-point tensor, or routes that are not ints.
            ValueError: images of another rank, number of channels or size than accepted, or routes
                of another number or out of range.
        """
        _check.images(images, self.estimator.in_chans)
        if routes is None and self.training:
            return self.forward_routes(images)[0]
        chosen = self.choose(images) if routes is None else torch.as_tensor(routes)
        if chosen.numel() and (chosen.is_floating_point() or chosen.dtype == torch.bool):
            raise TypeError(f"routes must be ints, got {chosen.dtype}")
        numbers = chosen.tolist()  # the one copy to the host
        if chosen.shape != (len(images),) or not set(numbers) <= set(range(len(ROUTES))):
            raise ValueError(
                f"routes must be an int from 0 to {len(ROUTES) - 1} for each of"
                f" {len(images)} images, got {numbers}"
            )
        if len(set(numbers)) == 1:
            return self.forward_route(images, numbers[0])
        groups = [
            [index for index, number in enumerate(numbers) if number == route]
            for route in range(len(ROUTES))
        ]
        logits = images.new_empty(len(images), self.num_classes)
        for route, members in enumerate(groups):
            if members:
                index = torch.tensor(members, device=images.device)
                found = self.forward_route(images[index], route)
                logits = logits.to(found.dtype).index_copy(0, index, found)
        return logits

    def forward_routes(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All routes at once, as in training.

        Args:
            images: (B, in_chans, H, W), floating point.

        Returns:
            The mixed logits (B, num_classes) and the weights of the routes (B, 3), simple first.
        """
        probabilities = self.route_probabilities(images)
        every = torch.stack([self.forward_route(images, i) for i in range(len(ROUTES))], dim=1)
        return (probabilities[:, :, None] * every).sum(1), probabilities

    def forward_route(self, images: torch.Tensor, route: int) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_classes), every image by one route, given by number."""
        tokens = self.forward_features(images, route)
        return self.heads[self.routes[route].name](self.head_drop(tokens[:, 0]))

    def forward_features(self, images: torch.Tensor, route: int) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, 1 + patches of the route, embed_dim), normalised."""
        taken = self.routes[route]
        patches = self.patch_embeds[taken.name](images)
        x = self.pos_drop(embed_tokens(patches, self.pos_embeds[taken.name], [self.cls_token]))
        for block in self.blocks:
            x = self.run(block, x, taken.keep_ratio, taken.mlp_depth)
        return self.norm(x)

    def complexity(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B,): the score of each image, between 0 and 1."""
        return self.estimator(images)

    def route_probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, 3): how much each route counts in training."""
        score = self.complexity(images)
        count = len(ROUTES)
        centres = (torch.arange(count, device=score.device).to(score.dtype) + 0.5) / count
        return (-(score[:, None] - centres).square() / self.temperature).softmax(dim=1)

    def choose(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B,), int64: the route of each image in evaluation."""
        with torch.no_grad():
            return self.route_probabilities(images).argmax(dim=1)

    def relative_costs(self) -> torch.Tensor:
        """(3,), float32: multiplications of each route's blocks, as a share of the dearest's."""
        costs = [self._block_cost(route) for route in self.routes]
        return torch.tensor([cost / max(costs) for cost in costs])

    def _block_cost(self, route: Route) -> int:
        """Multiplications of one block on an image."""
        block = self.blocks[0]
        assert isinstance(block, AdaptiveBlock)
        tokens = self.tokens[route.name]
        kept = 1 + kept_tokens(tokens - 1, route.keep_ratio)
        dim, hidden = self.embed_dim, sum(block.mlp.hidden_dims[: route.mlp_depth])
        projections = 2 * (tokens + kept) * dim * dim + (tokens - 1) * dim
        return projections + 2 * tokens * kept * dim + 2 * tokens * dim * hidden


def _routes(patch_sizes: Sequence[int], keep_ratios: Sequence[float]) -> tuple[Route, ...]:
    """The routes, simple first.

    Raises:
        TypeError, ValueError: as :class:`AdaptiveViT`.
    """
    for name, values in (("patch_sizes", patch_sizes), ("keep_ratios", keep_ratios)):
        if len(values) != len(ROUTES):
            raise ValueError(
                f"{name} must have one entry each for complex, medium and simple images,"
                f" got {tuple(values)}"
            )
    for index, (patch_size, keep_ratio) in enumerate(zip(patch_sizes, keep_ratios, strict=True)):
        _check.integer(f"patch_sizes[{index}]", patch_size, minimum=1)
        if not 0.0 < keep_ratio <= 1.0:
            raise ValueError(
                f"keep_ratios[{index}] must be above 0 and at most 1, got {keep_ratio}"
            )
    entries = zip(ROUTES, reversed(patch_sizes), reversed(keep_ratios), strict=True)
    return tuple(
        Route(name, patch_size, keep_ratio, depth)
        for depth, (name, patch_size, keep_ratio) in enumerate(entries, start=1)
    )
