"""Which images come when, and with which random numbers: functions of the seed and the place.

Nothing here has a state that a checkpoint would have to hold. The order of an epoch follows from
(seed, epoch), an image's augmentation from (seed, epoch, index), the dropout of a batch from (seed,
step, batch, rank). So a run that goes on from any step is the run that was never interrupted, with
any number of loading processes.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

__all__ = [
    "Seeded",
    "batches",
    "even_share",
    "loader",
    "seed_all",
    "share",
    "steps_per_epoch",
    "windows",
]


def mix(*numbers: int) -> int:
    """A seed of 63 bits from whole numbers; near ones give unrelated seeds."""
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def seed_all(*numbers: int) -> None:
    """Seeds Python's, NumPy's and PyTorch's global generators of this process, CUDA's too."""
    seed = mix(*numbers)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - transforms of other libraries use it
    torch.manual_seed(seed)


class Seeded(Dataset[Any]):
    """A data set whose items are asked for with (epoch, index) and get random numbers from both."""

    def __init__(self, data: Any, seed: int) -> None:
        self.data = data
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        seed = mix(self.seed, 1, epoch, index)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # only the CPU's: workers may not touch CUDA
        return self.data[index]


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The images of each batch of an epoch, over all processes together; the last may be short."""
    generator = torch.Generator().manual_seed(mix(seed, 2, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def steps_per_epoch(count: int, batch_size: int, accumulate: int) -> int:
    """Optimizer steps of an epoch."""
    return math.ceil(math.ceil(count / batch_size) / accumulate)


def windows(all_batches: Sequence[list[int]], accumulate: int) -> list[list[list[int]]]:
    """The batches of each optimizer step; the last step has what is left."""
    return [
        list(all_batches[start : start + accumulate])
        for start in range(0, len(all_batches), accumulate)
    ]


def share(batch: Sequence[int], rank: int, processes: int) -> list[int]:
    """A process's part of a batch: every ``processes``-th image."""
    return list(batch[rank::processes])


def even_share(count: int, rank: int, processes: int) -> tuple[list[int], int]:
    """A process's images of ``count``, and how many of them count: every process has as many.

    In a group whose model is split over it, processes must call it equally often, so those whose
    part is one image short have the first image once more, at the end.
    """
    mine = list(range(rank, count, processes))
    return mine + [0] * (-(-count // processes) - len(mine)), len(mine)


def loader(
    data: Any,
    seed: int,
    epoch: int,
    parts: Sequence[Sequence[int]],
    workers: int,
    collate: Callable[[Any], Any] | None = None,
) -> Iterator[Any]:
    """Collated batches of these images, in this order; ``collate`` is PyTorch's own if None.

    A part without images gives the first image of all, since a process in a group may not sit out
    a step; the caller gives it no weight.
    """
    keys = [[(epoch, index) for index in (part or [0])] for part in parts]
    return iter(
        DataLoader(
            Seeded(data, seed),
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(0),  # else it draws from the global one
        )
    )
