"""AdaptiveViT: what an image costs follows what there is to see in it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitkern.models import AdaptiveViT, ComplexityEstimator, GatedSparseAttention, create_model
from vitkern.models.adaptive import AdaptiveMlp

SMALL = {"img_size": 64, "num_classes": 5, "embed_dim": 32, "depth": 2, "num_heads": 4}

TINY = {"embed_dim": 192, "depth": 6}
"""With as many channels as the smallest configuration has, so that the blocks cost the most."""


def small(**overrides) -> AdaptiveViT:
    torch.manual_seed(0)
    return AdaptiveViT(**{**SMALL, **overrides}).eval()


def images() -> torch.Tensor:
    """A pale disc, a part of a photograph, and noise: (3, 3, 64, 64), simple to complex."""
    line = torch.linspace(-1.7, 1.7, 64)
    disc = 0.5 * (line[:, None] ** 2 + line[None] ** 2 < 1).float()
    flower = torch.from_numpy(load_sample_images().images[1].copy()).permute(2, 0, 1) / 255
    part = ((flower - 0.45) / 0.225)[:, 40:104, 240:304]
    generator = torch.Generator().manual_seed(4)
    return torch.stack((disc.expand(3, 64, 64), part, torch.randn(3, 64, 64, generator=generator)))


def flops(run: Callable[[], object]) -> int:
    """Counted with attention as two products: the fused CPU kernel is not known to the counter."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
        run()
    return counter.get_total_flops()


def test_an_untrained_model_tells_simple_from_complex():
    model = small()
    scores = model.complexity(images())
    assert scores.shape == (3,)
    assert scores[0] < scores[1] < scores[2]
    assert model.choose(images()).tolist() == [0, 1, 2]


def test_simple_images_cost_less_one_by_one():
    model = small(**TINY)
    costs = [flops(lambda one=one: model(one[None])) for one in images()]
    assert 3 * costs[0] < costs[1]
    assert 3 * costs[1] < costs[2]
    estimating = flops(lambda: model.complexity(images()[:1]))
    assert estimating < 0.05 * costs[0]


def test_a_mixed_batch_costs_what_its_images_cost():
    model = small(**TINY)
    mixed = images()[[2, 0, 1, 0, 0]]
    alone = sum(flops(lambda one=one: model(one[None])) for one in mixed)
    assert flops(lambda: model(mixed)) == alone
    simple = mixed[[1, 3, 4]]
    assert flops(lambda: model(simple)) < 0.15 * alone


def test_a_mixed_batch_gives_what_its_images_give():
    model = small().double()
    mixed = images()[[2, 0, 1, 0, 2]].double()
    with torch.no_grad():
        alone = torch.cat([model(one[None]) for one in mixed])
        torch.testing.assert_close(model(mixed), alone, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(alone[0], alone[1])


def test_only_the_chosen_branches_run():
    model = small()
    ran: list[str] = []
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(images()[:1])
    assert any(name.startswith("patch_embeds.simple") for name in ran)
    assert "heads.simple" in ran
    for other in ("medium", "complex", "mlps.1", "mlps.2"):
        assert not [name for name in ran if other in name]
    ran.clear()
    model(images()[1:])
    assert not [name for name in ran if "simple" in name]
    assert [name for name in ran if "mlps.2" in name]


def test_routes_can_be_given():
    model = small()
    batch = images()
    with torch.no_grad():
        found = model(batch, routes=[2, 2, 0])
        torch.testing.assert_close(found[:2], model.forward_route(batch[:2], 2))
        torch.testing.assert_close(found[2:], model.forward_route(batch[2:], 0))
        torch.testing.assert_close(model.train()(batch, routes=torch.tensor([2, 2, 0])), found)


def test_training_mixes_the_routes_by_their_probabilities():
    model = small().train()
    batch = images()
    logits, probabilities = model.forward_routes(batch)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    assert probabilities.argmax(1).tolist() == model.choose(batch).tolist()
    expected = sum(probabilities[:, r : r + 1] * model.forward_route(batch, r) for r in range(3))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(model(batch), logits)


def test_every_parameter_learns():
    model = small(drop_rate=0.1, proj_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1)
    model.train()
    loss = nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2]))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("k_proj.bias"):  # it moves all scores of a query alike
            assert parameter.grad.any(), name


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_flat_images_give_no_nan(value):
    model = small().train()
    batch = torch.full((2, 3, 64, 64), value)
    model(batch).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(batch).isfinite().all()


def test_a_price_on_cost_makes_routes_cheaper():
    model = small()
    batch = images()[2:].repeat(4, 1, 1, 1)
    optimizer = torch.optim.AdamW(model.estimator.parameters(), lr=0.02)
    before = model.complexity(batch).mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        (model.route_probabilities(batch) @ model.relative_costs()).mean().backward()
        optimizer.step()
    assert model.choose(batch).tolist() == [0] * 4
    assert model.complexity(batch).mean().item() < before


def test_it_learns_to_tell_images_apart():
    model = small().train()
    batch, labels = images(), torch.tensor([3, 1, 4])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    assert model.eval()(batch).argmax(1).tolist() == labels.tolist()


def test_relative_costs_are_those_of_the_blocks():
    model = small(img_size=96, keep_ratios=(0.3, 0.6, 0.9))
    counted = []
    for route in model.routes:
        tokens = torch.randn(1, 1 + model.patch_embeds[route.name].num_patches, 32)
        block = model.blocks[0]
        counted.append(flops(lambda t=tokens, b=block, r=route: b(t, r.keep_ratio, r.mlp_depth)))
    assert counted == [2 * model._block_cost(route) for route in model.routes]
    expected = [count / counted[2] for count in counted]
    assert model.relative_costs().tolist() == pytest.approx(expected)


def test_sobel_survives_initialisation_and_training():
    model = small().train()
    across = [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]
    expected = torch.tensor([across, torch.tensor(across).T.tolist()])[:, None] / 8
    assert torch.equal(model.estimator.sobel, expected)
    assert "estimator.sobel" in model.state_dict()
    assert "estimator.sobel" not in dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(images()).sum().backward()
    optimizer.step()
    assert torch.equal(model.estimator.sobel, expected)


def test_edges_and_texture_of_known_images():
    estimator = ComplexityEstimator(1)
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    assert estimator._edges(ramp).item() == pytest.approx(1.0)
    assert estimator._edges(3 * ramp.transpose(2, 3)).item() == pytest.approx(3.0)
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    stripes = 2.0 * checks[None, None] - 1
    assert estimator._texture(stripes).item() == pytest.approx(1.0)
    assert estimator._edges(stripes).item() == pytest.approx(0.0, abs=1e-5)


def test_gated_attention_keeps_the_tokens_with_the_highest_gates():
    attention = GatedSparseAttention(8, 2).eval()
    x = torch.randn(1, 9, 8)
    gates = attention.gate(x[:, 1:]).flatten()
    lowest = 1 + gates.argsort()[:4]
    changed = x.clone()
    changed[:, lowest] = 0.9 * changed[:, lowest]  # still among the lowest
    rest = [i for i in range(9) if i not in lowest.tolist()]
    assert set((1 + attention.gate(changed[:, 1:]).flatten().argsort()[:4]).tolist()) == set(
        lowest.tolist()
    )
    with torch.no_grad():
        sparse, again = attention(x, 0.5), attention(changed, 0.5)
        torch.testing.assert_close(sparse[:, rest], again[:, rest])
        assert not torch.allclose(attention(x)[:, rest], attention(changed)[:, rest])


def test_gated_attention_with_open_gates_is_attention():
    attention = GatedSparseAttention(8, 2).eval()
    nn.init.zeros_(attention.gate.weight)
    nn.init.constant_(attention.gate.bias, 50.0)
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        names = ("q_proj", "k_proj", "v_proj")
        reference.in_proj_weight.copy_(torch.cat([getattr(attention, n).weight for n in names]))
        reference.in_proj_bias.copy_(torch.cat([getattr(attention, n).bias for n in names]))
        reference.out_proj.load_state_dict(attention.proj.state_dict())
        x = torch.randn(2, 7, 8)
        torch.testing.assert_close(attention(x), reference(x, x, x)[0])


def test_the_mlp_runs_as_deep_as_asked():
    mlp = AdaptiveMlp(8, 16, 3).eval()
    assert mlp.hidden_dims == [6, 5, 5]
    x = torch.randn(2, 8)
    first = x + mlp.mlps[0](mlp.norms[0](x))
    torch.testing.assert_close(mlp(x, 1), first)
    torch.testing.assert_close(mlp(x, 2), first + mlp.mlps[1](mlp.norms[1](first)))
    torch.testing.assert_close(mlp(x), mlp(x, 3))


def test_the_satellite_configuration():
    with torch.device("meta"):
        model = create_model("adaptive_vit_satellite")
    assert (model.embed_dim, len(model.blocks), model.num_classes) == (1024, 20, 50)
    assert model.blocks[0].attn.num_heads == 16
    assert [route.patch_size for route in model.routes] == [32, 16, 8]


def test_an_empty_batch_and_one_route_compile():
    model = small()
    assert model(torch.empty(0, 3, 64, 64)).shape == (0, 5)
    compiled = torch.compile(
        lambda x: model.forward_route(x, 1), fullgraph=True, backend="aot_eager"
    )
    with torch.no_grad():
        batch = images()
        torch.testing.assert_close(compiled(batch), model.forward_route(batch, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"img_size": 48}, ValueError, "img_size must be whole patches of 32×32"),
        ({"patch_sizes": (8, 16)}, ValueError, "patch_sizes must have one entry each"),
        ({"patch_sizes": (8, 16, 0)}, ValueError, r"patch_sizes\[2\] must be at least 1"),
        ({"keep_ratios": (0.0, 0.5, 1.0)}, ValueError, r"keep_ratios\[0\] must be above 0"),
        ({"keep_ratios": (0.5,)}, ValueError, "keep_ratios must have one entry each"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"num_heads": 5}, ValueError, "embed_dim must be a multiple of num_heads"),
        ({"temperature": 0.0}, ValueError, "temperature must be above 0"),
        ({"drop_rate": 1.0}, ValueError, "drop_rate must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        small(**arguments)


def test_wrong_inputs_are_named():
    model = small()
    with pytest.raises(ValueError, match="images must have 3 channels"):
        model(torch.randn(1, 1, 64, 64))
    with pytest.raises(ValueError, match="images must be 64×64"):
        model(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="routes must be an int from 0 to 2 for each of 2"):
        model(torch.randn(2, 3, 64, 64), routes=[0])
    with pytest.raises(ValueError, match="routes must be an int from 0 to 2"):
        model(torch.randn(2, 3, 64, 64), routes=[0, 3])
    with pytest.raises(TypeError, match=r"routes must be ints, got torch.float32"):
        model(torch.randn(2, 3, 64, 64), routes=[0.0, 1.0])
    with pytest.raises(ValueError, match="images must be at least 8×8, got 4×64"):
        ComplexityEstimator()(torch.randn(1, 3, 4, 64))
    with pytest.raises(ValueError, match="keep_ratio must be above 0 and at most 1, got 0"):
        GatedSparseAttention(8, 2)(torch.randn(1, 3, 8), 0.0)
    with pytest.raises(ValueError, match="depth must be from 1 to 3, got 4"):
        AdaptiveMlp(8, 16, 3)(torch.randn(2, 8), 4)
    assert math.isfinite(model(images()).sum().item())
