"""PatchEmbed, PositionEmbedding and the layers that all models share."""

from __future__ import annotations

import math

import pytest
import timm.layers
import torch
from torch import nn

from vitkern.models import (
    LayerScale,
    Mlp,
    MultiHeadAttention,
    PatchEmbed,
    PositionEmbedding,
    TransformerBlock,
)
from vitkern.models.position_embedding import resample_position_embedding


def test_a_patch_becomes_a_token():
    embed = PatchEmbed((8, 12), (4, 6), in_chans=2, embed_dim=5).double()
    images = torch.randn(3, 2, 8, 12, dtype=torch.float64)
    tokens = embed(images)
    assert tokens.shape == (3, 4, 5)
    assert (embed.grid_size, embed.num_patches) == ((2, 2), 4)
    patch = images[1, :, 4:8, 0:6].flatten()  # second row, first column
    expected = embed.proj.weight.flatten(1) @ patch + embed.proj.bias
    torch.testing.assert_close(tokens[1, 2], expected)


def test_patch_embed_as_a_feature_map_with_a_norm():
    embed = PatchEmbed(8, 4, embed_dim=6, norm_layer=nn.LayerNorm, flatten=False)
    features = embed(torch.randn(2, 3, 8, 8))
    assert features.shape == (2, 2, 2, 6)
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 2, 2), atol=1e-5, rtol=0)


def test_patch_embed_initialisation_is_xavier_uniform_of_the_flattened_weight():
    torch.manual_seed(0)
    embed = PatchEmbed(32, 16, embed_dim=64)
    bound = math.sqrt(6 / (64 + 3 * 16 * 16))
    weight = embed.proj.weight
    assert 0.98 * bound < weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not embed.proj.bias.any()


def test_padding_fills_the_last_patches_with_zeros():
    embed = PatchEmbed(16, 8, embed_dim=4, strict_img_size=False, dynamic_img_pad=True)
    images = torch.randn(1, 3, 10, 16)
    padded = torch.cat([images, torch.zeros(1, 3, 6, 16)], dim=2)
    torch.testing.assert_close(embed(images), embed(padded))
    assert embed.grid_of(10, 17) == (2, 3)


def test_wrong_image_sizes_say_what_fits():
    with pytest.raises(ValueError, match=r"images must be 8×12 .*got 12×8.*dynamic_img_size=True"):
        PatchEmbed((8, 12), 4)(torch.randn(1, 3, 12, 8))
    with pytest.raises(ValueError, match=r"images must be whole patches of 4×4.*got 8×10"):
        PatchEmbed(8, 4, strict_img_size=False)(torch.randn(1, 3, 8, 10))
    with pytest.raises(ValueError, match=r"img_size must be whole patches.*dynamic_img_pad=True"):
        PatchEmbed(10, 4)


@pytest.mark.parametrize("new", [(4, 4), (7, 3), (2, 2), (4, 9)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_resampling_matches_timm(new, prefix):
    position = torch.randn(1, prefix + 16, 8, dtype=torch.float64)
    expected = timm.layers.resample_abs_pos_embed(position, new, (4, 4), num_prefix_tokens=prefix)
    actual = resample_position_embedding(position, (4, 4), new, num_prefix_tokens=prefix)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert actual.dtype == torch.float64


def test_resampling_to_the_same_grid_changes_nothing():
    position = torch.randn(1, 6, 8)
    assert resample_position_embedding(position, (2, 3), (2, 3)) is position
    transposed = resample_position_embedding(position, (2, 3), (3, 2))
    assert not torch.equal(transposed, position)


def test_resampling_names_a_wrong_grid():
    with pytest.raises(ValueError, match=r"position must have shape \(1, 1 \+ 2·3, channels\)"):
        resample_position_embedding(torch.randn(1, 6, 8), (2, 3), (4, 4), num_prefix_tokens=1)
    with pytest.raises(ValueError, match="new_grid_size must be at least 1"):
        resample_position_embedding(torch.randn(1, 6, 8), (2, 3), (0, 4))


def test_position_embedding_starts_from_a_truncated_normal():
    torch.manual_seed(0)
    embedding = PositionEmbedding(32, 64, class_token=False)
    assert embedding.cls_token is None
    assert embedding.pos_embed.shape == (1, 1024, 64)
    assert embedding.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)


def test_position_embedding_prepends_and_adds():
    patches = torch.randn(2, 6, 4)
    embedding = PositionEmbedding((2, 3), 4, reg_tokens=2)
    tokens = embedding(patches)
    assert tokens.shape == (2, 9, 4)
    position = embedding.pos_embed[0]
    torch.testing.assert_close(tokens[1, 0], embedding.cls_token[0, 0] + position[0])
    torch.testing.assert_close(tokens[1, 2], embedding.reg_token[0, 1] + position[2])
    torch.testing.assert_close(tokens[1, 3:], patches[1] + position[3:])

    alone = PositionEmbedding((2, 3), 4, no_embed_class=True)
    tokens = alone(patches)
    torch.testing.assert_close(tokens[0, 0], alone.cls_token[0, 0])
    torch.testing.assert_close(tokens[0, 1:], patches[0] + alone.pos_embed[0])

    assert embedding(torch.randn(1, 20, 4), (4, 5)).shape == (1, 23, 4)


def test_position_embedding_names_wrong_patches():
    embedding = PositionEmbedding((2, 3), 4)
    with pytest.raises(ValueError, match=r"patches must hold 2×3 tokens .grid_size., got 5"):
        embedding(torch.randn(1, 5, 4))
    with pytest.raises(ValueError, match=r"patches must have shape \(batch, tokens, 4\)"):
        embedding(torch.randn(1, 6, 5))


def test_layers_name_wrong_arguments():
    with pytest.raises(ValueError, match=r"dim must be a multiple of num_heads.*10.*4"):
        MultiHeadAttention(10, 4)
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads"):
        TransformerBlock(10, 4)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, tokens, 8\)"):
        MultiHeadAttention(8, 2)(torch.randn(5, 8))
    with pytest.raises(ValueError, match="hidden_features must be at least 1"):
        Mlp(8, 0)
    with pytest.raises(TypeError, match="dim must be an int"):
        LayerScale(8.0)


def test_mlp_can_change_width():
    assert Mlp(8, 12, 5, act_layer=nn.ReLU)(torch.randn(2, 3, 8)).shape == (2, 3, 5)
