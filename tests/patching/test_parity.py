"""A patched model computes what the model computes: outputs and every gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import vitkern
from tests.patching import zoo


@pytest.mark.parametrize("name", zoo.MODELS)
def test_exact_in_float64(name: str) -> None:
    model = zoo.build(name)
    x = zoo.images(name)
    wanted = zoo.run(model, x)
    report = vitkern.patch(model, backend="eager", strict=True)
    assert report.patched
    zoo.assert_same(zoo.run(model, x), wanted)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_float32_on_automatic_backend(name: str) -> None:
    model = zoo.build(name, torch.float32)
    original, eager_model = zoo.twin(model).double(), zoo.twin(model)
    vitkern.patch(model)
    ratios = []
    for seed in range(8):
        x = zoo.images(name, torch.float32, seed)
        truth = zoo.run(original, x.double())
        eager = zoo.run(eager_model, x)
        ratios += zoo.assert_as_accurate(zoo.run(model, x), eager, truth)
    if name != "vit-empty-batch":  # which has no values, and zeros as gradients
        zoo.assert_no_worse_on_average(ratios)
    with torch.inference_mode():
        for _ in range(2):  # packs weights, then uses them
            zoo.assert_as_accurate({"output": model(x)}, eager, {"output": truth["output"]})


@pytest.mark.parametrize("name", ["vit-layer-scale", "swin-not-divisible", "our-vit-options"])
def test_bfloat16_on_automatic_backend(name: str) -> None:
    model = zoo.build(name, torch.bfloat16)
    original, eager_model = zoo.twin(model).double(), zoo.twin(model)
    vitkern.patch(model)
    ratios = []
    for seed in range(8):
        x = zoo.images(name, torch.bfloat16, seed)
        truth = zoo.run(original, x.double())
        eager = zoo.run(eager_model, x)
        ratios += zoo.assert_as_accurate(zoo.run(model, x), eager, truth)
    zoo.assert_no_worse_on_average(ratios)


def test_nothing_is_bypassed_in_vain() -> None:
    """Every module that the report lists runs on ops: none falls back to its original forward."""
    for name in ("vit-qk-norm", "swin-not-divisible", "our-vit", "our-swin"):
        model = zoo.build(name)
        vitkern.patch(model, backend="eager")
        for module in model.modules():
            swap = module.__dict__.get("forward")
            if swap is not None:
                assert swap._may_fuse(), f"{name}: {swap}"


def test_masks_reach_the_attention() -> None:
    model = zoo.build("vit")
    x = zoo.images("vit")
    tokens = 17
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(2, 1, tokens, tokens, generator=generator) > 0.3
    keep |= torch.eye(tokens, dtype=torch.bool)
    added = torch.randn(tokens, tokens, generator=generator, dtype=torch.float64)
    masks = [keep, keep[:1], added, added.expand(2, 3, tokens, tokens)]
    wanted = [model(x, attn_mask=mask) for mask in masks]
    vitkern.patch(model, backend="eager")
    for mask, y in zip(masks, wanted, strict=True):
        torch.testing.assert_close(model(x, attn_mask=mask), y, rtol=0, atol=1e-10)


def test_causal_attention_runs_the_original_and_says_so_once() -> None:
    model = zoo.build("vit")
    x = zoo.images("vit")
    wanted = model(x, is_causal=True)
    vitkern.patch(model, backend="eager")
    with pytest.warns(UserWarning, match=r"blocks.0.attn.*is_causal") as caught:
        got = model(x, is_causal=True)
        model(x, is_causal=True)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert len(caught) == 2  # one for each of two attentions
    # The line of the caller, which is timm's here, not ours.
    assert all(Path(timm.__file__).parent in Path(w.filename).parents for w in caught)


def test_maps_smaller_than_their_window_run_the_original_and_say_so() -> None:
    model = zoo.build("swin-dynamic-size")
    x = torch.randn(1, 3, 20, 60, dtype=torch.float64)
    wanted = model(x)
    vitkern.patch(model, backend="eager")
    with pytest.warns(UserWarning, match="smaller than its window"):
        got = model(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


def test_input_size_may_change_after_patching() -> None:
    model, other = zoo.build("swin"), zoo.build("swin")
    vitkern.patch(model, backend="eager")
    for m in (model, other):
        m.set_input_size(img_size=(60, 84), window_size=(5, 6))
    x = torch.randn(1, 3, 60, 84, dtype=torch.float64)
    zoo.assert_same(zoo.run(model, x), zoo.run(other, x))


@pytest.mark.parametrize(
    ("name", "shape", "error"),
    [
        ("vit", (1, 3, 40, 32), AssertionError),  # not the model's size: timm's own error
        ("vit", (1, 4, 32, 32), RuntimeError),  # channels
        ("our-vit", (1, 3, 40, 32), ValueError),
        ("our-swin", (1, 5, 56, 56), ValueError),
    ],
)
def test_errors_are_those_of_the_model(
    name: str, shape: tuple[int, ...], error: type[Exception]
) -> None:
    model = zoo.build(name)
    x = torch.randn(shape, dtype=torch.float64)
    with pytest.raises(error) as original:
        model(x)
    vitkern.patch(model, backend="eager")
    with pytest.raises(error) as patched:
        model(x)
    assert str(patched.value) == str(original.value)
