"""The tables of rows, and how models are made."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch

from vitkern.bench import models
from vitkern.bench.models import TARGETS, WIDE, Row, TimmMissing, UnknownModel
from vitkern.bench.passes import make_pass


def test_rows_are_models_that_timm_has() -> None:
    for name in {row.model for row in (*TARGETS, *WIDE)}:
        models.check_name(name)


def test_rows_are_what_the_tables_say() -> None:
    assert [(row.model.partition("_patch")[0], row.batch, row.mode) for row in TARGETS] == [
        ("vit_small", 8, "eval"),
        ("vit_base", 1, "eval"),
        ("swin_tiny", 8, "eval"),
        ("swin_tiny", 1, "eval"),
        ("swin_tiny", 8, "train"),
    ]
    assert len(WIDE) == len(set(WIDE)) == 40
    slugs = {row.slug for row in (*TARGETS, *WIDE)}
    assert len(slugs) == len({*TARGETS, *WIDE})


def test_a_row_survives_json() -> None:
    row = Row("vit_tiny_patch16_224", 3, "train", "bfloat16")
    assert Row.from_dict(row.to_dict()) == row
    assert row.label == "vit_tiny_patch16_224, batch 3, forward + backward, bfloat16"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 1, "mode": "test"}, "mode must be one of eval, train, step, got 'test'"),
        ({"batch": 1, "dtype": "float64"}, "dtype must be one of float32, bfloat16"),
    ],
)
def test_rows_that_mean_nothing(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Row("vit_tiny_patch16_224", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name, near",
    [("vit_smal_patch16_224", "did you mean vit_small_patch16_224"), ("zzz", "try vit_small")],
)
def test_unknown_models(name: str, near: str) -> None:
    with pytest.raises(UnknownModel, match=f"timm has no model '{name}'; {near}"):
        models.create(name)


def test_unknown_tag() -> None:
    with pytest.raises(UnknownModel, match=r"timm cannot make 'vit_tiny_patch16_224\.nosuchtag'"):
        models.create("vit_tiny_patch16_224.nosuchtag")


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TimmMissing, match=r"timm is not installed: pip install timm$"):
        models.create("vit_tiny_patch16_224")


def test_build_gives_the_same_twice_in_the_row_s_mode_and_dtype() -> None:
    row = Row("vit_tiny_patch16_224", 2, "train", "bfloat16")
    torch.manual_seed(5)
    one, images = models.build(row)
    torch.manual_seed(6)
    other, again = models.build(row)
    assert one.training
    assert images.shape == (2, 3, 224, 224)
    assert images.dtype == torch.bfloat16
    assert torch.equal(images, again)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_fresh_weights_count() -> None:
    model = models.create("deit3_small_patch16_224")  # has LayerScale
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert parameter.std() > 0.05, name


@pytest.mark.parametrize("name", ["mixer_s16_224", "hiera_tiny_224"])
def test_no_output_is_zero_because_weights_are(name: str) -> None:
    """Their heads start as zeros."""
    model, images = models.build(Row(name, 1))
    with torch.inference_mode():
        assert model(images).abs().max() > 1e-3
    assert all(parameter.any() for parameter in model.parameters())


def test_only_zeros_and_vectors_get_noise() -> None:
    model = torch.nn.Linear(64, 64)
    torch.nn.init.zeros_(model.bias)
    weight = model.weight.detach().clone()
    models.enliven(model)
    assert torch.equal(model.weight, weight)
    assert 0.05 < model.bias.std() < 0.15
    torch.nn.init.zeros_(model.weight)
    models.enliven(model)
    assert 0.018 < model.weight.std() < 0.022


def test_a_pass_leaves_gradients_exactly_in_training() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 7))
    images = torch.randn(9, 3, 2, 2)
    assert make_pass(Row("x", 9), model, images)().is_inference()
    assert model[1].weight.grad is None
    run = make_pass(Row("x", 9, "train"), model, images)
    run()
    first = model[1].weight.grad.clone()
    run()
    assert torch.equal(model[1].weight.grad, first)  # not the sum of two


def test_a_step_is_adamws() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 7))
    same, images = copy.deepcopy(model), torch.randn(9, 3, 2, 2)
    step = make_pass(Row("x", 9, "step"), model, images)
    optimizer = torch.optim.AdamW(same.parameters(), lr=1e-4, weight_decay=0.05)
    train = make_pass(Row("x", 9, "train"), same, images)
    for _ in range(2):
        assert torch.equal(step(), train())
        optimizer.step()
    torch.testing.assert_close(model[1].weight, same[1].weight)
    assert not Row("x", 9).trains
    assert Row("x", 9, "step").trains
