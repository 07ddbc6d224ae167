"""Patched models of other libraries beside what else people do to models."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import weight_norm as old_weight_norm

import vitkern
from tests import needs
from tests.patching import zoo
from tests.patching.families import FAMILIES, hf
from tests.patching.test_families import build, run
from vitkern._library import load
from vitkern.bench.coverage import count_products

GAINS = None if load().available else "eager"  # without kernels None patches nothing
PATCHED = ("hf-vit", "eva", "torch-pre-norm-masked", "torchvision-swin", "swin-v2")


class LowRank(nn.Module):
    """LoRA: Hu et al., 2021 (arXiv 2106.09685), as libraries wrap it around a Linear."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer, and what was learned beside it."""
        y: torch.Tensor = self.base_layer(x) + 2.0 * self.up(self.down(x))
        return y


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2.0 * weight


def linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Linears in attentions and MLPs: parent, name, layer."""
    return [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if type(child) is nn.Linear and not isinstance(parent, nn.Sequential)
    ]


def _lora(model: nn.Module) -> None:
    for parent, name, layer in linears(model):
        if name in ("q_proj", "v_proj", "fc1", "fc1_x", "linear1"):
            setattr(parent, name, LowRank(layer))


def _each(change: Callable[[nn.Linear], object]) -> Callable[[nn.Module], None]:
    def apply(model: nn.Module) -> None:
        for _, name, layer in linears(model):
            if name in ("o_proj", "proj", "fc2", "linear2"):
                change(layer)

    return apply


def _freeze(model: nn.Module) -> None:
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "LoRA": _lora,
    "weight norm": _each(lambda layer: parametrizations.weight_norm(layer)),
    "weight norm with hooks": _each(lambda layer: old_weight_norm(layer)),
    "parametrized": _each(lambda m: parametrize.register_parametrization(m, "weight", Doubled())),
    "spectral norm": _each(lambda layer: parametrizations.spectral_norm(layer)),
    "pruned": _each(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    "frozen": lambda model: (
        [p.requires_grad_(False) for p in list(model.parameters())[::2]] and None
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["hf-vit", "eva", "torch-pre-norm-masked"])
def test_changed_linears_are_honoured(name: str, change: str, when: str) -> None:
    model, x = build(name, torch.float64)
    plain = copy.deepcopy(model)
    if when == "after":
        vitkern.patch(model, backend="eager")
        model(x)
    for one in (model, plain):
        torch.manual_seed(0)
        CHANGES[change](one)
    if when == "before":
        report = vitkern.patch(model, backend="eager")
        assert report.patched
    frozen = [key for key, value in plain.named_parameters() if not value.requires_grad]
    for one in (model, plain):
        one.requires_grad_()
    got, wanted = run(model, x), run(plain, x)
    zoo.assert_same(got, wanted)
    assert bool(frozen) == (change in ("LoRA", "frozen"))


@needs.library
def test_low_rank_attention_stays_on_kernels() -> None:
    model, x = build("hf-vit", torch.float32)
    vitkern.patch(model, backend="cpu")
    whole = count_products(lambda: model(x)).share
    vitkern.unpatch(model)
    _lora(model)
    report = vitkern.patch(model, backend="cpu")
    reasons = {entry.name: entry.why() for entry in report.skipped}
    assert all("fc1 is tests.LowRank, not torch.Linear" in why for why in reasons.values())
    assert len(reasons) == 2  # the two MLPs, whose Linears are patched by themselves
    assert count_products(lambda: model(x)).share == pytest.approx(whole, abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_quantized_linears_compute_as_they_did() -> None:
    pytest.importorskip("torch.ao.quantization")
    model, x = build("hf-vit", torch.float32)
    try:
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    # PyTorch is about to remove it, and builds for some processors have no engine for it.
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        pytest.skip(f"no dynamic quantization here: {error}")
    with torch.no_grad():
        wanted = quantized(x)
        report = vitkern.patch(quantized)
        assert "fc1 is torch.ao" in str(report)
        torch.testing.assert_close(quantized(x), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PATCHED)
def test_functional_call_and_transforms(name: str) -> None:
    model, x = build(name, torch.float32)
    plain = copy.deepcopy(model)
    vitkern.patch(model, backend=GAINS)
    other = {key: 0.9 * value.detach() for key, value in model.named_parameters()}
    call = torch.func.functional_call

    def loss(which: nn.Module) -> Callable[[Any], torch.Tensor]:
        return lambda parameters: call(which, parameters, (x,)).square().mean()

    torch.testing.assert_close(call(model, other, (x,)), call(plain, other, (x,)))
    with pytest.warns(UserWarning, match=r"torch\.func"):
        got = torch.func.grad(loss(model))(other)
    wanted = torch.func.grad(loss(plain))(other)
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:vitkern")
@pytest.mark.parametrize("name", ["hf-vit", "eva", "torchvision-vit"])
def test_vmap_and_forward_gradients(name: str) -> None:
    model, x = build(name, torch.float32)
    plain = copy.deepcopy(model)
    vitkern.patch(model, backend=GAINS)
    batches = torch.stack([x, -x])
    got, wanted = (torch.func.vmap(one)(batches) for one in (model, plain))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    if name != "torchvision-vit":
        with sdpa_kernel(SDPBackend.MATH):  # which alone has forward gradients
            results = [
                torch.func.jvp(one, (x,), (torch.ones_like(x),))[1] for one in (model, plain)
            ]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PATCHED)
def test_copies_and_pickles_are_patched(name: str) -> None:
    model, x = build(name, torch.float64)
    wanted = model(x)
    vitkern.patch(model, backend="eager")
    copied = copy.deepcopy(model)
    stored = pickle.loads(pickle.dumps(model))
    state = io.BytesIO()
    torch.save(model.state_dict(), state)
    del model
    for one in (copied, stored):
        assert any("forward" in module.__dict__ for module in one.modules())
        torch.testing.assert_close(one(x), wanted, rtol=0, atol=1e-10)
        vitkern.unpatch(one)
        assert not any("forward" in module.__dict__ for module in one.modules())


def test_hooks_on_children_and_on_the_module_fire() -> None:
    model, x = build("hf-vit", torch.float64)
    vitkern.patch(model, backend="eager")
    layer: Any = model.model.model.vit.layers[0]
    seen = []
    for key in ("attention", "attention.q_proj", "attention.o_proj", "mlp", "mlp.fc1"):
        layer.get_submodule(key).register_forward_hook(lambda m, a, out, k=key: seen.append(k))
    model(x)
    assert seen == ["attention.q_proj", "attention.o_proj", "attention", "mlp.fc1", "mlp"]


def test_hooks_in_an_encoder_layer_fire_and_count() -> None:
    model, x = build("torch-pre-norm-masked", torch.float64)
    plain = copy.deepcopy(model)
    vitkern.patch(model, backend="eager")
    seen = []
    for one in (model, plain):
        encoder: Any = one.get_submodule("model.encoder")
        encoder.linear1.register_forward_hook(lambda m, a, y: seen.append(m) or 2 * y)
        encoder.norm1.register_forward_pre_hook(lambda m, a: (a[0] + 1,))
    zoo.assert_same(run(model, x), run(plain, x))
    assert len(seen) == 2


def test_dropout_in_an_encoder_layer_is_as_it_was() -> None:
    model, x = build("torch-post-norm", torch.float64)
    plain = copy.deepcopy(model)
    vitkern.patch(model, backend="eager")
    for one in (model, plain):
        one.train()
        for module in one.modules():
            if type(module) is nn.MultiheadAttention:
                module.dropout = 0.0  # inside attention, ops draw other numbers
    zoo.assert_same(zoo.run(model, x), zoo.run(plain, x))


def test_gradient_checkpointing_of_hugging_face() -> None:
    model, x = build("hf-vit", torch.float64)
    plain = copy.deepcopy(model)
    vitkern.patch(model, backend="eager")
    for one in (model, plain):
        inner: Any = one.model.model
        inner.gradient_checkpointing_enable({"use_reentrant": False})
        one.train()
    zoo.assert_same(zoo.run(model, x), zoo.run(plain, x))


def test_attention_maps_and_hidden_states_of_hugging_face() -> None:
    model = hf("ViTConfig", "ViTModel", image_size=32, patch_size=8, hidden_size=48,
               num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
               attn_implementation="eager").double().eval()  # fmt: skip
    # Known to be a module only at run time.
    inner: Any = model.model  # type: ignore[union-attr]
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    wanted = inner(pixel_values=x, output_attentions=True, output_hidden_states=True)
    vitkern.patch(model, backend="eager")
    got = inner(pixel_values=x, output_attentions=True, output_hidden_states=True)
    assert len(got.attentions) == 2
    assert len(got.hidden_states) == 3
    for kind in ("attentions", "hidden_states"):
        for one, other in zip(getattr(got, kind), getattr(wanted, kind), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@needs.library
@pytest.mark.parametrize("name", PATCHED)
def test_autocast(name: str) -> None:
    model, x = build(name, torch.float32)
    plain = copy.deepcopy(model)
    vitkern.patch(model, backend="cpu")
    with torch.no_grad():
        exact = plain(x)
        with torch.autocast("cpu", torch.bfloat16):
            got, wanted = model(x), plain(x)
    assert got.dtype == wanted.dtype
    size = exact.abs().max()
    error, allowed = ((one.float() - exact).abs().max() / size for one in (got, wanted))
    assert error <= 2 * allowed + 0.01


@needs.library
@pytest.mark.parametrize("name", PATCHED)
def test_compiles_in_one_graph(name: str) -> None:
    model, x = build(name, torch.float32)
    vitkern.patch(model, backend="cpu")
    with torch.no_grad():
        wanted = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
        torch.testing.assert_close(compiled(x), wanted, rtol=1e-4, atol=1e-5)


@needs.library
def test_one_tensor_in_two_places_is_compiled_in_training() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True, dropout=0.0)
    x = torch.randn(2, 6, 24)
    vitkern.patch(layer, backend="cpu")
    parameters = list(layer.parameters())
    results = []
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    for call in (layer, compiled):
        y = call(x)
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), parameters)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@needs.library
@pytest.mark.parametrize("name", ["eva", "torchvision-swin"])
def test_exports(name: str) -> None:
    model, x = build(name, torch.float32)
    vitkern.patch(model, backend="cpu")
    with torch.no_grad():
        wanted = model(x)
        program = torch.export.export(model, (x,))
    assert "vitkern_cpu" in str(program.graph)
    torch.testing.assert_close(program.module()(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_of_an_encoder() -> None:
    layer = nn.TransformerEncoderLayer(24, 2, 40, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 6, 24)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    with torch.no_grad():
        wanted = model(x, src_key_padding_mask=padding)
        report = vitkern.patch(model, backend=GAINS)
        assert [entry.name for entry in report.patched] == ["layers.0", "layers.1"]
        torch.testing.assert_close(model(x, src_key_padding_mask=padding), wanted)


def test_rows_without_keys() -> None:
    """All keys of one image are padding: PyTorch's attention gives zeros for them, and so do we."""
    model, x = build("torch-cross", torch.float32)
    attention: Any = model.get_submodule("model.own")
    padding = torch.tensor([[True] * 6, [False] * 6])
    with torch.no_grad():
        wanted = attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        vitkern.patch(attention, backend="eager")
        got = attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(got, wanted)


def test_subclasses_are_left_alone_and_listed() -> None:
    # mypy takes no computed base class; the class differs between versions of transformers.
    class Mine(type(FAMILIES["hf-vit"].build().model.vit.layers[0].attention)):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            y, weights = super().forward(hidden_states, *args, **kwargs)
            return 2 * y, weights

    model, x = build("hf-vit", torch.float64)
    inner: Any = model.model.model
    mine = Mine(inner.config).double().eval()
    mine.load_state_dict(inner.vit.layers[0].attention.state_dict())
    inner.vit.layers[0].attention = mine
    wanted = model(x)
    report = vitkern.patch(model, backend="eager")
    (skipped,) = report.skipped
    assert skipped.name.endswith("layers.0.attention")
    assert "a subclass of transformers.ViTAttention may compute something else" in skipped.why()
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)


@needs.library
def test_bfloat16_and_int8_reach_the_mlps() -> None:
    model, x = build("hf-vit", torch.float32)
    with torch.inference_mode():
        exact = model(x)
        report = vitkern.patch(model, dtype=torch.bfloat16)
        notes = {entry.name.rpartition(".")[2]: entry.note for entry in report.patched}
        assert notes["attention"].startswith("keeps its dtype; ")
        assert "bfloat16" in notes["mlp"]
        rounded = model(x)
    error = ((rounded - exact).abs().max() / exact.abs().max()).item()
    assert 1e-5 < error < 0.05
    quantized = vitkern.quantize(model, [x, -x])
    names = {layer.name.rpartition(".")[2] for layer in quantized.quantized}
    assert names == {"fc1", "fc2"}
    with torch.inference_mode():
        error = ((model(x) - exact).abs().max() / exact.abs().max()).item()
    assert 1e-5 < error < 0.2
