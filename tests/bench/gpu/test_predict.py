"""Predictions: which launches are counted, and what of."""

from __future__ import annotations

import json

import pytest
import torch

from vitkern.bench.gpu import report
from vitkern.bench.gpu.predict import predict
from vitkern.ops._triton.targets import TARGETS
from vitkern.patching.swap import is_patched

timm = pytest.importorskip("timm")


def _model(**options: object) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = timm.create_model("vit_tiny_patch16_224", depth=2, **options)
    return model.eval().bfloat16()


IMAGES = torch.empty(8, 3, 224, 224, device="meta", dtype=torch.bfloat16)


def test_three_systems_of_one_model() -> None:
    model = _model()
    ours, eager, flash = predict(model, IMAGES, TARGETS["h100"])
    assert [one.system for one in (ours, eager, flash)] == [
        "triton", "eager, attention unfused", "eager with FlashAttention",
    ]  # fmt: skip
    assert ours.flops == eager.flops == flash.flops > 0
    for one in (ours, eager, flash):
        assert 0 < one.share < TARGETS["h100"].sustained
        assert one.seconds == pytest.approx(sum(s for _, s, _ in one.by_name().values()))
    # Unfused attention moves its scores through memory; flash has one launch a block instead.
    assert eager.bytes > flash.bytes > ours.bytes
    assert flash.by_name()["flash_attention"][0] == 2
    assert len(ours.kernels) < len(flash.kernels) < len(eager.kernels)


def test_our_kernels_are_counted_and_the_model_is_left_as_it_was() -> None:
    model = _model()
    ours = predict(model, IMAGES, TARGETS["a100"])[0]
    names = set(ours.by_name())
    assert {"layer_norm.forward", "attention.forward"} <= names
    assert not names & {"bmm", "gelu", "convolution", "_softmax", "_safe_softmax"}
    # The last norm and the head stay as they are: patched only where a backend is named.
    assert ours.by_name()["addmm"][0] == ours.by_name()["native_layer_norm"][0] == 1
    assert not any(is_patched(module) for module in model.modules())
    assert "forward" not in vars(model)


def test_products_are_all_there() -> None:
    """What the launches say they do, without padding, is what the model's own count says."""
    for one in predict(_model(), IMAGES, TARGETS["h100"])[::2]:
        assert sum(kernel.work.useful for kernel in one.kernels) == pytest.approx(
            one.flops, rel=1e-6
        )


def test_work_is_consistent() -> None:
    for kernel in predict(_model(), IMAGES, TARGETS["h100"])[0].kernels:
        work = kernel.work
        assert work.flops >= work.useful >= 0
        assert work.read >= work.unique > 0
        assert work.written > 0


def test_a_faster_card_is_faster() -> None:
    seconds = [
        predict(_model(), IMAGES, TARGETS[name])[0].seconds for name in ("a100", "h100", "b200")
    ]
    assert seconds == sorted(seconds, reverse=True)


def test_tensors_with_data_are_refused() -> None:
    with pytest.raises(ValueError, match="must be on the meta device"):
        predict(_model(), torch.empty(1, 3, 224, 224), TARGETS["h100"])


def test_the_document_says_that_it_is_a_prediction() -> None:
    document = report.document(predict(_model(), IMAGES, TARGETS["h100"]), "vit", 8)
    assert document["kind"] == "prediction"
    assert "not measured" in document["note"]
    assert len(json.loads(json.dumps(document))["systems"]) == 3
