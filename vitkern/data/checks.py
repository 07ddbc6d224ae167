"""Labels are checked before hours are spent on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["check_labels", "labels_of"]


def labels_of(data: Any) -> torch.Tensor | None:
    """All labels of a data set that lists them in ``targets``; None where it does not.

    Returns:
        (N,), of the dtype that they have.
    """
    targets = getattr(data, "targets", None)
    return None if targets is None else torch.as_tensor(np.asarray(targets))


def check_labels(labels: Any, num_classes: int, name: str, *, every_class: bool = True) -> None:
    """``labels`` are those of a split with ``num_classes`` classes.

    Args:
        labels: (N,) numbers.
        num_classes: labels are 0 to ``num_classes`` - 1.
        name: of the split, for messages.
        every_class: each class has an image.

    Raises:
        ValueError: an empty split, labels that are no number or no whole number, one out of range,
            or a class without images.
    """
    values = torch.as_tensor(np.asarray(labels))
    if values.numel() == 0:
        raise ValueError(f"the {name} split has no images")
    if values.ndim != 1:
        raise ValueError(f"labels of the {name} split must be one number an image")
    if values.is_floating_point():
        wrong = values.isnan().nonzero()
        if len(wrong):
            raise ValueError(
                f"labels of the {name} split must be numbers: {len(wrong)} are NaN, the first at"
                f" image {int(wrong[0])}"
            )
        if not bool((values == values.round()).all()):
            raise ValueError(f"labels of the {name} split must be whole numbers")
    outside = ((values < 0) | (values >= num_classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"labels of the {name} split must be 0 to {num_classes - 1}: {len(outside)} are not,"
            f" the first is {values[first].item()} at image {first}"
        )
    counts = torch.bincount(values.long(), minlength=num_classes)
    missing = (counts == 0).nonzero().flatten().tolist()
    if every_class and missing:
        raise ValueError(f"the {name} split has no image of class {', '.join(map(str, missing))}")
