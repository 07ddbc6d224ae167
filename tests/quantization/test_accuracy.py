"""What int8 costs: logits of timm's models, and the accuracy of a model that was trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import vitkern
from tests.quantization.conftest import infer
from vitkern import models
from vitkern.bench.models import create

CHOICES = {
    "minmax": {"observer": "minmax"},
    "percentile": {"observer": "percentile"},
    "mse": {"observer": "mse"},
    "dynamic": {"activations": "dynamic"},
}


def images(seed: int, size: int = 224) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def smallest_cosine(model: nn.Module, size: int, options: dict[str, Any]) -> float:
    """Of two images that the calibration data did not have."""
    x = images(1, size)
    wanted = infer(model, x)
    vitkern.quantize(model, images(2, size), **options)
    return torch.cosine_similarity(infer(model, x), wanted).min().item()


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch16_224", {"img_size": 96}),
        ("swin_tiny_patch4_window7_224", {"img_size": 112, "depths": (2, 2, 2, 2)}),
    ],
)
def test_logits_of_random_weights(name: str, options: dict[str, Any], choice: str) -> None:
    """Measured: at least 0.9995 with any choice, where sums of two need pairs or not."""
    model = create(name, **options).eval()
    assert smallest_cosine(model, options["img_size"], CHOICES[choice]) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["vit_small_patch16_224", "swin_tiny_patch4_window7_224"])
def test_logits_at_full_size(name: str, choice: str) -> None:
    assert smallest_cosine(create(name).eval(), 224, CHOICES[choice]) >= 0.999


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ViT that reads handwritten digits; images for calibration, images and labels for tests."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:-400], order[-400:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.VisionTransformer(
            img_size=8,
            patch_size=4,
            in_chans=1,
            num_classes=10,
            embed_dim=64,
            depth=2,
            num_heads=4,
            class_token=False,
            global_pool="avg",
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
        batches = [rows for _ in range(30) for rows in train[torch.randperm(len(train))].split(50)]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=len(batches))
        for rows in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(distorted(x[rows])), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval(), x[train[:256]], x[test], y[test]


def distorted(x: torch.Tensor) -> torch.Tensor:
    """Each image moved, turned and stretched a little."""
    theta = torch.eye(2, 3) + 0.08 * torch.randn(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """In percent."""
    return 100 * (infer(model, x).argmax(1) == y).float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_a_trained_model_stays_as_accurate(digits: Any, choice: str) -> None:
    model, calibration, x, y = digits
    before = accuracy(model, x, y)
    assert before > 97.0
    report = vitkern.quantize(model, calibration.split(64), **CHOICES[choice])
    after = accuracy(model, x, y)
    vitkern.unpatch(model)
    print(f"{choice}: {before:.2f} %, {after:.2f} % in int8; {report.error}, {report.cosine}")
    assert len(report.quantized) == 8
    assert after >= before - 0.3
    assert accuracy(model, x, y) == before
