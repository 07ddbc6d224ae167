"""Our DETR and Hugging Face's, small and with the same random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import DetrConfig, DetrForObjectDetection

from vitkern.models.detr import DETR
from vitkern.models.layouts import huggingface_detr

BACKBONE = "test_resnet"
CLASSES = 5
QUERIES = 10


@pytest.fixture
def theirs() -> Any:
    """Hugging Face's DETR in float64, every weight and statistic far from its initial value."""
    config = DetrConfig(
        backbone_config={
            "model_type": "timm_backbone",
            "backbone": BACKBONE,
            "features_only": True,
            "use_pretrained_backbone": False,
            "out_indices": [1, 2, 3, 4],
        },
        num_labels=CLASSES,
        num_queries=QUERIES,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        auxiliary_loss=False,
        attn_implementation="eager",
    )
    model = DetrForObjectDetection(config).double().eval()
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                value.copy_(1 + 0.3 * noise.tanh())
            elif name.endswith("query_position_embeddings.weight"):
                value.copy_(2 * noise)  # queries that differ
            elif value.dim() > 1:
                value.copy_(noise * (2.0 / value[0].numel()) ** 0.5)
            else:
                value.copy_((1.0 if name.endswith("weight") else 0.0) + 0.3 * noise)
    return model


@pytest.fixture
def ours(theirs: Any) -> DETR:
    """Ours with those weights."""
    model = DETR(
        BACKBONE,
        CLASSES,
        num_queries=QUERIES,
        embed_dim=32,
        encoder_depth=2,
        decoder_depth=3,
        num_heads=4,
        mlp_dim=48,
    )
    model.double().load_state_dict(huggingface_detr.convert(theirs.state_dict()))
    return model.eval()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
