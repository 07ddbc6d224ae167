"""Wrappers for distributed training, in a group of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import vitkern
from tests.patching import zoo


@pytest.fixture
def _group(tmp_path: Path) -> Iterator[None]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("no gloo")
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group")
def test_ddp() -> None:
    model, x = zoo.build("vit"), zoo.images("vit")
    plain = zoo.twin(model)
    vitkern.patch(model, backend="eager")
    plain(x).square().mean().backward()
    DistributedDataParallel(model)(x).square().mean().backward()
    for (key, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10, msg=key)


@pytest.mark.usefixtures("_group")
def test_fsdp2() -> None:
    """``fully_shard`` swaps the classes of the modules that it is given."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, x = zoo.build("vit"), zoo.images("vit")
    plain = zoo.twin(model)
    vitkern.patch(model, backend="eager")
    mesh = init_device_mesh("cpu", (1,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for _ in range(2):
        for m in (model, plain):
            m.zero_grad()
            m(x).square().mean().backward()
    for (key, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None, key
        torch.testing.assert_close(a.grad.full_tensor(), b.grad, rtol=0, atol=1e-10, msg=key)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-10)
    assert model.blocks[0].forward._snapshot.reasons == []
