"""Small modules that adapters read instead of calling: which are known, and what they do now.

Functions that end in ``_reasons`` are asked when a module is matched; an empty list means that
the part is as expected. The others run in every call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitkern.patching.classes import loaded, plain_class, title

LAYER_NORMS = ("torch.nn:LayerNorm", "timm.layers:LayerNorm")
DROPOUTS = ("torch.nn:Dropout", "torch.nn:Identity")
DROP_PATHS = ("torch.nn:Identity", "timm.layers:DropPath", "vitkern.models:DropPath")
LAYER_SCALES = ("torch.nn:Identity", "timm.layers:LayerScale", "vitkern.models:LayerScale")

# The ops' name of an activation. torch.nn.GELU is two of them: see activation().
_ACTIVATIONS = {
    "torch.nn:GELU": "gelu",
    "torch.nn:ReLU": "relu",
    "torch.nn:SiLU": "silu",
    "timm.layers.activations:GELU": "gelu",
    "timm.layers.activations:GELUTanh": "gelu_tanh",
    "timm.layers.activations:QuickGELU": "quick_gelu",
    "timm.layers.activations:Swish": "silu",
    "transformers.activations:GELUActivation": "gelu",
    "transformers.activations:GELUTanh": "gelu_tanh",
    "transformers.activations:NewGELUActivation": "gelu_tanh",
    "transformers.activations:QuickGELUActivation": "quick_gelu",
    "transformers.activations:SiLUActivation": "silu",
}
_activation_names: dict[type, str | None] = {nn.Identity: None}


def is_plain(tensor: Any) -> bool:
    """Whether a parameter is an ordinary tensor (or None, or fake: it stands for one).

    Of others (quantized weights, DTensors) it is not enough to read the numbers.
    """
    cls = type(tensor)
    # Dynamo takes a buffer that was declared for one of nn.Buffer, which it only looks like.
    if cls in (nn.Parameter, nn.Buffer, torch.Tensor, type(None)):
        return True
    return cls.__module__.startswith("torch._subclasses")


def role_reasons(name: str, module: nn.Module | None, paths: tuple[str, ...]) -> list[str]:
    """Why the child called ``name`` is not exactly of one of the classes at ``paths``."""
    if type(module) in loaded(*paths):
        return []
    wanted = " or ".join(dict.fromkeys(path.split(":")[1] for path in paths))
    return [f"{name} is {_kind(module)}, not {wanted}"]


def parameter_reasons(name: str, module: nn.Module, *parameters: str) -> list[str]:
    """Why a parameter is not to be read as it stands."""
    prefix = f"{name}." if name else ""
    reasons = []
    for key in parameters:
        if key not in module._parameters:
            reasons.append(f"{prefix}{key} is not a parameter (weight norm, a parametrization?)")
        elif not is_plain(module._parameters[key]):
            kind = title(type(module._parameters[key]))
            reasons.append(f"{prefix}{key} is a {kind}, not a plain tensor")
    return reasons


def linear_reasons(name: str, module: nn.Module | None) -> list[str]:
    """Why a child is not a plain ``nn.Linear``."""
    if module is None or (name and type(module) is not nn.Linear):
        return [f"{name} is {_kind(module)}, not torch.Linear"]
    return parameter_reasons(name, module, "weight", "bias")


def layer_norm_reasons(name: str, module: nn.Module | None) -> list[str]:
    """Why a child is not a plain layer norm over the last dimension."""
    if module is None or plain_class(module) not in loaded(*LAYER_NORMS):
        return [f"{name} is {_kind(module)}, not a LayerNorm"]
    prefix = f"{name} " if name else ""
    reasons = parameter_reasons(name, module, "weight", "bias")
    shape: Any = module.normalized_shape
    if len(shape) != 1:
        reasons.append(f"{prefix}normalises {len(shape)} dimensions, not 1")
    if getattr(module, "_fast_norm", False):
        reasons.append(f"{prefix}is in timm's fast_norm mode, which changes its dtype")
    return reasons


def optional_norm_reasons(name: str, module: nn.Module | None) -> list[str]:
    """As :func:`layer_norm_reasons`, for a norm that may be missing."""
    if module is None or type(module) is nn.Identity:
        return []
    return layer_norm_reasons(name, module)


def activation_reasons(name: str, module: nn.Module | None) -> list[str]:
    """Why an activation is none of the ops'; remembers its class if it is."""
    cls = type(module)
    for path, known in _ACTIVATIONS.items():
        if cls in loaded(path):
            _activation_names[cls] = known
    if cls in _activation_names:
        return []
    names = ", ".join(sorted({path.split(":")[1] for path in _ACTIVATIONS}))
    return [f"{name} is {_kind(module)}; the ops have {names}"]


def _kind(module: nn.Module | None) -> str:
    return "missing" if module is None else title(type(module))


def activation(module: nn.Module) -> str | None:
    """The ops' name of an activation that :func:`activation_reasons` accepted."""
    cls = type(module)
    if cls is nn.GELU and module.approximate != "none":
        return "gelu_tanh"
    return _activation_names[cls]


def active(module: Any) -> bool:
    """Whether a dropout or drop path does anything in its present mode."""
    cls = type(module)
    if cls is nn.Identity or not module.training:
        return False
    return bool((module.p if cls is nn.Dropout else module.drop_prob) > 0.0)


def gamma(module: nn.Module) -> torch.Tensor | None:
    """The factors of a layer scale; None of an identity."""
    return module._parameters.get("gamma")
