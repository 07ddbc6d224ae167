"""Full-size models beside other libraries' in float64: ``python -m benchmarks.model_agreement``.

Random weights, saved by the other library and loaded by ``load_checkpoint``; the photographs that
scikit-learn ships; the largest difference of logits, absolute and relative to the largest logit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn

from vitkern.models import create_model, load_checkpoint

ROWS: dict[str, tuple[str, Callable[[], nn.Module], int]] = {
    "timm vit_base_patch16_224": (
        "vit_base_patch16_224",
        lambda: timm.create_model("vit_base_patch16_224"),
        224,
    ),
    "timm swin_tiny_patch4_window7_224": (
        "swin_tiny_patch4_window7_224",
        lambda: timm.create_model("swin_tiny_patch4_window7_224"),
        224,
    ),
    "timm swinv2_tiny_window8_256": (
        "swinv2_tiny_window8_256",
        lambda: timm.create_model("swinv2_tiny_window8_256"),
        256,
    ),
    "torchvision vit_b_16": ("vit_base_patch16_224", torchvision.models.vit_b_16, 224),
    "torchvision swin_t": ("swin_tiny_patch4_window7_224", torchvision.models.swin_t, 224),
    "torchvision swin_v2_t": ("swinv2_tiny_window8_256", torchvision.models.swin_v2_t, 256),
    "Hugging Face ViT (base)": (
        "vit_base_patch16_224",
        lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(num_labels=1000, layer_norm_eps=1e-6)
        ),
        224,
    ),
    "Hugging Face Swin (tiny)": (
        "swin_tiny_patch4_window7_224",
        lambda: transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=1000)),
        224,
    ),
    "Hugging Face Swinv2 (tiny)": (
        "swinv2_tiny_window8_256",
        lambda: transformers.Swinv2ForImageClassification(
            transformers.Swinv2Config(num_labels=1000, image_size=256, window_size=8)
        ),
        256,
    ),
    "Hugging Face DETR (ResNet-50)": (
        "detr_resnet50",
        lambda: transformers.DetrForObjectDetection(transformers.DetrConfig(num_labels=91)),
        320,
    ),
}


def photographs(size: int) -> torch.Tensor:
    """(2, 3, size, size), float64, normalised."""
    images = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    images = images.permute(0, 3, 1, 2).double() / 255
    return nn.functional.interpolate((images - 0.45) / 0.225, (size, size), mode="bilinear")


def randomise(model: nn.Module) -> None:
    """Biases, norms and tables too, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            spread = 0.2 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(spread * noise + (parameter if parameter.dim() == 1 else 0.0))


@torch.no_grad()
def difference(name: str, make: Callable[[], nn.Module], size: int) -> tuple[float, float]:
    """Of the logits, the largest absolute and the largest relative to the largest logit.

    Raises:
        RuntimeError: the photographs give the same logits, so that equal ones would say nothing.
    """
    theirs = make().double().eval()
    randomise(theirs)
    images = photographs(size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
        ours = create_model(name).double().eval()
        load_checkpoint(ours, path)
    expected, found = theirs(images), ours(images)
    expected = getattr(expected, "logits", expected)
    found = found["pred_logits"] if isinstance(found, dict) else found
    if not (expected[0] - expected[1]).abs().max() > 1e-3 * expected.abs().max():
        raise RuntimeError(f"{name}: both photographs have the same logits")
    largest = (found - expected).abs().max().item()
    return largest, largest / expected.abs().max().item()


def main() -> None:
    for title, (name, make, size) in ROWS.items():
        absolute, relative = difference(name, make, size)
        print(f"{title}: {absolute:.1e} ({relative:.1e})", flush=True)


if __name__ == "__main__":
    main()
