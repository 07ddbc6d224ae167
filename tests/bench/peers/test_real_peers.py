"""The real peers, where they are installed: they convert a model, and give its logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitkern._build import find_compiler
from vitkern.bench.models import Row, build
from vitkern.bench.passes import forward
from vitkern.bench.peers.system import Run, System, Unavailable, require
from vitkern.bench.peers.systems import SYSTEMS

PEERS = [system for system in SYSTEMS if system.peer]

LEAST_COSINE = {"fp32": 0.999999, "bf16": 0.99, "int8": 0.9}


@pytest.fixture(scope="module")
def built() -> tuple[nn.Module, torch.Tensor]:
    """A model of two blocks: conversions take long."""
    model, images = build(Row("vit_tiny_patch16_224", 2))
    model.blocks = model.blocks[:2]
    return model, images


def prepared(system: System, model: nn.Module, images: torch.Tensor) -> Run:
    """Its pass; skips the test where it is not installed or not for this machine."""
    if system.vendor == "torch.compile" and isinstance(find_compiler(), str):
        pytest.skip(str(find_compiler()))
    try:
        require(system.packages)
        return system.build(model, images)
    except Unavailable as error:
        pytest.skip(f"{system.name}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("system", PEERS, ids=lambda system: system.name)
def test_a_peer_gives_the_models_logits(
    system: System, built: tuple[nn.Module, torch.Tensor]
) -> None:
    model, images = built
    before = {name: value.clone() for name, value in model.state_dict().items()}
    truth = forward(model, images)()
    run = prepared(system, model, images)
    for _ in range(2):
        logits = run()
        assert logits.shape == truth.shape
        cosine = torch.cosine_similarity(logits.double(), truth.double(), dim=-1).min()
        assert cosine > LEAST_COSINE[system.precision]
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(forward(model, images)(), truth)


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="weights are packed for MKL")
def test_frozen_weights_are_another_graph(built: tuple[nn.Module, torch.Tensor]) -> None:
    """Else the frozen model would run the graph of the one that was compiled before."""
    model, images = built
    moved = {}
    for name in ("torch.compile", "torch.compile, frozen"):
        system = next(one for one in PEERS if one.name == name)
        run = prepared(system, model, images)
        with torch.no_grad():
            before, kept = run().clone(), model.head.weight.clone()
            model.head.weight.add_(1.0)
            moved[name] = float((run() - before).abs().max())
            model.head.weight.copy_(kept)
    assert moved["torch.compile"] > 0.1
    assert moved["torch.compile, frozen"] == 0.0  # a constant, packed when it was compiled
