"""SwinTransformer against timm's, and by itself."""

from __future__ import annotations

import pytest
import torch

from vitkern.models import PatchMerging, SwinBlock, SwinTransformer, WindowAttention
from vitkern.models.window_attention import (
    relative_position_index,
    shifted_window_mask,
    window_partition,
    window_reverse,
)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((224, 224), {"depths": (2, 2, 2, 2)}),
        ((56, 112), {"window_size": 7}),  # the last stages' maps are no larger than a window
        ((112, 56), {"window_size": (7, 3)}),
        ((80, 120), {"window_size": 7}),  # maps that the window does not divide
        ((36, 52), {"window_size": (4, 3)}),  # odd maps at patch merging
        ((60, 44), {"window_size": 4, "always_partition": True}),
        ((32, 32), {"window_size": 12}),  # windows larger than every map
        ((32, 32), {"window_size": 12, "always_partition": True}),
        ((64, 64), {"window_size": 1}),
        ((64, 96), {"depths": (1, 3), "num_heads": (2, 4), "window_size": (2, 8)}),
        ((64, 64), {"qkv_bias": False, "mlp_ratio": 1.5, "num_classes": 0}),
        ((64, 64), {"num_classes": 0, "global_pool": ""}),
        ((64, 64), {"patch_size": (2, 8)}),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, tuple) else None,
)
def test_matches_timm(swin_pair, assert_same_outputs, size, options):
    assert_same_outputs(swin_pair(img_size=size, **options), *size)


@pytest.mark.parametrize("size", [(56, 56), (64, 92), (28, 28), (100, 36), (4, 4)])
def test_dynamic_image_size_matches_timm(swin_pair, assert_same_outputs, size):
    assert_same_outputs(swin_pair(img_size=(64, 128), dynamic_img_size=True), *size)


def test_one_model_takes_many_sizes(swin_pair, assert_same_outputs):
    pair = swin_pair(img_size=96, window_size=3, dynamic_img_size=True)
    for size in ((96, 96), (40, 60), (96, 96), (40, 60)):
        assert_same_outputs(pair, *size)


def test_gradients_match_timm(swin_pair, assert_same_training_step):
    pair = swin_pair(
        img_size=(60, 44), window_size=4, depths=(2, 2), num_heads=(2, 4), drop_path_rate=0.0
    )
    assert_same_training_step(pair, 60, 44)


def test_dropout_and_drop_path_match_timm_under_a_seed(swin_pair, assert_same_training_step):
    pair = swin_pair(
        img_size=32,
        window_size=4,
        depths=(1, 2),
        num_heads=(2, 4),
        drop_rate=0.1,
        proj_drop_rate=0.1,
        attn_drop_rate=0.1,
        drop_path_rate=0.5,
    )
    assert_same_training_step(pair, 32, 32)


def test_training_mode_is_random_but_repeats_under_a_seed():
    model = SwinTransformer(
        32, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, drop_path_rate=0.5
    )
    images = torch.randn(8, 3, 32, 32)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(images)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    model.eval()
    assert torch.equal(run(0), run(1))


def test_drop_path_rates_rise_linearly_over_all_stages():
    model = SwinTransformer(
        32, embed_dim=16, depths=(1, 2, 2), num_heads=(1, 2, 4), drop_path_rate=0.4
    )
    rates = [
        getattr(block.drop_path2, "drop_prob", 0.0)
        for stage in model.layers
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_features_are_channels_last():
    model = SwinTransformer(64, embed_dim=16, depths=(1, 1, 1), num_heads=(1, 2, 4))
    assert model.forward_features(torch.randn(2, 3, 64, 64)).shape == (2, 4, 4, 64)
    assert model.num_features == 64


def test_no_pooling_gives_logits_everywhere():
    model = SwinTransformer(
        32, num_classes=5, embed_dim=16, depths=(1, 1), num_heads=(1, 2), global_pool=""
    )
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4, 4, 5)


def test_structure_that_adapters_read():
    model = SwinTransformer(64, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=(4, 16))
    block = model.layers[0].blocks[1]
    assert type(block) is SwinBlock
    names = ["norm1", "attn", "drop_path1", "norm2", "mlp", "drop_path2"]
    assert [name for name, _ in block.named_children()] == names
    assert (block.window_size, block.shift_size) == ((4, 16), (2, 0))
    assert model.layers[0].blocks[0].shift_size == (0, 0)
    attention = block.attn
    assert type(attention) is WindowAttention
    names = ["qkv", "attn_drop", "proj", "proj_drop"]
    assert [name for name, _ in attention.named_children()] == names
    assert (attention.num_heads, attention.window_size) == (2, (4, 16))
    assert attention.scale == 8**-0.5
    assert attention.relative_position_bias_table.shape == (7 * 31, 2)
    assert type(model.layers[1].downsample) is PatchMerging
    assert block.norm1.eps == model.norm.eps == 1e-5
    assert not list(model.buffers())


def test_the_shift_mask_keeps_opposite_edges_apart():
    mask = shifted_window_mask(4, 4, (2, 2), (1, 1), torch.device("cpu"), torch.float32)
    assert mask.shape == (4, 4, 4)
    assert not mask[0].any()  # far from the edges
    rows_wrap = mask[2]  # bottom left: the tokens of the second row came from the top
    assert rows_wrap[0].tolist() == [0.0, 0.0, -100.0, -100.0]
    corner = mask[3]  # bottom right: four tokens from four corners
    assert torch.equal(corner, -100.0 * (1 - torch.eye(4)))


def test_constants_are_built_once_for_each_size():
    cpu = torch.device("cpu")
    with torch.inference_mode():
        first = shifted_window_mask(10, 15, (5, 5), (2, 2), cpu, torch.float32)
    assert not first.is_inference()
    assert shifted_window_mask(10, 15, (5, 5), (2, 2), cpu, torch.float32) is first
    assert shifted_window_mask(15, 10, (5, 5), (2, 2), cpu, torch.float32) is not first
    assert relative_position_index((5, 5), cpu) is relative_position_index((5, 5), cpu)


def test_constants_from_a_fake_model_are_not_kept():
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = SwinTransformer(44, embed_dim=8, depths=(2,), num_heads=(2,), window_size=5)
    images = torch.randn(1, 3, 44, 44)
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(value) for name, value in model.named_parameters()}
        logits = torch.func.functional_call(model, fake, (mode.from_tensor(images),))
    assert type(logits) is not torch.Tensor
    assert type(model(images)) is torch.Tensor


def test_relative_positions_number_every_offset():
    index = relative_position_index((2, 3), torch.device("cpu"))
    assert index.shape == (6, 6)
    assert set(index.flatten().tolist()) == set(range(3 * 5))
    assert index.diagonal().unique().tolist() == [7]


def test_windows_come_apart_and_together():
    x = torch.randn(2, 6, 8, 3)
    windows = window_partition(x, (3, 4))
    assert windows.shape == (8, 12, 3)
    assert torch.equal(windows[1], x[0, :3, 4:].reshape(12, 3))
    assert torch.equal(window_reverse(windows, (3, 4), 6, 8), x)


def test_an_empty_batch_gives_no_logits():
    model = SwinTransformer(44, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)
    assert model(torch.empty(0, 3, 44, 44)).shape == (0, 1000)


def test_compiles_without_a_graph_break():
    model = SwinTransformer(
        32, embed_dim=16, depths=(2, 1), num_heads=(2, 4), window_size=3, dynamic_img_size=True
    ).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 20, 28)
    logits = compiled(images)
    torch.testing.assert_close(logits, model(images))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_heads": (3, 4)}, ValueError, r"num_heads\[0\] must divide .*= 16\), got 3"),
        ({"num_heads": (2, 5)}, ValueError, r"num_heads\[1\] must divide .*= 32\), got 5"),
        ({"num_heads": (2,)}, ValueError, "depths and num_heads must have one int a stage"),
        ({"num_heads": 2}, TypeError, "num_heads must be a sequence of ints"),
        ({"depths": (), "num_heads": ()}, ValueError, "one int a stage"),
        ({"depths": (2, 0)}, ValueError, r"depths\[1\] must be at least 1"),
        ({"embed_dim": 0}, ValueError, "embed_dim must be at least 1"),
        ({"window_size": 0}, ValueError, "window_size must be at least 1"),
        ({"window_size": "7"}, TypeError, "window_size must be an int or a"),
        ({"global_pool": "token"}, ValueError, "global_pool must be one of 'avg', ''"),
        ({"img_size": 33}, ValueError, "img_size must be whole patches of 4×4"),
        ({"num_classes": -1}, ValueError, "num_classes must be at least 0"),
        ({"drop_rate": -1.0}, ValueError, "drop_rate must be"),
        ({"drop_path_rate": 1.0}, ValueError, "drop_path_rate must be"),
        ({"mlp_ratio": -1.0}, ValueError, "mlp_ratio must be above 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    small = {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4)}
    with pytest.raises(error, match=message):
        SwinTransformer(**{**small, **arguments})


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.randn(3, 32, 32), ValueError, "images must have 4 dimensions"),
        (torch.randn(1, 4, 32, 32), ValueError, "images must have 3 channels .in_chans., got 4"),
        (torch.randn(1, 3, 64, 64), ValueError, "images must be 32×32 .*got 64×64"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.long), TypeError, "floating point, got.*int64"),
    ],
)
def test_wrong_images_are_named(images, error, message):
    model = SwinTransformer(32, embed_dim=16, depths=(1,), num_heads=(2,))
    with pytest.raises(error, match=message):
        model(images)


def test_wrong_feature_maps_are_named():
    with pytest.raises(ValueError, match="shift_size must be less than window_size"):
        SwinBlock(16, 2, window_size=4, shift_size=(2, 4))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, height, width, 16\)"):
        SwinBlock(16, 2)(torch.randn(1, 49, 16))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, height, width, 16\)"):
        PatchMerging(16)(torch.randn(1, 16, 4, 4))
    attention = WindowAttention(16, 2, (2, 3))
    with pytest.raises(ValueError, match="x must hold windows of 2×3 tokens, got 4"):
        attention(torch.randn(1, 4, 16))
    with pytest.raises(ValueError, match=r"mask must have shape \(windows, 6, 6\)"):
        attention(torch.randn(3, 6, 16), torch.zeros(2, 6, 6))
