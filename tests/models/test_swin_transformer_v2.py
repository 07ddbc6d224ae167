"""SwinTransformerV2 against timm's, and by itself."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from vitkern.models import PatchMergingV2, SwinBlockV2, SwinTransformerV2, WindowAttentionV2
from vitkern.models.window_attention_v2 import log_spaced_offsets

TINY = {
    "img_size": 32,
    "embed_dim": 16,
    "depths": (2, 1),
    "num_heads": (2, 4),
    "window_size": 4,
    "num_classes": 3,
}


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64, 64), {"window_size": 8}),
        ((56, 112), {"window_size": 7}),  # the last stages' maps are no larger than a window
        ((112, 56), {"window_size": (7, 3)}),
        ((80, 120), {"window_size": 7}),  # maps that the window does not divide
        ((36, 52), {"window_size": (4, 3)}),  # odd maps at patch merging
        ((60, 44), {"window_size": 4, "always_partition": True}),
        ((32, 32), {"window_size": 12}),  # windows larger than every map
        ((64, 64), {"window_size": 1}),
        ((64, 64), {"window_size": 8, "pretrained_window_sizes": (4, 4, 4, 2)}),
        ((64, 64), {"qkv_bias": False, "mlp_ratio": 1.5, "num_classes": 0}),
        ((64, 64), {"num_classes": 0, "global_pool": ""}),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, tuple) else None,
)
def test_matches_timm(swinv2_pair, assert_same_outputs, size, options):
    assert_same_outputs(swinv2_pair(img_size=size, **options), *size)


@pytest.mark.parametrize("size", [(56, 56), (64, 92), (28, 28)])
def test_dynamic_image_size_matches_timm(swinv2_pair, assert_same_outputs, size):
    assert_same_outputs(swinv2_pair(img_size=(64, 128), dynamic_img_size=True), *size)


def test_photographs_match_timm(swinv2_pair):
    ours, theirs = swinv2_pair(img_size=(96, 128), window_size=8)
    images = torch.stack([torch.from_numpy(i.copy()) for i in load_sample_images().images])
    images = nn.functional.interpolate(images.permute(0, 3, 1, 2).double() / 255, (96, 128))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.double()(images), theirs.double()(images), rtol=1e-9, atol=1e-9
        )


def test_gradients_match_timm(swinv2_pair, assert_same_training_step):
    pair = swinv2_pair(
        img_size=(60, 44), window_size=4, depths=(2, 2), num_heads=(2, 4), drop_path_rate=0.0
    )
    assert_same_training_step(pair, 60, 44)


def test_dropout_and_drop_path_match_timm_under_a_seed(swinv2_pair, assert_same_training_step):
    pair = swinv2_pair(
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


def test_scales_stop_at_a_hundred(swinv2_pair, assert_same_outputs):
    pair = swinv2_pair(img_size=32, window_size=4)
    for model in pair:
        for name, parameter in model.named_parameters():
            if name.endswith("logit_scale"):
                parameter.data.fill_(6.0)  # exp(6) = 403
    assert_same_outputs(pair, 32, 32)
    assert pair[0].layers[0].blocks[0].attn.scale().max().item() == pytest.approx(100.0)


def counted(attention: WindowAttentionV2) -> list[int]:
    """Grows by one at every run of the position bias's network."""
    runs: list[int] = []
    attention.cpb_mlp.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_the_bias_is_computed_once_for_inference():
    attention = WindowAttentionV2(8, 2, 3).eval()
    runs = counted(attention)
    with torch.inference_mode():
        first = attention.relative_position_bias()
        assert attention.relative_position_bias() is first
    with torch.no_grad():
        assert attention.relative_position_bias() is first
    assert len(runs) == 1
    assert not first.is_inference()
    for _ in range(2):
        attention.relative_position_bias().sum().backward()  # a gradient is wanted
    assert len(runs) == 3
    assert attention.cpb_mlp[0].weight.grad is not None


def test_the_bias_follows_its_parameters():
    attention = WindowAttentionV2(8, 2, 3).eval()

    def check() -> torch.Tensor:
        with torch.no_grad():
            kept = attention.relative_position_bias()
        torch.testing.assert_close(kept, attention.relative_position_bias().detach())
        return kept

    first = check()
    with torch.no_grad():
        attention.cpb_mlp[2].weight.mul_(-2.0)
    second = check()
    assert not torch.equal(first, second)
    attention.load_state_dict(WindowAttentionV2(8, 2, 3).state_dict())
    third = check()
    assert not torch.equal(second, third)
    optimizer = torch.optim.SGD(attention.parameters(), lr=1.0)
    attention.relative_position_bias().sum().backward()
    optimizer.step()
    assert not torch.equal(third, check())
    attention.cpb_mlp[0].bias = nn.Parameter(torch.ones(512))
    check()
    assert attention.double() is attention
    assert check().dtype == torch.float64
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert attention.float().relative_position_bias().dtype == torch.bfloat16
    assert check().dtype == torch.float32


def test_the_bias_does_not_leak_from_transforms_and_copies():
    attention = WindowAttentionV2(8, 2, 3).eval()
    with torch.no_grad():
        own = attention.relative_position_bias()
        other = {name: 2 * value for name, value in attention.named_parameters()}
        x = torch.randn(1, 9, 8)
        swapped = torch.func.functional_call(attention, other, (x,))
        assert not torch.equal(swapped, attention(x))
        assert attention.relative_position_bias() is own
        stacked = {name: torch.stack((v, 2 * v)) for name, v in attention.named_parameters()}
        both = torch.vmap(lambda p: torch.func.functional_call(attention, p, (x,)))(stacked)
        torch.testing.assert_close(both[1], swapped)
        copied = copy.deepcopy(attention)
        copied.cpb_mlp[2].weight.data.zero_()
        assert torch.equal(copied.relative_position_bias(), torch.full((2, 9, 9), 8.0))
    file = io.BytesIO()
    torch.save(attention, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(loaded(x), attention(x))


def test_offsets_are_spaced_logarithmically():
    cpu = torch.device("cpu")
    offsets = log_spaced_offsets((3, 5), (0, 0), cpu, torch.float32).reshape(5, 9, 2)
    assert offsets[0, 0].tolist() == pytest.approx([-math.log(9, 8), -math.log(9, 8)])
    assert offsets[2, 4].tolist() == [0.0, 0.0]
    assert offsets[3, 5].tolist() == pytest.approx([math.log(5, 8), math.log(3, 8)])
    wider = log_spaced_offsets((5, 5), (3, 3), cpu, torch.float32).reshape(9, 9, 2)
    assert wider[-1, -1, 0].item() == pytest.approx(math.log(17, 8))
    assert log_spaced_offsets((1, 1), (0, 0), cpu, torch.float32).tolist() == [[0.0, 0.0]]


def test_structure_that_adapters_read():
    model = SwinTransformerV2(**{**TINY, "window_size": (4, 8)})
    block = model.layers[0].blocks[1]
    assert type(block) is SwinBlockV2
    names = ["attn", "norm1", "drop_path1", "mlp", "norm2", "drop_path2"]
    assert [name for name, _ in block.named_children()] == names
    assert (block.window_size, block.shift_size) == ((4, 8), (2, 0))
    assert type(block.attn) is WindowAttentionV2
    assert type(model.layers[1].downsample) is PatchMergingV2
    assert not list(model.buffers())
    assert not block.norm1.weight.any()


def test_an_empty_batch_gives_no_logits():
    assert SwinTransformerV2(**TINY)(torch.empty(0, 3, 32, 32)).shape == (0, 3)


def test_compiles_without_a_graph_break():
    model = SwinTransformerV2(**TINY).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 32, 32)
    logits = compiled(images)
    torch.testing.assert_close(logits, model(images))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_exports():
    model = SwinTransformerV2(**TINY).eval()
    images = torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_heads": (3, 4)}, ValueError, r"num_heads\[0\] must divide .*= 16\), got 3"),
        ({"depths": (2,)}, ValueError, "depths and num_heads must have one int a stage"),
        ({"window_size": 0}, ValueError, "window_size must be at least 1"),
        ({"pretrained_window_sizes": (2,)}, ValueError, "one int for each of 2 stages, got .2,."),
        ({"pretrained_window_sizes": (2, -1)}, ValueError, "pretrained_window_size must be at"),
        ({"global_pool": "token"}, ValueError, "global_pool must be one of 'avg', ''"),
        ({"drop_path_rate": 1.0}, ValueError, "drop_path_rate must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        SwinTransformerV2(**{**TINY, **arguments})


def test_wrong_feature_maps_are_named():
    with pytest.raises(ValueError, match="shift_size must be less than window_size"):
        SwinBlockV2(16, 2, window_size=4, shift_size=(2, 4))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, height, width, 16\)"):
        PatchMergingV2(16)(torch.randn(1, 16, 4, 4))
    attention = WindowAttentionV2(16, 2, (2, 3))
    with pytest.raises(ValueError, match="x must hold windows of 2×3 tokens, got 4"):
        attention(torch.randn(1, 4, 16))
    with pytest.raises(ValueError, match=r"mask must have shape \(windows, 6, 6\)"):
        attention(torch.randn(3, 6, 16), torch.zeros(2, 6, 6))
