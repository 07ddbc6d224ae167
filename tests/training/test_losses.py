"""Losses, distillation and metrics against their definitions, written out or by scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import timm
import torch
from torch import nn

from tests.training import toy
from vitkern.training import CrossEntropy, balanced_weights, classification_metrics, evaluate
from vitkern.training.distillation import DistillationLoss


def test_cross_entropy(generator: torch.Generator) -> None:
    logits = torch.randn(5, 3, generator=generator)
    labels = torch.tensor([0, 1, 2, 2, 1])
    soft = 0.9 * torch.nn.functional.one_hot(labels, 3).float() + 0.1 / 3
    expected = -(soft * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(CrossEntropy(0.1)(logits, labels, logits), expected)
    torch.testing.assert_close(CrossEntropy()(logits, soft, logits), expected)


def test_balanced_weights() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    weights = balanced_weights(labels, 2)
    torch.testing.assert_close(weights, torch.tensor([4 / 6, 2.0]))
    assert weights[labels].mean() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"none of \[2\]"):
        balanced_weights(labels, 3)


class Fixed(nn.Module):
    """A teacher that always says the same."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_distillation(generator: torch.Generator) -> None:
    said, logits = torch.randn(2, 4, 3, generator=generator)
    labels, images = torch.tensor([0, 1, 2, 0]), torch.zeros(4, 1, 2, 2)
    loss = DistillationLoss(Fixed(said), temperature=2.0, alpha=0.3)
    p, q = (said / 2).softmax(1), (logits / 2).softmax(1)
    divergence = (p * (p / q).log()).sum(1) * 4
    plain = CrossEntropy()(logits, labels, images)
    torch.testing.assert_close(loss(logits, labels, images), 0.7 * plain + 0.3 * divergence)
    hard = DistillationLoss(Fixed(said), alpha=0.3, hard=True)
    choice = CrossEntropy()(logits, said.argmax(1), images)
    torch.testing.assert_close(hard(logits, labels, images), 0.7 * plain + 0.3 * choice)
    # A distillation token learns from the teacher, the class token from the labels.
    other = torch.randn(4, 3, generator=generator)
    both = hard((logits, other), labels, images)
    choice = CrossEntropy()(other, said.argmax(1), images)
    torch.testing.assert_close(both, 0.7 * plain + 0.3 * choice)
    assert not any(p.requires_grad for p in loss.parameters())


def test_the_gradient_does_not_fade_with_the_temperature(generator: torch.Generator) -> None:
    """What T² is for (arXiv 1503.02531, section 2.1)."""
    said, start = 0.1 * torch.randn(2, 4, 3, generator=generator)
    norms = []
    for temperature in (3.0, 30.0):
        logits = start.clone().requires_grad_()
        loss = DistillationLoss(Fixed(said), temperature=temperature, alpha=1.0)
        loss(logits, torch.zeros(4, dtype=torch.long), logits).sum().backward()
        assert logits.grad is not None
        norms.append(logits.grad.norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def test_wrong_distillation() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        DistillationLoss(Fixed(torch.zeros(1, 3)), temperature=0)
    with pytest.raises(ValueError, match="alpha must be"):
        DistillationLoss(Fixed(torch.zeros(1, 3)), alpha=2)
    loss = DistillationLoss(Fixed(torch.zeros(1, 3)))
    with pytest.raises(ValueError, match="the student's 4 classes, got 3"):
        loss(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, 2, 2))


def test_a_distillation_token_trains(tmp_path: Path) -> None:
    student = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=8, patch_size=4, in_chans=1, num_classes=3,
        embed_dim=16, depth=1, num_heads=2,
    )  # fmt: skip
    student.set_distilled_training(True)
    before = toy.weights(student)
    loss = DistillationLoss(toy.vit(), hard=True)
    result = toy.trainer(tmp_path, student, loss=loss, epochs=1).fit()
    assert result.best["images"] == 21
    for name in ("head.weight", "head_dist.weight", "dist_token"):
        assert not torch.equal(before[name], student.state_dict()[name]), name


def test_metrics_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(3, 200, p=[0.6, 0.3, 0.1])
    logits = random.normal(size=(200, 3)) + 1.2 * np.eye(3)[labels]
    values = torch.from_numpy(logits).softmax(1)
    found = classification_metrics(values, torch.from_numpy(labels))
    choice, truth = values.argmax(1).numpy(), labels
    exact = {"rel": 1e-5}
    assert found["accuracy"] == pytest.approx((choice == truth).mean(), **exact)
    f1 = sklearn.metrics.f1_score(truth, choice, average="weighted")
    assert found["f1"] == pytest.approx(f1, **exact)
    auc = sklearn.metrics.roc_auc_score(truth, values.numpy(), multi_class="ovr", average="macro")
    assert found["auc"] == pytest.approx(auc, **exact)
    assert 0.6 < found["auc"] < 0.99
    matrix = sklearn.metrics.confusion_matrix(truth, choice)
    assert found["confusion"] == matrix.tolist()
    recall = matrix.diagonal() / matrix.sum(1)
    assert found["sensitivity"] == pytest.approx(recall.tolist(), **exact)
    rest = matrix.sum() - matrix.sum(1)
    negatives = rest - (matrix.sum(0) - matrix.diagonal())
    assert found["specificity"] == pytest.approx((negatives / rest).tolist(), **exact)


def test_metrics_of_absent_classes_are_none_not_a_number() -> None:
    values = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    found = classification_metrics(values, torch.tensor([0, 1, 1]))
    assert found["auc_by_class"] == [1.0, 1.0, None]
    assert found["auc"] == 1.0
    assert found["sensitivity"][2] is None
    assert found["specificity"][2] == 1.0
    one = classification_metrics(values, torch.tensor([0, 0, 0]))
    assert one["auc"] is None
    assert one["specificity"][0] is None


def test_evaluation_keeps_the_mode_and_checks_labels() -> None:
    model, data = toy.vit(), toy.Images(7, jitter=False)
    model.train()
    options = {"batch_size": 3, "device": torch.device("cpu")}
    found = evaluate(model, data, **options)
    assert model.training
    assert found["images"] == 7
    assert evaluate(model, data, batch_size=7, device=torch.device("cpu"))["loss"] == pytest.approx(
        found["loss"], rel=1e-5
    )
    data.targets[0] = 3
    with pytest.raises(ValueError, match="labels must be 0 to 2"):
        evaluate(model, data, **options)
    with pytest.raises(ValueError, match="empty split"):
        evaluate(model, toy.Images(0), **options)
