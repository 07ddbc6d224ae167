"""VisionTransformer against timm's, and by itself."""

from __future__ import annotations

import pytest
import torch

from vitkern.models import DropPath, TransformerBlock, VisionTransformer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
        {"global_pool": "avg", "fc_norm": False},
        {"global_pool": ""},
        {"fc_norm": True},
        {"reg_tokens": 4},
        {"reg_tokens": 4, "no_embed_class": True},
        {"no_embed_class": True, "global_pool": "avg", "class_token": False},
        {"init_values": 0.1},
        {"qk_norm": True},
        {"qkv_bias": False, "mlp_ratio": 1.5},
        {"num_classes": 0},
        {"in_chans": 3, "img_size": (16, 40), "patch_size": (8, 4)},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()) or "default",
)
def test_matches_timm(vit_pair, assert_same_outputs, options):
    size = options.get("img_size", (32, 32))
    assert_same_outputs(vit_pair(**options), *size)


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (8, 64), (16, 16)])
@pytest.mark.parametrize(
    "options",
    [{}, {"reg_tokens": 2, "no_embed_class": True}, {"class_token": False, "global_pool": "avg"}],
    ids=["class", "registers", "no-class"],
)
def test_dynamic_image_size_matches_timm(vit_pair, assert_same_outputs, options, size):
    assert_same_outputs(vit_pair(dynamic_img_size=True, **options), *size)


def test_dynamic_padding_matches_timm(vit_pair, assert_same_outputs):
    pair = vit_pair(dynamic_img_size=True, dynamic_img_pad=True)
    for size in ((30, 41), (32, 33), (5, 7)):
        assert_same_outputs(pair, *size)


def test_gradients_match_timm(vit_pair, assert_same_training_step):
    pair = vit_pair(reg_tokens=1, init_values=0.1, qk_norm=True, dynamic_img_size=True)
    assert_same_training_step(pair, 24, 40)


def test_dropout_and_drop_path_match_timm_under_a_seed(vit_pair, assert_same_training_step):
    pair = vit_pair(
        drop_rate=0.1, pos_drop_rate=0.1, proj_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.5
    )
    assert_same_training_step(pair, 32, 32)


def test_training_mode_is_random_but_repeats_under_a_seed():
    model = VisionTransformer(
        32, 8, embed_dim=48, depth=2, num_heads=3, drop_path_rate=0.5, attn_drop_rate=0.2
    )
    images = torch.randn(8, 3, 32, 32)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(images)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    model.eval()
    assert torch.equal(run(0), run(1))


def test_drop_path_rates_rise_linearly():
    model = VisionTransformer(32, 8, embed_dim=48, depth=5, num_heads=3, drop_path_rate=0.4)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 2, 3))
    per_sample = dropped.flatten(1)
    assert torch.all(per_sample == per_sample[:, :1])
    assert sorted(per_sample.unique().tolist()) == pytest.approx([0.0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)


def test_structure_that_adapters_read():
    model = VisionTransformer(32, 8, embed_dim=48, depth=1, num_heads=3, qk_norm=True)
    block = model.blocks[0]
    assert type(block) is TransformerBlock
    names = ["norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"]
    assert [name for name, _ in block.named_children()] == names
    names = ["qkv", "q_norm", "k_norm", "attn_drop", "proj", "proj_drop"]
    assert [name for name, _ in block.attn.named_children()] == names
    assert (block.attn.num_heads, block.attn.head_dim, block.attn.scale) == (3, 16, 0.25)
    names = ["fc1", "act", "drop1", "fc2", "drop2"]
    assert [name for name, _ in block.mlp.named_children()] == names
    assert all(norm.eps == 1e-6 for norm in (block.norm1, block.attn.q_norm, model.norm))


def test_an_empty_batch_gives_no_logits():
    model = VisionTransformer(32, 8, embed_dim=48, depth=2, num_heads=3)
    assert model(torch.empty(0, 3, 32, 32)).shape == (0, 1000)


def test_compiles_without_a_graph_break():
    model = VisionTransformer(
        32, 8, embed_dim=48, depth=1, num_heads=3, reg_tokens=1, dynamic_img_size=True
    ).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 16, 40)
    logits = compiled(images)
    torch.testing.assert_close(logits, model(images))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_heads": 5}, ValueError, "embed_dim must be a multiple of num_heads.*48.*5"),
        ({"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
        ({"num_heads": 3.0}, TypeError, "num_heads must be an int, got 3.0"),
        ({"embed_dim": -48}, ValueError, "embed_dim must be at least 1"),
        ({"depth": 0}, ValueError, "depth must be at least 1"),
        ({"num_classes": -1}, ValueError, "num_classes must be at least 0"),
        ({"reg_tokens": -1}, ValueError, "reg_tokens must be at least 0"),
        ({"global_pool": "max"}, ValueError, "global_pool must be one of 'token', 'avg', ''"),
        ({"class_token": False}, ValueError, "global_pool='token' needs class_token=True"),
        ({"img_size": 33}, ValueError, "img_size must be whole patches of 8×8.*33×33"),
        ({"img_size": (32, 32, 3)}, TypeError, "img_size must be an int or a .height, width."),
        ({"patch_size": 0}, ValueError, "patch_size must be at least 1"),
        ({"mlp_ratio": 0.0}, ValueError, "mlp_ratio must be above 0"),
        ({"drop_rate": 1.0}, ValueError, "drop_rate must be at least 0 and below 1"),
        ({"pos_drop_rate": -0.1}, ValueError, "pos_drop_rate must be"),
        ({"drop_path_rate": 1.5}, ValueError, "drop_path_rate must be"),
        ({"attn_drop_rate": 2.0}, ValueError, "attn_drop_rate must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
    with pytest.raises(error, match=message):
        VisionTransformer(**{**small, **arguments})


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.randn(3, 32, 32), ValueError, "images must have 4 dimensions"),
        (torch.randn(1, 1, 32, 32), ValueError, "images must have 3 channels .in_chans., got 1"),
        (torch.randn(1, 3, 32, 40), ValueError, "images must be 32×32 .*got 32×40"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "floating point, got.*uint8"),
        ([[0.0]], TypeError, "images must be a tensor, got list"),
    ],
)
def test_wrong_images_are_named(images, error, message):
    model = VisionTransformer(32, 8, embed_dim=48, depth=1, num_heads=3)
    with pytest.raises(error, match=message):
        model(images)


def test_dynamic_size_still_needs_whole_patches():
    model = VisionTransformer(32, 8, embed_dim=48, depth=1, num_heads=3, dynamic_img_size=True)
    for size in ((32, 36), (0, 32)):
        with pytest.raises(ValueError, match="images must be whole patches of 8×8"):
            model(torch.randn(1, 3, *size))
