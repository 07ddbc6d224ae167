"""Hugging Face's Swinv2: what is beside outputs and gradients, which test_families has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import vitkern
from vitkern import ops

swinv2 = pytest.importorskip("transformers.models.swinv2.modeling_swinv2")
Tensor = torch.Tensor
DIM, SIZE = 8, (8, 8)


def layer(shift: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    config = swinv2.Swinv2Config(window_size=4, mlp_ratio=2.0, **options)
    made = swinv2.Swinv2Layer(config, DIM, SIZE, 2, shift_size=shift).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    return made


def tokens(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(2, size[0] * size[1], DIM, dtype=torch.float64)


def patched(model: nn.Module) -> tuple[bool, str]:
    """Whether the layer itself is on ops, and its reasons or note."""
    report = vitkern.patch(model, backend="eager")
    notes = [one.note for one in report.patched if one.name == ""]
    return bool(notes), str(notes or [one.reasons for one in report.skipped if one.name == ""])


def test_a_shifted_layers_mask_is_not_the_ops() -> None:
    """Queries whose own region is unlike them, and the masked one alike: -100 would not hide it."""
    model, x = layer(shift=2), tokens()
    attn = model.attention.self
    along = torch.ones(DIM, dtype=torch.float64)
    rows = torch.arange(SIZE[0]).repeat_interleave(SIZE[1])
    with torch.no_grad():
        attn.logit_scale.fill_(math.log(100.0))
        attn.query.weight.zero_()
        attn.query.bias.copy_(along)
        attn.key.weight.copy_(torch.eye(DIM))
        attn.continuous_position_bias_mlp[2].weight.zero_()  # the same bias for all
        # What the shift brings to the last windows, the first two rows, is alike.
        x = torch.where((rows < 2)[:, None], along, -along) + 0.01 * x
        (wanted,) = model(x, SIZE)

        y = x.view(2, *SIZE, DIM)
        with_the_op = ops.window_attention(
            torch.cat([attn.query(y), attn.key(y), attn.value(y)], -1),
            torch.full((49, 2), 8.0, dtype=torch.float64),
            num_heads=2, window_size=4, shift_size=2,
            logit_scale=torch.full((2,), 100.0, dtype=torch.float64), pad_first=True,
        )  # fmt: skip
        y = model.attention.output.dense(with_the_op).view(x.shape)
        y = x + model.layernorm_before(y)
        other = y + model.layernorm_after(model.output(model.intermediate(y)))
        assert (other - wanted).abs().max() > 0.1  # what is not done

        whole, reasons = patched(model)
        assert not whole and "adds the mask of its shift twice" in reasons
        torch.testing.assert_close(model(x, SIZE)[0], wanted, rtol=0, atol=1e-10)


def test_a_layer_without_shift_is_on_the_op() -> None:
    model, x = layer(), tokens()
    with torch.inference_mode():
        (wanted,) = model(x, SIZE)
        assert patched(model) == (True, "['']")
        torch.testing.assert_close(model(x, SIZE)[0], wanted, rtol=0, atol=1e-10)
        vitkern.unpatch(model)
        assert "forward" not in vars(model)
        assert torch.equal(model(x, SIZE)[0], wanted)


@pytest.mark.parametrize("shift", [0, 2])
def test_compiled_as_one_graph(shift: int) -> None:
    """Buffers are declared with nn.Buffer, which torch.compile takes for a class of its own."""
    model, x = layer(shift), tokens()
    with torch.no_grad():
        (wanted,) = model(x, SIZE)
        patched(model)
        torch._dynamo.reset()
        (got,) = torch.compile(model, backend="aot_eager", fullgraph=True)(x, SIZE)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


def test_what_runs_the_original() -> None:
    model, x = layer(), tokens()
    with torch.inference_mode():
        wanted = model(x, SIZE, True)
        small = model(x[:, :6], (2, 3))
        patched(model)
        with pytest.warns(UserWarning, match="output_attentions=True"):
            got = model(x, SIZE, True)
        assert len(got) == len(wanted) == 2
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
        with pytest.warns(UserWarning, match="smaller than its window"):
            torch.testing.assert_close(model(x[:, :6], (2, 3))[0], small[0], rtol=0, atol=1e-10)


def test_dropout_draws_as_before() -> None:
    model, x = layer(attention_probs_dropout_prob=0.3).train(), tokens()
    torch.manual_seed(5)
    (wanted,) = model(x, SIZE)
    whole, note = patched(model)
    assert whole and "dropout is active in training" in note
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="dropout is active in training"):
        torch.testing.assert_close(model(x, SIZE)[0], wanted, rtol=0, atol=1e-10)


def _index(model: Any) -> None:
    model.attention.self.relative_position_index[0, 1] = 3


def _subclass(model: Any) -> None:
    model.attention.self.query = nn.Sequential(model.attention.self.query)


@pytest.mark.parametrize("change, reason", [(_index, "relative positions"), (_subclass, "query")])
def test_changed_layers_are_left(change: Any, reason: str) -> None:
    model, x = layer(), tokens()
    change(model)
    with torch.inference_mode():
        (wanted,) = model(x, SIZE)
        whole, reasons = patched(model)
        assert not whole and reason in reasons
        torch.testing.assert_close(model(x, SIZE)[0], wanted, rtol=0, atol=1e-10)
