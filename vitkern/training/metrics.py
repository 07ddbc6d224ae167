"""What a classifier's probabilities are worth, by torchmetrics."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_recall,
    multiclass_specificity,
)

__all__ = ["classification_metrics"]


def classification_metrics(probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Metrics of a classifier.

    Args:
        probabilities: (N, classes), each row sums to 1; N at least 1.
        labels: (N,) int64.

    Returns:
        Plain data. "accuracy"; "f1", weighted by the classes' images; "auc", one-vs-rest from the
        probabilities, the mean over classes that have images and whose rest has, None where there
        is no such class; lists by class "auc_by_class" (None where undefined), "sensitivity" and
        "specificity" (None for a class without images, or without a rest); "confusion", rows are
        true classes, columns predicted ones.
    """
    classes = probabilities.shape[1]
    labels = labels.long()
    counts = torch.bincount(labels, minlength=classes)
    some = [n > 0 for n in counts.tolist()]
    rest = [n < len(labels) for n in counts.tolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of absent classes, which are None here
        by_class = multiclass_auroc(probabilities, labels, classes, average=None).tolist()
        auc = [
            value if has and others and math.isfinite(value) else None
            for value, has, others in zip(by_class, some, rest, strict=True)
        ]
        recall = multiclass_recall(probabilities, labels, classes, average=None).tolist()
        specific = multiclass_specificity(probabilities, labels, classes, average=None).tolist()
        f1 = multiclass_f1_score(probabilities, labels, classes, average="weighted").item()
    defined = [value for value in auc if value is not None]
    return {
        "accuracy": multiclass_accuracy(probabilities, labels, classes, average="micro").item(),
        "f1": f1,
        "auc": sum(defined) / len(defined) if defined else None,
        "auc_by_class": auc,
        "sensitivity": [v if has else None for v, has in zip(recall, some, strict=True)],
        "specificity": [v if has else None for v, has in zip(specific, rest, strict=True)],
        "confusion": multiclass_confusion_matrix(probabilities, labels, classes).tolist(),
    }
