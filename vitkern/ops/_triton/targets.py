"""GPUs: what bounds a configuration, and the figures that predictions rest on."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Target:
    """A GPU, from its maker's data sheets (dense figures, no sparsity).

    Attributes:
        name: as users write it.
        capability: compute capability (9, 0) is sm_90.
        shared: bytes of shared memory that one block may have.
        processors: streaming multiprocessors.
        bandwidth: of memory, bytes a second.
        cache: bytes of L2.
        cache_bandwidth: of L2, bytes a second; measured by others, about three times memory's.
        half: peak of bfloat16 and float16 products with float32 sums, FLOP/s.
        single: peak of float32 products outside of tensor cores, FLOP/s.
        clock: of the multiprocessors at boost, Hz.
        sustained: the share of ``half`` that the best published products of large matrices reach,
            within the power limit.
        title: the card.
    """

    name: str
    capability: tuple[int, int]
    shared: int
    processors: int
    bandwidth: float
    cache: float
    cache_bandwidth: float
    half: float
    single: float
    clock: float
    sustained: float
    title: str


TARGETS = {
    target.name: target
    for target in (
        Target("a100", (8, 0), 166912, 108, 2.039e12, 40e6, 5.1e12, 312e12, 19.5e12, 1.41e9, 0.87,
               "NVIDIA A100 80 GB SXM"),
        Target("h100", (9, 0), 232448, 132, 3.35e12, 50e6, 7.5e12, 989e12, 67e12, 1.98e9, 0.76,
               "NVIDIA H100 SXM"),
        Target("h200", (9, 0), 232448, 132, 4.8e12, 50e6, 7.5e12, 989e12, 67e12, 1.98e9, 0.76,
               "NVIDIA H200 SXM"),
        Target("b200", (10, 0), 232448, 148, 8.0e12, 126e6, 16e12, 2250e12, 75e12, 1.97e9, 0.75,
               "NVIDIA B200"),
        Target("rtx4090", (8, 9), 101376, 128, 1.008e12, 72e6, 5.0e12, 165.2e12, 82.6e12, 2.52e9,
               0.95, "GeForce RTX 4090"),
        Target("rtx5090", (12, 0), 101376, 170, 1.792e12, 96e6, 6.0e12, 209.5e12, 104.8e12, 2.41e9,
               0.95, "GeForce RTX 5090"),
        Target("mi300x", (9, 4), 65536, 304, 5.3e12, 256e6, 17e12, 1307e12, 163e12, 2.1e9,
               0.55, "AMD Instinct MI300X"),
    )
}  # fmt: skip

# Bounds as of an H100, but few programs: the interpreter runs them one after the other.
_INTERPRETER = dataclasses.replace(
    TARGETS["h100"], name="interpreter", processors=4, title="Triton's interpreter"
)


def target_of(device: torch.device) -> Target:
    """What bounds configurations on a device: its capability, shared memory and processors.

    A card that is not in the table gets the bounds that its driver tells, and no figures.
    """
    return _of_card(device.index or 0) if device.type == "cuda" else _INTERPRETER


@functools.cache
def _of_card(index: int) -> Target:
    card = torch.cuda.get_device_properties(torch.device("cuda", index))
    shared = getattr(card, "shared_memory_per_block_optin", 101376)
    return Target(
        card.name, (card.major, card.minor), shared, card.multi_processor_count,
        0.0, float(card.L2_cache_size), 0.0, 0.0, 0.0, 0.0, 0.0, card.name,
    )  # fmt: skip
