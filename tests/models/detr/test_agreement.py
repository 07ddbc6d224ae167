"""DETR and its loss against Hugging Face's, weight for weight in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn
from transformers import DetrImageProcessor
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss, generalized_box_iou
from transformers.loss.loss_for_object_detection import HungarianMatcher as TheirMatcher

from vitkern.models.detr import HungarianMatcher, SetCriterion, pad_images, post_process
from vitkern.models.detr.boxes import generalized_iou, to_corners
from vitkern.models.detr.position import sine_positions

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
CLASSES = 5


@contextmanager
def default_float64() -> Iterator[None]:
    """Their loss makes its class weights in the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def photographs() -> torch.Tensor:
    """The two photographs that scikit-learn ships, (2, 3, 128, 192), as DETR wants them."""
    images = torch.stack([torch.from_numpy(i.copy()) for i in load_sample_images().images])
    images = images.permute(0, 3, 1, 2).double() / 255
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    return nn.functional.interpolate((images - mean) / std, size=(128, 192), mode="bilinear")


def batch(kind: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images and padding mask."""
    if kind == "photographs":
        return photographs(), None
    if kind == "padded photographs":
        first, second = photographs()
        return pad_images([first, second[:, :90, :70]])
    sizes = [(64, 64), (50, 90), (97, 33)] if kind == "padded" else [(77, 101)] * 2
    generator = torch.Generator().manual_seed(5)
    images = [torch.randn(3, *s, generator=generator, dtype=torch.float64) for s in sizes]
    padded, mask = pad_images(images)
    return padded, (mask if kind == "padded" else None)


def targets_of(count: int, most: int = 4) -> list[dict[str, torch.Tensor]]:
    """Objects of ``count`` images: 0 in the first, up to ``most`` in the others."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for index in range(count):
        objects = index * most // max(count - 1, 1)
        centre = 0.2 + 0.6 * torch.rand(objects, 2, generator=generator, dtype=torch.float64)
        size = 0.05 + 0.3 * torch.rand(objects, 2, generator=generator, dtype=torch.float64)
        labels = torch.randint(CLASSES, (objects,), generator=generator)
        found.append({"labels": labels, "boxes": torch.cat((centre, size), dim=1)})
    return found


def renamed(targets: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    return [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]


KINDS = ["no mask", "padded", "photographs", "padded photographs"]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_every_layer(ours: Any, theirs: Any, kind: str) -> None:
    images, mask = batch(kind)
    pixel_mask = None if mask is None else (~mask).long()
    with torch.no_grad():
        found = ours(images, mask)
        expected = theirs(images, pixel_mask=pixel_mask, output_hidden_states=True)
    torch.testing.assert_close(found["pred_logits"], expected.logits, **TOLERANCE)
    torch.testing.assert_close(found["pred_boxes"], expected.pred_boxes, **TOLERANCE)
    assert found["pred_logits"].std() > 0.1  # the agreement is not that of constants
    assert (found["pred_boxes"][:, 0] - found["pred_boxes"][:, 1]).abs().max() > 1e-3

    # Hidden states begin with the queries' zeros. With auxiliary_loss=True theirs would also feed
    # the normalised tokens to the next layer, which neither the paper nor the original does.
    hidden = expected.decoder_hidden_states[1:-1]
    assert len(found["aux_outputs"]) == len(hidden) == 2
    for layer, tokens in zip(found["aux_outputs"], hidden, strict=True):
        tokens = theirs.model.decoder.layernorm(tokens)
        logits, boxes = theirs.class_labels_classifier(tokens), theirs.bbox_predictor(tokens)
        torch.testing.assert_close(layer["pred_logits"], logits, **TOLERANCE)
        torch.testing.assert_close(layer["pred_boxes"], boxes.sigmoid(), **TOLERANCE)


@pytest.mark.parametrize("kind", ["padded", "photographs"])
@pytest.mark.parametrize("most", [0, 4, 15])  # 15 objects are more than the queries
def test_losses_and_gradients(ours: Any, theirs: Any, kind: str, most: int) -> None:
    images, mask = batch(kind)
    targets = targets_of(len(images), most)
    criterion = SetCriterion(CLASSES)
    found = criterion(ours(images, mask), targets)
    found["loss"].backward()

    pixel_mask = None if mask is None else (~mask).long()
    outputs = theirs(images, pixel_mask=pixel_mask, output_hidden_states=True)
    earlier = [theirs.model.decoder.layernorm(t) for t in outputs.decoder_hidden_states[1:-1]]
    tokens = torch.stack([*earlier, outputs.last_hidden_state])
    logits, boxes = theirs.class_labels_classifier(tokens), theirs.bbox_predictor(tokens).sigmoid()
    theirs.config.auxiliary_loss = True
    with default_float64():
        loss, losses, _ = ForObjectDetectionLoss(
            logits[-1], renamed(targets), images.device, boxes[-1], theirs.config, logits, boxes
        )
    loss.backward()
    torch.testing.assert_close(found["loss"], loss, **TOLERANCE)
    for name, value in losses.items():
        if name.startswith("cardinality_error"):
            continue
        name = name.replace("loss_ce", "loss_class")
        torch.testing.assert_close(found[name], value, **TOLERANCE)
    error = losses["cardinality_error"]
    torch.testing.assert_close(found["cardinality_error"], error.double(), **TOLERANCE)

    for name, parameter in our_names(ours, theirs).items():
        expected = dict(theirs.named_parameters())[name].grad
        assert expected is not None, name
        scale = expected.abs().max().clamp(min=1.0)
        torch.testing.assert_close(parameter.grad / scale, expected / scale, **TOLERANCE)


def our_names(ours: nn.Module, theirs: nn.Module) -> dict[str, nn.Parameter]:
    """Our parameters under their names, found by their values."""
    table = {}
    mine = dict(ours.named_parameters())
    for name, value in theirs.named_parameters():
        equal = [k for k, p in mine.items() if p.shape == value.shape and torch.equal(p, value)]
        assert len(equal) == 1, (name, equal)
        table[name] = mine[equal[0]]
    assert len(table) == len(mine)
    return table


def test_their_own_loss_where_normalising_twice_changes_nothing(ours: Any, theirs: Any) -> None:
    """Their whole path with auxiliary losses, whose decoder normalises between the layers: with
    exact norms and without affine parameters a second norm gives what the first gave."""
    for model, last in ((ours, "norm3"), (theirs.model, "final_layer_norm")):
        norms = [getattr(layer, last) for layer in model.decoder.layers]
        norms.append(model.decoder.norm if last == "norm3" else model.decoder.layernorm)
        for norm in norms:
            norm.eps = 0.0
            nn.init.ones_(norm.weight)
            nn.init.zeros_(norm.bias)
    theirs.config.auxiliary_loss = True
    images, mask = batch("padded")
    targets = targets_of(len(images))
    with default_float64(), torch.no_grad():
        expected = theirs(images, pixel_mask=(~mask).long(), labels=renamed(targets))
        found = ours(images, mask)
    torch.testing.assert_close(
        SetCriterion(CLASSES)(found, targets)["loss"], expected.loss, **TOLERANCE
    )
    for layer, other in zip(found["aux_outputs"], expected.auxiliary_outputs, strict=True):
        torch.testing.assert_close(layer["pred_logits"], other["logits"], **TOLERANCE)
        torch.testing.assert_close(layer["pred_boxes"], other["pred_boxes"], **TOLERANCE)


def test_matches_are_theirs() -> None:
    generator = torch.Generator().manual_seed(11)
    targets = targets_of(4, 6)
    logits = torch.randn(4, 8, CLASSES + 1, generator=generator, dtype=torch.float64)
    boxes = torch.rand(4, 8, 4, generator=generator, dtype=torch.float64)
    found = HungarianMatcher(1, 5, 2)({"pred_logits": logits, "pred_boxes": boxes}, targets)
    expected = TheirMatcher(1, 5, 2)({"logits": logits, "pred_boxes": boxes}, renamed(targets))
    for match, other in zip(found, expected, strict=True):
        assert torch.equal(match[0], other[0])
        assert torch.equal(match[1], other[1])


def test_generalized_iou_is_theirs() -> None:
    generator = torch.Generator().manual_seed(13)
    a, b = torch.rand(2, 30, 4, generator=generator, dtype=torch.float64)
    a, b = to_corners(a), to_corners(b)
    torch.testing.assert_close(
        generalized_iou(a[:, None], b[None]), generalized_box_iou(a, b), **TOLERANCE
    )


def test_positions_are_theirs(theirs: Any) -> None:
    _, mask = batch("padded")
    expected = theirs.model.position_embedding(
        (3, 1, *mask.shape[1:]), mask.device, torch.float64, mask=~mask
    )
    found = sine_positions(mask, 32, torch.float64)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), **TOLERANCE)


@pytest.mark.parametrize("sizes", [None, [(480, 640), (1080, 720)]])
def test_post_processing_is_theirs(ours: Any, theirs: Any, sizes: Any) -> None:
    images, _ = batch("photographs")
    with torch.no_grad():
        outputs = theirs(images)
        found = post_process(ours(images), sizes, threshold=0.3)
    expected = DetrImageProcessor().post_process_object_detection(outputs, 0.3, sizes)
    assert sum(len(objects["labels"]) for objects in found) > 3
    for objects, other in zip(found, expected, strict=True):
        order = other["scores"].argsort(descending=True, stable=True)
        for name in ("scores", "labels", "boxes"):
            torch.testing.assert_close(objects[name], other[name][order], **TOLERANCE)
