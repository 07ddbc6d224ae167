"""DETR, its loss and what stands around them, by themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vitkern.models import create_model
from vitkern.models.detr import (
    DETR,
    CrossAttention,
    HungarianMatcher,
    SetCriterion,
    TimmBackbone,
    pad_images,
    post_process,
)
from vitkern.models.detr.boxes import generalized_iou, to_centres, to_corners

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "num_classes": 3,
    "num_queries": 6,
    "embed_dim": 16,
    "encoder_depth": 1,
    "decoder_depth": 2,
    "num_heads": 2,
    "mlp_dim": 24,
}


def small(**overrides: Any) -> DETR:
    return DETR(**{**SMALL, **overrides})


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows).reshape(-1, 4)


TARGETS = [
    {"labels": torch.tensor([0, 2]), "boxes": boxes((0.3, 0.3, 0.2, 0.4), (0.7, 0.5, 0.4, 0.4))},
    {"labels": torch.empty(0, dtype=torch.int64), "boxes": boxes()},
]


def test_the_published_configuration():
    with torch.device("meta"):
        model = create_model("detr_resnet50")
    assert (model.num_classes, model.num_queries, model.embed_dim) == (91, 100, 256)
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (6, 6)
    assert model.input_proj.weight.shape == (256, 2048, 1, 1)
    assert model.class_head.out_features == 92
    count = sum(p.numel() for p in model.parameters())
    count += sum(b.numel() for n, b in model.named_buffers() if n.endswith(("weight", "bias")))
    assert round(count / 1e5) / 10 == 41.6  # millions; the paper's table says 41


def test_padding_changes_nothing_inside_the_transformer():
    """What padded pixels hold cannot reach the predictions but through the backbone's borders."""
    model = small().eval()
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[:, :, 64:] = True
    tokens = torch.randn(1, 12, 16)
    garbage = tokens.clone()
    outside = torch.nn.functional.interpolate(mask[None].float(), (3, 4))[0].bool().flatten(1)
    garbage[outside] = 1e3
    position = torch.randn(1, 12, 16)
    with torch.no_grad():
        clean = model.encoder(tokens, position, outside)
        dirty = model.encoder(garbage, position, outside)
        torch.testing.assert_close(clean[~outside], dirty[~outside])
        query = model.query_embed.weight[None]
        torch.testing.assert_close(
            model.decoder(query, clean, position, outside),
            model.decoder(query, dirty, position, outside),
        )


def test_frozen_norms_stay_and_the_stem_is_frozen_on_demand():
    model = small(freeze_stem=True).train()
    norms = {name: b.clone() for name, b in model.backbone.named_buffers()}
    assert any(name.endswith("running_var") for name in norms)
    model(torch.randn(2, 3, 64, 64))["pred_logits"].sum().backward()
    for name, value in model.backbone.named_buffers():
        assert torch.equal(value, norms[name]), name
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for name, parameter in model.backbone.body.named_parameters():
        trained = name.startswith(("layer2", "layer3", "layer4"))
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name


def test_arguments_of_the_backbone_reach_timm():
    """The map is that of the stage that is asked for, with its channels and its reduction."""
    whole = TimmBackbone("resnet18")
    short = TimmBackbone("resnet18", arguments={"out_indices": (2,), "channels": (8, 16, 24, 32)})
    assert (whole.num_features, whole.reduction) == (512, 32)
    assert (short.num_features, short.reduction) == (16, 8)
    assert short(torch.randn(1, 3, 64, 48)).shape == (1, 16, 8, 6)
    made = small(backbone="resnet18", backbone_arguments={"out_indices": (1,)})
    assert made.backbone.reduction == 4
    assert made(torch.randn(1, 3, 32, 32))["pred_boxes"].shape == (1, 6, 4)


def test_batch_norms_can_be_kept_and_norms_with_activations_keep_them():
    kept = TimmBackbone("test_resnet", frozen_batch_norm=False)
    assert any(isinstance(m, nn.BatchNorm2d) for m in kept.modules())
    torch.manual_seed(0)
    frozen = TimmBackbone("test_efficientnet").eval()
    torch.manual_seed(0)
    plain = TimmBackbone("test_efficientnet", frozen_batch_norm=False).eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(frozen(images), plain(images))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = small().train()
    losses = SetCriterion(3)(model(torch.randn(2, 3, 64, 64)), TARGETS)
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_it_learns_one_image():
    torch.manual_seed(0)
    model = small(drop_rate=0.0).train()
    criterion = SetCriterion(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images = torch.randn(2, 3, 64, 64)
    for _ in range(150):
        optimizer.zero_grad()
        losses = criterion(model(images), TARGETS)
        losses["loss"].backward()
        optimizer.step()
    found, nothing = post_process(model.eval()(images), threshold=0.6)
    assert sorted(found["labels"].tolist()) == [0, 2]
    assert nothing["labels"].tolist() == []
    order = found["labels"].argsort()
    torch.testing.assert_close(
        to_centres(found["boxes"][order]), TARGETS[0]["boxes"], atol=0.1, rtol=0.0
    )


def test_images_without_any_object():
    model = small().train()
    empty = [TARGETS[1], TARGETS[1]]
    losses = SetCriterion(3)(model(torch.randn(2, 3, 64, 64)), empty)
    assert losses["loss"].isfinite()
    assert losses["loss_bbox"] == losses["loss_giou_0"] == 0
    losses["loss"].backward()


def test_the_loss_is_the_weighted_sum():
    model = small()
    detections = model(torch.randn(2, 3, 64, 64))
    losses = SetCriterion(3, weight_class=2.0, weight_bbox=3.0, weight_giou=0.5)(
        detections, TARGETS
    )
    expected = sum(
        2 * losses["loss_class" + s] + 3 * losses["loss_bbox" + s] + 0.5 * losses["loss_giou" + s]
        for s in ("", "_0")
    )
    torch.testing.assert_close(losses["loss"], expected)


def test_objects_and_queries_are_counted_over_all_processes(monkeypatch):
    """Of two processes this one has 2 objects and the other 4: each divides by 3.

    The other's queries weigh 4 together.
    """
    detections = small()(torch.randn(2, 3, 64, 64))
    alone = SetCriterion(3)(detections, TARGETS)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(4))
    both = SetCriterion(3)(detections, TARGETS)
    torch.testing.assert_close(both["loss_bbox"], alone["loss_bbox"] * 2 / 3)
    torch.testing.assert_close(both["loss_giou_0"], alone["loss_giou_0"] * 2 / 3)
    weight = 2 + 0.1 * (detections["pred_logits"][..., 0].numel() - 2)
    torch.testing.assert_close(
        both["loss_class"], alone["loss_class"] * weight / ((weight + 4) / 2)
    )


def test_one_copy_to_the_host_for_all_layers(monkeypatch):
    copies = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda self, *a, **k: copies.append(1) or original(self, *a, **k)
    )
    detections = small(decoder_depth=4)(torch.randn(2, 3, 64, 64))
    SetCriterion(3)(detections, TARGETS)
    assert len(copies) == 1


def test_costs_that_are_not_numbers_are_matched_last():
    logits = torch.zeros(1, 3, 4)
    predicted = boxes((0.5, 0.5, 0.2, 0.2), (float("nan"),) * 4, (0.1, 0.1, 0.2, 0.2))[None]
    target = {"labels": torch.tensor([1, 1]), "boxes": boxes((0.5, 0.5, 0.2, 0.2)).repeat(2, 1)}
    query, _ = HungarianMatcher()({"pred_logits": logits, "pred_boxes": predicted}, [target])[0]
    assert query.tolist() == [0, 2]


def test_generalized_iou_of_known_boxes():
    a = to_corners(boxes((1.0, 1.0, 2.0, 2.0)))
    for b, value in (
        ((1.0, 1.0, 2.0, 2.0), 1.0),
        ((3.0, 1.0, 2.0, 2.0), 0.0),  # side by side: the hull is covered
        ((5.0, 1.0, 2.0, 2.0), -1 / 3),  # a gap as wide as each
        ((2.0, 1.0, 2.0, 2.0), 1 / 3),
    ):
        assert generalized_iou(a, to_corners(boxes(b))).item() == pytest.approx(value)
    point = boxes((0.5, 0.5, 0.5, 0.5)).requires_grad_()
    generalized_iou(point, point).sum().backward()
    assert point.grad.isfinite().all()


def test_a_query_whose_keys_are_all_padding_gives_a_number():
    attention = CrossAttention(8, 2)
    x = torch.randn(1, 3, 8)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert attention(x, x, x, mask).isfinite().all()


def test_padding_makes_a_batch():
    first, second = torch.ones(3, 2, 5), torch.full((3, 4, 3), 2.0)
    images, mask = pad_images([first, second], multiple=3)
    assert images.shape == (2, 3, 6, 6)
    assert torch.equal(images[0, :, :2, :5], first)
    assert torch.equal(images[1, :, :4, :3], second)
    assert images.sum() == first.sum() + second.sum()
    assert (~mask).sum((1, 2)).tolist() == [10, 12]


def test_no_mask_equals_an_empty_mask():
    model = small().eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        plain = model(images)
        masked = model(images, torch.zeros(2, 64, 96, dtype=torch.bool))
    torch.testing.assert_close(plain["pred_boxes"], masked["pred_boxes"])


def test_without_auxiliary_outputs_and_without_images():
    model = small(aux_loss=False).eval()
    detections = model(torch.randn(2, 3, 64, 64))
    assert "aux_outputs" not in detections
    assert set(SetCriterion(3)(detections, TARGETS)) == {
        "loss",
        "loss_class",
        "loss_bbox",
        "loss_giou",
        "cardinality_error",
    }
    nothing = model(torch.randn(0, 3, 64, 64))
    assert nothing["pred_boxes"].shape == (0, 6, 4)
    assert post_process(nothing) == []


def test_trains_under_autocast():
    model = small().train()
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        detections = model(images)
        losses = SetCriterion(3)(detections, TARGETS)
    assert detections["pred_logits"].dtype == torch.bfloat16
    assert losses["loss"].dtype == torch.float32
    losses["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_compiles_without_a_graph_break():
    model = small().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images, mask = pad_images([torch.randn(3, 64, 64), torch.randn(3, 40, 50)])
    with torch.no_grad():
        found, expected = compiled(images, mask), model(images, mask)
    torch.testing.assert_close(found["pred_boxes"], expected["pred_boxes"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"backbone": "resnet_fifty"}, ValueError, "name of a timm model, got 'resnet_fifty'"),
        ({"backbone_arguments": {"depth": 3}}, ValueError, "does not with {'depth': 3}"),
        ({"backbone_arguments": {"out_indices": (9,)}}, ValueError, "out_indices"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"num_queries": 0}, ValueError, "num_queries must be at least 1"),
        ({"embed_dim": 10}, ValueError, "embed_dim must be a multiple of 4, got 10"),
        ({"num_heads": 3}, ValueError, "embed_dim must be a multiple of num_heads"),
        ({"decoder_depth": 0}, ValueError, "decoder_depth must be at least 1"),
        ({"mlp_dim": 2.5}, TypeError, "mlp_dim must be an int"),
        ({"drop_rate": 1.0}, ValueError, "drop_rate must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        small(**arguments)


def test_wrong_inputs_are_named():
    model = small()
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="images must have 3 channels"):
        model(torch.randn(2, 1, 64, 64))
    with pytest.raises(TypeError, match=r"padding_mask must be a bool tensor, got torch.int64"):
        model(images, torch.zeros(2, 64, 64, dtype=torch.long))
    with pytest.raises(ValueError, match=r"padding_mask must have shape \(2, 64, 64\)"):
        model(images, torch.zeros(2, 1, 64, 64, dtype=torch.bool))
    with pytest.raises(ValueError, match="images must hold at least one image"):
        pad_images([])
    with pytest.raises(ValueError, match=r"images\[1\] must have shape"):
        pad_images([torch.zeros(3, 2, 2), torch.zeros(2, 2)])
    with pytest.raises(ValueError, match="one number of channels, dtype and device"):
        pad_images([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)])
    with pytest.raises(ValueError, match=r"image_sizes must be one .* for each of 2 images"):
        post_process(model(images), [(4, 5)])


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ({"labels": torch.tensor([3])}, ValueError, "labels'. must be from 0 to 2"),
        ({"labels": torch.tensor([-1])}, ValueError, "labels'. must be from 0 to 2"),
        ({"labels": torch.tensor([1.0])}, TypeError, "labels'. must be int64, got torch.float32"),
        ({"labels": torch.tensor([1, 2])}, ValueError, r"got \(2,\) and \(1, 4\)"),
        ({"boxes": boxes((0.1, 0.1, -0.1, 0.1))}, ValueError, "no negative width"),
        ({"boxes": boxes((0.1, 0.1, float("nan"), 0.1))}, ValueError, "must be finite"),
        ({"boxes": torch.ones(1, 4, dtype=torch.long)}, TypeError, "boxes'. must be floating"),
    ],
)
def test_wrong_targets_are_named(target, error, message):
    good = {"labels": torch.tensor([1]), "boxes": boxes((0.5, 0.5, 0.1, 0.1))}
    detections = {"pred_logits": torch.randn(2, 6, 4), "pred_boxes": torch.rand(2, 6, 4)}
    with pytest.raises(error, match=r"targets\[1\].*" + message):
        SetCriterion(3)(detections, [good, {**good, **target}])


def test_other_wrong_arguments_of_the_loss_are_named():
    detections = {"pred_logits": torch.randn(2, 6, 4), "pred_boxes": torch.rand(2, 6, 4)}
    with pytest.raises(ValueError, match="targets must be one for each of 2 images, got 1"):
        SetCriterion(3)(detections, TARGETS[:1])
    with pytest.raises(ValueError, match=r"must have 6 classes .num_classes \+ 1., got 4"):
        SetCriterion(5)(detections, TARGETS)
    with pytest.raises(ValueError, match="weight_giou must be at least 0, got -1"):
        SetCriterion(3, weight_giou=-1.0)
    with pytest.raises(ValueError, match="one of cost_class, cost_bbox and cost_giou"):
        HungarianMatcher(0, 0, 0)
