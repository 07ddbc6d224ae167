"""A training that takes a second: a tiny ViT or Swin on tiny images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkern.models import SwinTransformer, VisionTransformer
from vitkern.training import TrainConfig, Trainer

CLASSES = 3


class Images(torch.utils.data.Dataset[Any]):
    """Noise over one of three fixed patterns, jittered by the global generator."""

    def __init__(self, count: int = 45, seed: int = 0, jitter: bool = True) -> None:
        patterns = torch.randn(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(99))
        noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        self.targets = [index % CLASSES for index in range(count)]
        self.images = patterns[torch.tensor(self.targets, dtype=torch.long)] + 0.5 * noise
        self.jitter = jitter

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = 0.1 * torch.randn(1, 8, 8) if self.jitter else 0
        return self.images[index] + noise, self.targets[index]


def vit(**arguments: Any) -> nn.Module:
    torch.manual_seed(7)
    return VisionTransformer(
        8, 4, 1, CLASSES, embed_dim=16, depth=2, num_heads=2, **{"proj_drop_rate": 0.1, **arguments}
    )


def swin(**arguments: Any) -> nn.Module:
    torch.manual_seed(7)
    return SwinTransformer(
        8, 1, 1, CLASSES, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, **arguments
    )


def config(**values: Any) -> TrainConfig:
    return TrainConfig(
        **{"epochs": 2, "batch_size": 8, "accumulate": 1, "lr": 1e-3, "warmup": 0.1, **values}
    )


def trainer(folder: Path, model: nn.Module | None = None, **values: Any) -> Trainer:
    own = {k: values.pop(k) for k in ("mix", "loss", "extra", "report", "train") if k in values}
    return Trainer(
        vit() if model is None else model,
        own.pop("train", None) or Images(),
        Images(21, seed=1, jitter=False),
        config=config(**values),
        folder=folder,
        num_classes=CLASSES,
        **own,
    )


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
