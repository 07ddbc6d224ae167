"""Training and evaluation, dropout, autocast, checkpointing, threads."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import timm.models
import torch
from torch import nn

import vitkern
from tests.patching import zoo
from vitkern import models

_VIT = partial(zoo.MODELS["vit"][0], init_values=0.1)
DROPPING: dict[str, partial[nn.Module]] = {
    "vit-drop-path": partial(_VIT, drop_path_rate=0.5),
    "vit-proj-drop": partial(_VIT, proj_drop_rate=0.3),
    "vit-both": partial(_VIT, proj_drop_rate=0.3, drop_path_rate=0.5, drop_rate=0.2),
    "vit-scaled-norms": partial(_VIT, proj_drop_rate=0.3, scale_mlp_norm=True),
    "swin-drop-path": partial(
        timm.models.SwinTransformer, img_size=56, embed_dim=24, depths=(2, 2), num_heads=(2, 3),
        num_classes=10, proj_drop_rate=0.3, drop_path_rate=0.5,
    ),
    "our-vit": partial(
        models.VisionTransformer, img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3,
        num_classes=10, proj_drop_rate=0.3, drop_path_rate=0.5, init_values=0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_draws_the_same_random_numbers(name: str) -> None:
    torch.manual_seed(0)
    model = DROPPING[name]().double()
    x = torch.randn(4, 3, *((56, 56) if "swin" in name else (32, 32)), dtype=torch.float64)
    plain = zoo.twin(model)
    vitkern.patch(model, backend="eager", strict=True)
    for training in (True, False):
        model.train(training)
        plain.train(training)
        for seed in range(3):
            zoo.assert_same(zoo.run(model, x, seed=seed), zoo.run(plain, x, seed=seed))
    for m in (model, plain):  # a part of the model frozen in evaluation mode
        m.train()
        stages = m.blocks if hasattr(m, "blocks") else m.layers
        stages[0].eval()
    zoo.assert_same(zoo.run(model, x), zoo.run(plain, x))
    assert not torch.equal(zoo.run(model, x, seed=1)["output"], zoo.run(model, x)["output"])


@pytest.mark.parametrize("fused", [True, False])
def test_attention_dropout_goes_to_the_op(fused: bool) -> None:
    torch.manual_seed(0)
    model = zoo.MODELS["vit"][0](attn_drop_rate=0.5).double()
    for block in model.blocks:
        block.attn.fused_attn = fused
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    kept = model.eval()(x)
    vitkern.patch(model, backend="eager", strict=True)
    torch.testing.assert_close(model(x), kept, rtol=0, atol=1e-10)
    model.train()
    with torch.no_grad():
        draws = torch.stack([model(x) for _ in range(200)])
        assert draws.std(0).max() > 1e-4
        vitkern.unpatch(model)
        plain = torch.stack([model(x) for _ in range(200)])
    error = (draws.mean(0) - plain.mean(0)).abs()
    assert (error < 6 * (draws.std(0) + plain.std(0)) / 200**0.5).all()


def test_attention_dropout_of_swin_runs_the_original_and_says_so() -> None:
    torch.manual_seed(0)
    model = zoo.MODELS["swin"][0](attn_drop_rate=0.3).double()
    x = torch.randn(1, 3, 56, 56, dtype=torch.float64)
    plain = zoo.twin(model)
    vitkern.patch(model, backend="eager", strict=True)
    with pytest.warns(UserWarning, match="attention dropout") as caught:
        zoo.assert_same(zoo.run(model, x), zoo.run(plain, x))
        zoo.run(model, x)
    assert len(caught) == 4  # one for each of four blocks
    zoo.assert_same(zoo.run(model.eval(), x), zoo.run(plain.eval(), x))


@pytest.mark.parametrize(
    "name", ["vit-layer-scale", "vit-qk-norm", "swin-not-divisible", "our-vit"]
)
@pytest.mark.parametrize("backend", [None, "eager"])
def test_autocast(name: str, backend: str | None) -> None:
    model, x = zoo.build(name, torch.float32), zoo.images(name, torch.float32)
    truth = zoo.run(zoo.build(name), zoo.images(name))
    with torch.autocast("cpu", torch.bfloat16):
        eager = zoo.run(model, x)
        vitkern.patch(model, backend=backend)
        got = zoo.run(model, x)
        assert {key: value.dtype for key, value in got.items()} == {
            key: value.dtype for key, value in eager.items()
        }
    for key in ("output", "dinput", "dpatch_embed.proj.weight"):
        # Errors of two runs in bfloat16 differ by chance: compare their sizes, not their maxima.
        error = (got[key].double() - truth[key]).square().mean().sqrt()
        allowed = 2 * (eager[key].double() - truth[key]).square().mean().sqrt()
        assert error <= allowed, f"{key}: {error:.3g} > {allowed:.3g}"


@pytest.mark.parametrize("name", ["vit-layer-scale", "swin-not-divisible"])
def test_autocast_in_inference(name: str) -> None:
    model, x = zoo.build(name, torch.float32), zoo.images(name, torch.float32)
    with torch.inference_mode():
        truth = zoo.build(name)(zoo.images(name))
        with torch.autocast("cpu", torch.bfloat16):
            eager = model(x)
            vitkern.patch(model)
            got = model(x)
    assert got.dtype == eager.dtype
    error, allowed = ((y.double() - truth).square().mean().sqrt() for y in (got, eager))
    assert error <= 2 * allowed


def test_stream_keeps_its_dtype_under_autocast() -> None:
    block = zoo.build("vit", torch.float32).blocks[0]
    x = torch.randn(1, 5, 48)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = block(x)
        vitkern.patch(block, backend="eager")
        assert block(x).dtype == wanted.dtype == torch.float32
        assert block.attn(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_gradient_checkpointing(name: str) -> None:
    model = zoo.MODELS[name][0](drop_path_rate=0.5).double()
    x = zoo.images(name)
    plain = zoo.twin(model)
    vitkern.patch(model, backend="eager")
    for m in (model, plain):
        m.train()
        m.set_grad_checkpointing(True)
    zoo.assert_same(zoo.run(model, x), zoo.run(plain, x))


def test_checkpointing_with_attention_dropout() -> None:
    """The dropout of the second pass is that of the first: gradients agree with no checkpoints."""
    model = zoo.MODELS["vit"][0](attn_drop_rate=0.4).double().train()
    x = zoo.images("vit")
    vitkern.patch(model, backend="eager")
    wanted = zoo.run(model, x)
    model.set_grad_checkpointing(True)
    zoo.assert_same(zoo.run(model, x), wanted)


def test_many_threads_call_one_model() -> None:
    model, x = zoo.build("vit"), zoo.images("vit")
    wanted = model(x)
    vitkern.patch(model, backend="eager")
    errors: list[Any] = []

    def work() -> None:
        try:
            with torch.no_grad():
                for _ in range(5):
                    torch.testing.assert_close(model(x), wanted.detach(), rtol=0, atol=1e-10)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_backend_of_patch_wins_over_use_backend() -> None:
    model, x = zoo.build("vit"), zoo.images("vit")
    vitkern.patch(model, backend="eager")
    with vitkern.use_backend("cpu"):
        model(x)  # cpu would refuse float64
