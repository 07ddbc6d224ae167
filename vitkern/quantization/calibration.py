"""Calibration data, and runs of a model on it that leave no trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves


def batches_of(calibration: Any, model: nn.Module) -> list[torch.Tensor]:
    """The inputs in ``calibration``, all in memory: the model sees them several times.

    Args:
        calibration: a tensor, which is one batch; or an iterable of tensors, or of tuples or lists
            that begin with one, as a DataLoader gives them.
        model: on whose devices, and in whose dtypes, inputs have to be.

    Raises:
        TypeError: something else, or a tensor of another dtype.
        ValueError: nothing, NaN or infinities, or a tensor on another device.
    """
    if isinstance(calibration, torch.Tensor):
        items: list[Any] = [calibration]
    elif isinstance(calibration, (str, bytes, dict, nn.Module)) or not isinstance(
        calibration, Iterable
    ):
        raise TypeError(
            "calibration must be a tensor or an iterable of tensors or (tensor, target) batches,"
            f" got {type(calibration).__name__}"
        )
    else:
        items = list(calibration)
    weights = [p for p in model.parameters() if p.is_floating_point()]
    dtypes = list(dict.fromkeys(p.dtype for p in weights))
    devices = list(dict.fromkeys(p.device for p in weights))
    batches = [_batch(index, item, dtypes, devices) for index, item in enumerate(items)]
    if not batches:
        raise ValueError("calibration is empty: it has no batch")
    return batches


def _batch(
    index: int, item: Any, dtypes: list[torch.dtype], devices: list[torch.device]
) -> torch.Tensor:
    name = f"calibration batch {index}"
    x = item[0] if isinstance(item, (tuple, list)) and len(item) else item
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor or begin with one, got {type(item).__name__}")
    if x.dtype not in dtypes:
        wanted = " or ".join(map(str, dtypes))
        raise TypeError(f"{name} is {x.dtype}, but the model's weights are {wanted}")
    if x.device not in devices:
        wanted = " or ".join(map(str, devices))
        raise ValueError(f"{name} is on {x.device}, but the model is on {wanted}")
    if not x.numel():
        raise ValueError(f"{name} is empty: its shape is {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} has NaN or infinite values")
    return x.detach()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation and inference mode in the block; modes and random numbers as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=sorted(d for d in devices if d is not None)):
        model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module, mode in modes:
                module.training = mode


def outputs(model: nn.Module, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """All floating-point numbers that the model returns for each batch, in a row."""
    rows = []
    for x in batches:
        leaves = [y for y in tree_leaves(model(x)) if isinstance(y, torch.Tensor)]
        floats = [y.detach().flatten().float() for y in leaves if y.is_floating_point()]
        rows.append(torch.cat(floats) if floats else torch.empty(0))
    return rows


def reference_outputs(model: nn.Module, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """As :func:`outputs`, with errors that say what was wrong with the data.

    Raises:
        ValueError: the model rejects a batch, or its output is not finite, or there is none.
    """
    rows = []
    for index, x in enumerate(batches):
        name = f"calibration batch {index} of shape {tuple(x.shape)}"
        try:
            rows += outputs(model, [x])
        except Exception as error:
            raise ValueError(f"the model rejects {name}: {error}") from error
        if not rows[-1].numel():
            raise ValueError(f"the model returns no floating-point tensor for {name}")
        if not bool(rows[-1].isfinite().all()):
            raise ValueError(f"the model returns NaN or infinite values for {name}")
    return rows


def compare(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> tuple[float, float]:
    """Relative error ``||got - wanted|| / ||wanted||``, and cosine similarity, of all together."""
    square = difference = product = own = 0.0
    for one, other in zip(got, wanted, strict=True):
        a, b = one.double(), other.double()
        difference += (a - b).square().sum().item()
        square += b.square().sum().item()
        own += a.square().sum().item()
        product += (a * b).sum().item()
    if not square:
        return (0.0, 1.0) if not difference else (float("inf"), 0.0)
    return (difference / square) ** 0.5, product / (square * own) ** 0.5 if own else 0.0
