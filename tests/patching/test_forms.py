"""Products in bfloat16 or int8: what is computed, what undoes it, what it follows."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitkern
from tests import needs
from tests.patching import zoo
from tests.patching.test_changes import EDITS
from vitkern.ops import _cpu
from vitkern.ops.weights import Bfloat16Weight, Int8Weight
from vitkern.patching import forms
from vitkern.patching.api import give_form
from vitkern.patching.plan import Product

NAMES = ("vit-layer-scale", "vit-qk-norm", "vit-scale-norms", "swin", "our-vit", "our-swin")
PARTS = ("attn", "mlp", "downsample")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def converted_layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The Linears of blocks and patch mergings, found by their names."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part in name.split(".") for part in PARTS)
    ]


def patch(model: nn.Module, kind: str, backend: str | None = "eager") -> vitkern.PatchReport:
    if kind == "bfloat16":
        return vitkern.patch(model, dtype=torch.bfloat16, backend=backend)
    report = vitkern.patch(model, backend=backend)
    for name, layer in converted_layers(model):
        give_form(Product(name, layer, Int8Weight(layer.weight), None), backend)
    return report


def rounded(layer: nn.Linear, kind: str) -> Any:
    """A layer's forward in the form, written out."""

    def bfloat16(x: torch.Tensor) -> torch.Tensor:
        weight = layer.weight.bfloat16().float()
        return F.linear(x.bfloat16().float(), weight, layer.bias)

    def int8(x: torch.Tensor) -> torch.Tensor:
        return Int8Weight(layer.weight.detach()).product(x, layer.bias)

    return {"bfloat16": bfloat16, "int8": int8}[kind]


def reference(model: nn.Module, kind: str) -> nn.Module:
    """A copy, not patched, whose Linears compute in the form."""
    plain = zoo.twin(model)
    vitkern.unpatch(plain)
    for _, layer in converted_layers(plain):
        layer.forward = rounded(layer, kind)
    return plain


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    return zoo.build(name, torch.float32), zoo.images(name, torch.float32)


def infer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        y: torch.Tensor = model(x)
    return y


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_products_are_computed_in_the_form(name: str, kind: str) -> None:
    model, x = build(name)
    plain = infer(model, x)
    patch(model, kind)
    assert [forms.form_of(layer).form for _, layer in converted_layers(model)] == [
        kind for _ in converted_layers(model)
    ]
    got, wanted = infer(model, x), infer(reference(model, kind), x)
    assert got.dtype == torch.float32
    error = (plain - wanted).norm() / plain.norm()
    assert 1e-4 < error < 0.1  # the form is visible
    # A value on the edge between two integers may go to either side.
    assert (got - wanted).norm() / wanted.norm() < (1e-5 if kind == "bfloat16" else 0.2 * error)


@needs.library
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_compute_what_eager_does(name: str, kind: str) -> None:
    model, x = build(name)
    plain = infer(model, x)
    patch(model, kind, "cpu")
    got = infer(model, x)
    patch(model, kind, "eager")
    wanted = infer(model, x)
    error = (wanted - plain).norm()
    assert not torch.equal(got, plain)
    # Values on the edge may be rounded either way. Measured: up to 0.57 (our-vit in bfloat16; 0.11
    # in int8), and a distance from the plain model of 0.96 to 1.13; where attention multiplies in
    # bfloat16, too, which eager's does not, up to 1.46, and 0.70 to 1.41.
    apart, further = (1.6, 1.6) if _cpu.multiplies_bfloat16() else (0.8, 1.5)
    assert (got - wanted).norm() < apart * error
    assert (got - plain).norm() < further * error


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["vit-layer-scale", "swin"])
def test_hooks_on_children_change_nothing(name: str, kind: str) -> None:
    """The parent calls its Linears then, which compute in the form as well."""
    model, x = build(name)
    patch(model, kind)
    wanted = infer(model, x)
    seen = []
    for _, layer in converted_layers(model):
        layer.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(infer(model, x), wanted, rtol=1e-4, atol=2e-3)
    assert len(seen) == len(converted_layers(model))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_trains_in_float32(name: str) -> None:
    model, x = build(name)
    plain = zoo.twin(model)
    vitkern.patch(plain, backend="eager")
    vitkern.patch(model, dtype=torch.bfloat16, backend="eager")
    got, wanted = zoo.run(model, x), zoo.run(plain, x)
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", ["vit-layer-scale", "swin"])
@pytest.mark.parametrize("trained", ["norm1.weight", "ls1.gamma", "proj.bias", "fc2.weight"])
def test_one_trained_parameter_is_enough(name: str, trained: str) -> None:
    """Ops around it may be in bfloat16; that one's gradient is as in float32 but for that."""
    model, x = build(name)
    vitkern.patch(model, dtype=torch.bfloat16, backend="eager")
    model.requires_grad_(False)
    chosen = [p for key, p in model.named_parameters() if key.endswith(trained)]
    if not chosen:
        pytest.skip("has none")
    for parameter in chosen:
        parameter.requires_grad_()
    plain = zoo.twin(model)
    vitkern.unpatch(plain)
    for m in (model, plain):
        m(x).square().sum().backward()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    for got, wanted in ((a.grad, b.grad) for a, b in pairs if b.grad is not None):
        assert (got - wanted).norm() < 0.05 * wanted.norm()


def test_int8_has_no_gradient_and_says_what_to_do() -> None:
    model, x = build("vit")
    patch(model, "int8")
    with pytest.raises(RuntimeError, match=r"blocks\.0\.attn\.qkv is int8.*inference_mode.*dequan"):
        model(x)
    model.requires_grad_(False)
    torch.testing.assert_close(model(x), infer(model, x))
    with pytest.raises(RuntimeError, match="no gradient"):
        model(x.clone().requires_grad_())


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_unpatch_leaves_every_module_as_it_was(name: str, kind: str) -> None:
    model, x = build(name)
    before, keys = zoo.state_of(model), list(model.state_dict())
    patch(model, kind)
    infer(model, x)
    assert list(model.state_dict()) == keys
    vitkern.unpatch(model)
    assert zoo.state_of(model) == before


def test_patching_again() -> None:
    model, x = build("vit")
    float32 = vitkern.patch(model, backend="eager")
    plain = infer(model, x)
    first = vitkern.patch(model, dtype=torch.bfloat16, backend="eager")
    infer(model, x)
    state = zoo.state_of(model)
    assert vitkern.patch(model, dtype=torch.bfloat16, backend="eager") == first
    assert zoo.state_of(model) == state
    assert first != float32
    assert vitkern.patch(model, backend="eager") == float32
    assert all(forms.form_of(layer) is None for _, layer in converted_layers(model))
    assert torch.equal(infer(model, x), plain)


def test_int8_stays_when_the_rest_is_patched_anew() -> None:
    model, x = build("vit")
    patch(model, "int8")
    wanted = infer(model, x)
    vitkern.patch(model, dtype=torch.bfloat16, backend="eager")
    assert torch.equal(infer(model, x), wanted)
    swap = model.blocks[0].mlp.fc1.forward
    assert type(swap.form) is Int8Weight
    assert type(swap.under) is Bfloat16Weight


@pytest.mark.parametrize("before", ["nothing", "float32", "bfloat16", "int8"])
def test_context_restores(before: str) -> None:
    model, x = build("vit")
    if before == "float32":
        vitkern.patch(model, backend="eager")
    elif before != "nothing":
        patch(model, before)
    state, wanted = zoo.state_of(model), infer(model, x)
    with vitkern.patched(model, dtype=torch.bfloat16, backend="eager"):
        assert forms.form_of(model.blocks[0].mlp.fc1) is not None
    assert zoo.state_of(model) == state
    assert torch.equal(infer(model, x), wanted)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_have_forms_of_their_own_parameters(how: str, kind: str) -> None:
    model, x = build("swin")
    patch(model, kind)
    wanted = infer(model, x)
    if how == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(infer(other, x), wanted)
    for _, layer in converted_layers(other):
        assert layer.forward.owner() is layer
        assert layer.forward.form.source is layer.weight
    vitkern.unpatch(other)
    assert all("forward" not in module.__dict__ for module in other.modules())


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("edit", [name for name in EDITS if name != "written through data"])
def test_new_weights_take_effect_at_once(edit: str, kind: str) -> None:
    """But for those that are written through ``.data``, which int8 weights do not see."""
    model, x = build("vit")
    patch(model, kind)
    infer(model, x)
    if edit == "optimizer step":
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD(model.parameters(), lr=1e-2).step()
    else:
        EDITS[edit](model, x)
    got = infer(model, x)
    torch.testing.assert_close(got, infer(reference(model, kind), x), rtol=1e-4, atol=1e-3)
    if edit in ("load_state_dict, assign", "new parameters"):  # made once, not in every call
        assert all(x.forward.form.source is x.weight for _, x in converted_layers(model))


def test_other_dtypes_later() -> None:
    model, x = build("vit")
    plain = zoo.twin(model)
    vitkern.patch(model, dtype=torch.bfloat16, backend="eager")
    infer(model, x)
    torch.testing.assert_close(infer(model.double(), x.double()), infer(plain.double(), x.double()))
    half = x.bfloat16()
    vitkern.patch(plain, backend="eager")
    assert torch.equal(infer(model.bfloat16(), half), infer(plain.bfloat16(), half))
    torch.testing.assert_close(infer(model.float(), x), infer(reference(model, "bfloat16"), x))


def test_a_bfloat16_model_stays_as_it_is() -> None:
    model = zoo.build("vit", torch.bfloat16)
    wanted = vitkern.patch(model, backend="eager")
    state = zoo.state_of(model)
    assert vitkern.patch(model, dtype=torch.bfloat16, backend="eager") == wanted
    assert zoo.state_of(model) == state


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        ("bfloat16", TypeError, "dtype must be torch.bfloat16 or None, got 'bfloat16'"),
        (torch.float16, ValueError, "dtype must be torch.bfloat16 or None, got torch.float16"),
        (torch.int8, ValueError, "got torch.int8"),
        (torch.bfloat16, ValueError, r"float32, got blocks\.0\.attn\.qkv\.weight in torch.float64"),
    ],
)
def test_other_dtypes_are_refused(dtype: Any, error: type[Exception], message: str) -> None:
    model = zoo.build("vit")  # float64
    before = zoo.state_of(model)
    with pytest.raises(error, match=message):
        vitkern.patch(model, dtype=dtype, backend="eager")
    assert zoo.state_of(model) == before


@pytest.mark.parametrize("isa", _cpu.isas())
def test_the_report_says_where_bfloat16_is_no_faster(isa: str) -> None:
    with _cpu.use_isa(isa):
        report = vitkern.patch(build("vit")[0], dtype=torch.bfloat16)
    assert ("no faster here: no instruction for it" in str(report)) == (
        isa not in ("avx512_bf16", "amx")
    )


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_the_report_says_what_runs_in_which_form(name: str) -> None:
    model, _ = build(name)
    report = vitkern.patch(model, dtype=torch.bfloat16, backend="eager")
    noted = {entry.name for entry in report.patched if "bfloat16 for inference only" in entry.note}
    with_products = {
        entry.name
        for entry in report.patched
        if any(key.startswith(f"{entry.name}.") for key, _ in converted_layers(model))
    }
    assert noted == with_products
    assert "head" in {entry.name for entry in report.patched} - noted or name == "swin"
    assert "bfloat16 for inference only" in str(report)

    patch(model, "int8")
    vitkern.unpatch(model.get_submodule(converted_layers(model)[0][0]))
    notes = [entry.note for entry in vitkern.patch(model, backend="eager").patched]
    assert "int8" in notes
    assert any(note.startswith("int8 in 3 of 4") for note in notes)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_functional_call_uses_the_given_parameters(kind: str) -> None:
    model, x = build("vit")
    patch(model, kind)
    before = infer(model, x)
    other = {key: value.detach() * 0.9 for key, value in model.named_parameters()}
    changed = reference(model, kind)
    changed.load_state_dict(other)
    with torch.no_grad():
        got = torch.func.functional_call(model, other, (x,))
        torch.testing.assert_close(got, changed(x), rtol=1e-4, atol=1e-3)
    assert torch.equal(infer(model, x), before)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_autocast_leaves_products_alone(kind: str) -> None:
    model, x = build("vit")
    patch(model, kind)
    wanted = infer(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        got = infer(model, x)
    assert (got.float() - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_several_threads(kind: str) -> None:
    model, x = build("vit")
    patch(model, kind)
    wanted = infer(copy.deepcopy(model), x)
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(infer(model, x))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(torch.equal(result, wanted) for result in results)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    "backend, kind",
    [
        ("eager", "bfloat16"),
        ("eager", "int8"),
        pytest.param(None, "bfloat16", marks=needs.library),  # nothing is patched without kernels
        (None, "int8"),
    ],
)
@pytest.mark.parametrize("name", ["vit-layer-scale", "swin"])
def test_compiles_and_exports(name: str, kind: str, backend: str | None) -> None:
    model, x = build(name)
    patch(model, kind, backend)
    keys = {key for key, _ in model.named_parameters()}
    with torch.no_grad():
        wanted = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), wanted, **CLOSE)
        for strict in (False, True):
            program = torch.export.export(model, (x,), strict=strict)
            assert {key for key, _ in program.named_parameters()} == keys
            torch.testing.assert_close(program.module()(x), wanted, **CLOSE)
        for parameter in model.parameters():
            parameter.mul_(0.9)
        torch.testing.assert_close(compiled(x), model(x), **CLOSE)
        # 1.4e-3 with int8 on AVX-512: an integer that rounds the other way is a step off. 2.4e-2 on
        # AMX, whose attention is in bfloat16.
        loose = 4e-2 if backend is None and _cpu.multiplies_bfloat16() else 2e-3
        assert (wanted - model(x)).abs().max() > 2 * loose  # so that old weights would show
        torch.testing.assert_close(
            compiled(x), infer(reference(model, kind), x), rtol=0, atol=loose
        )


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiles_for_training_in_float32() -> None:
    model, x = build("vit")
    vitkern.patch(model, dtype=torch.bfloat16, backend="eager")
    wanted = zoo.run(model, x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = zoo.run(model, x, forward=compiled)
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-4)
