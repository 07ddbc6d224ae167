"""MedicalViT: what sets it apart from the ViT that it is."""

from __future__ import annotations

import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from torch import nn

from vitkern.models import MedicalViT, VisionTransformer, create_model

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def test_the_large_configuration():
    with torch.device("meta"):
        model = create_model("medical_vit_large")
    assert type(model) is MedicalViT
    assert model.patch_embed.img_size == (512, 512)
    assert (model.embed_dim, len(model.blocks)) == (1024, 16)
    block = model.blocks[0]
    assert block.attn.num_heads == 16
    assert block.mlp.fc1.out_features == 1.5 * 4 * 1024
    rates = (block.attn.attn_drop.p, block.attn.proj_drop.p, block.mlp.drop1.p, block.mlp.drop2.p)
    assert rates == (0.1, 0.1, 0.2, 0.2)
    assert model.head_drop.p == 0.5


@pytest.mark.parametrize("in_chans", [1, 3])
def test_the_head_starts_from_zero_and_everything_learns(in_chans):
    model = MedicalViT(in_chans=in_chans, num_classes=3, **SMALL).train()
    images, labels = torch.randn(4, in_chans, 32, 32), torch.tensor([0, 1, 2, 0])
    assert not model(images).any()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_it_is_a_vit_with_the_same_weights():
    model = MedicalViT(**SMALL).eval()
    nn.init.normal_(model.head.weight)
    vit = VisionTransformer(in_chans=1, num_classes=2, mlp_ratio=6.0, **SMALL).eval()
    vit.load_state_dict(model.state_dict())
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(model(images), vit(images))


def test_a_real_slice():
    pixels = pydicom.dcmread(get_testdata_file("CT_small.dcm")).pixel_array
    image = torch.from_numpy(pixels.astype("float32"))[None, None]
    image = (image - image.mean()) / image.std()
    model = create_model("medical_vit_small", depth=1, img_size=128, num_classes=0).eval()
    features = model(image)
    assert features.shape == (1, 384)
    assert features.isfinite().all()


def test_wrong_channels_are_named():
    with pytest.raises(ValueError, match="in_chans must be 1 or 3, got 4"):
        MedicalViT(in_chans=4, **SMALL)
    with pytest.raises(ValueError, match="drop must be at least 0 and below 1, got 1"):
        MedicalViT(mlp_drop_rate=1.0, **SMALL)
