"""Models by name."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import os
from typing import Any

from torch import nn

from vitkern.models.checkpoint import load_checkpoint
from vitkern.models.configurations import CONFIGURATIONS


def list_models(pattern: str = "*") -> list[str]:
    """Names that :func:`create_model` knows, in alphabetical order.

    Args:
        pattern: shell-style wildcards, such as ``"vit_*_384"``.
    """
    return sorted(fnmatch.filter(CONFIGURATIONS, pattern))


def create_model(
    name: str,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    **overrides: Any,
) -> nn.Module:
    """A named model, in training mode, on the default device and in the default dtype.

    Args:
        name: one of :func:`list_models`.
        checkpoint: a local file or folder, or a hub id, with weights of timm, torchvision or
            Hugging Face, as :func:`load_checkpoint` takes them; freshly initialised weights if
            None.
        num_classes: logits, or classes of objects; the configuration's if None (1000 for most). 0
            leaves a classifier's head out.
        overrides: other arguments of the model's class, in place of the configuration's.

    Returns:
        A model of the class that the configuration names.

    Raises:
        TypeError: an argument that the class does not have, with near matches, or of a wrong type.
        ValueError: an unknown name, an argument out of range, or a checkpoint that does not fit.
        FileNotFoundError: ``checkpoint`` is not there.
        ImportError: a package is needed that is not installed, such as timm for DETR's backbone.
    """
    if name not in CONFIGURATIONS:
        close = difflib.get_close_matches(str(name), CONFIGURATIONS, n=3, cutoff=0.5)
        hint = f"close matches: {', '.join(close)}" if close else "list_models() lists all names"
        raise ValueError(f"unknown model {name!r}; {hint}")
    configuration = CONFIGURATIONS[name]
    _check_arguments(name, configuration.model, overrides)
    arguments = {**configuration.arguments, **overrides}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    model = configuration.model(**arguments)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def _check_arguments(name: str, model: Any, given: dict[str, Any]) -> None:
    """The model's class has arguments of these names.

    Raises:
        TypeError: it has not; says which are near.
    """
    accepted: list[str] = []
    for cls in model.__mro__:
        parameters = inspect.signature(cls.__init__).parameters.values()
        accepted += [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):  # else its base has more
            break
    for argument in given:
        if argument in accepted and argument != "self":
            continue
        close = difflib.get_close_matches(argument, accepted, n=2)
        has = ", ".join(sorted({*accepted} - {"self"}))
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {has}"
        raise TypeError(f"{name} has no argument {argument!r}; {hint}")
