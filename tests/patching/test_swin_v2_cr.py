"""timm's swin_transformer_v2_cr: what is beside outputs and gradients, which test_families has."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm.models
import torch

import vitkern
from tests import needs
from tests.patching import zoo
from vitkern.bench.parity import compare
from vitkern.patching.timm_swin_v2_cr import pairs

Block = timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock


def block(**options: object) -> Block:
    torch.manual_seed(0)
    made = Block(16, 2, (8, 10), (4, 5), (2, 2), init_values=None, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


def test_pairs_have_each_offset_once() -> None:
    height, width = 3, 4
    found = []
    for pair in pairs((height, width), torch.device("cpu")).tolist():
        query, key = divmod(pair, height * width)
        found.append((query // width - key // width, query % width - key % width))
    assert found == [(y, x) for y in range(1 - height, height) for x in range(1 - width, width)]


def test_training_draws_the_networks_dropout_as_before() -> None:
    """It drops for each pair of places, which is no table: the products are on ops then."""
    model = block().double().train()
    x = torch.randn(2, 8, 10, 16, dtype=torch.float64)
    wanted = zoo.run(model, x)
    report = vitkern.patch(model, backend="eager")
    (entry,) = [one for one in report.patched if one.name == ""]
    assert "dropout of the position bias" in entry.note
    with pytest.warns(UserWarning, match="dropout of the position bias is active"):
        zoo.assert_same(zoo.run(model, x), wanted)
    vitkern.unpatch(model)
    assert "forward" not in vars(model)


def test_compiled_as_one_graph() -> None:
    model, x = block().double().eval(), torch.randn(2, 8, 10, 16, dtype=torch.float64)
    wanted = zoo.run(model, x)
    vitkern.patch(model, backend="eager")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    zoo.assert_same(zoo.run(model, x, forward=compiled), wanted)


def _offsets(model: Block) -> None:
    model.attn.relative_coordinates_log[3] += 1.0


def _mask(model: Block) -> None:
    model.attn_mask[0, 1, 2] = -50.0


def _network(model: Block) -> None:
    model.attn.meta_mlp = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    "change, reason",
    [
        (_offsets, "not of the offset alone"),
        (_mask, "attn_mask is not the mask"),
        (_network, "meta_mlp is torch.Linear"),
    ],
)
def test_changed_blocks_are_left(change: Callable[[Block], None], reason: str) -> None:
    model = block().eval()
    change(model)
    x = torch.randn(2, 8, 10, 16)
    with torch.inference_mode():
        wanted = model(x)
        report = vitkern.patch(model, backend="eager")
        assert reason in str([one.reasons for one in report.skipped if one.name == ""])
        torch.testing.assert_close(model(x), wanted)


def test_a_map_that_the_mask_is_not_for_runs_the_original() -> None:
    """Four times as many windows as in the mask: the original repeats the mask over them."""
    model, x = block().eval(), torch.randn(1, 16, 20, 16)
    with torch.inference_mode():
        wanted = model(x)
        vitkern.patch(model, backend="eager")
        torch.testing.assert_close(model(x), wanted)


@needs.library
@pytest.mark.parametrize("dynamic", [False, True])
def test_maps_that_are_padded(dynamic: bool) -> None:
    torch.manual_seed(0)
    model = Block(16, 2, (7, 9), (4, 5), (2, 2), init_values=1.0, dynamic_mask=dynamic).eval()
    x = torch.randn(2, 7, 9, 16)
    truth = zoo.run(copy.deepcopy(model).double(), x.double())
    eager = zoo.run(model, x)
    report = vitkern.patch(model, backend="cpu")
    assert "window_attention" in next(one.op for one in report.patched if one.name == "")
    check = compare("values", truth, eager, zoo.run(model, x))
    assert check.passed, check
