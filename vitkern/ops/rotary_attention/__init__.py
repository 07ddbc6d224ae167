"""Attention whose queries and keys are normalised and rotated first."""

from __future__ import annotations

from typing import Any

import torch

from vitkern.dispatch import OPERATORS, Operator
from vitkern.ops import _check
from vitkern.ops.attention.checks import checked
from vitkern.ops.rotary_attention.call import NORMS, RotaryAttentionCall
from vitkern.ops.rotary_attention.reference import prepared

_OPERATOR = Operator("rotary_attention", RotaryAttentionCall, __name__, composed=True)


def rotary_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    norm: str | None = None,
    q_weight: torch.Tensor | None = None,
    q_bias: torch.Tensor | None = None,
    k_weight: torch.Tensor | None = None,
    k_bias: torch.Tensor | None = None,
    eps: float = 1e-6,
    sin: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    interleaved: bool = False,
    bias: torch.Tensor | None = None,
    key_padding_mask: torch.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str | None = None,
) -> torch.Tensor:
    """:func:`vitkern.ops.attention` on q and k that are normalised, then rotated.

    The norm is over head_dim: of ViT-22B (Dehghani et al., 2023, arXiv 2302.05442) with its
    ``"layer"``. The rotation turns each pair (a, b) of elements by an angle of its row's position,
    to ``(a cos - b sin, b cos + a sin)``: Su et al., "RoFormer", 2021 (arXiv 2104.09864), as in
    EVA-02 (``interleaved``) and DINOv3.

    Where no backend but ``eager`` takes the call, PyTorch normalises and rotates, and
    :func:`vitkern.ops.attention` does the rest with the same ``backend``. So it is on ``cpu`` and
    ``cuda``.

    Args:
        q: (B, heads, Nq, head_dim), float32, float64, bfloat16 or float16; any strides.
        k: (B, heads, Nk, head_dim), q's dtype; any strides.
        v: as ``k``.
        norm: None, "layer" or "rms".
        q_weight: (head_dim,) or None, of q's norm; q's dtype, or float32 beside a half-precision q.
        q_bias: (head_dim,) or None; as ``q_weight``, for "layer" only.
        k_weight: of k's norm, as ``q_weight``.
        k_bias: of k's norm, as ``q_bias``.
        eps: added to the variance, or the mean of squares, of either norm.
        sin: (M, head_dim), or 3 or 4 dimensions that broadcast to (B, heads, M, head_dim); dtypes
            as of ``q_weight``. Row i is of the row ``N - M + i`` of q and of k: those before the
            last M, such as a class token's, are not rotated. Given together with ``cos``, or not.
        cos: shaped like ``sin``, and of its dtype.
        interleaved: pairs are elements 2i and 2i + 1; False: i and i + head_dim / 2.
        bias: 2 to 4 dimensions that broadcast to (B, heads, Nq, Nk), q's dtype, or None.
        key_padding_mask: (B, Nk) bool, True = ignore the key, or None.
        scale: what scores are multiplied with; None is ``head_dim ** -0.5``.
        dropout_p: chance to drop a weight, at least 0 and below 1.
        backend: name of the backend to use; None chooses automatically.

    Under autocast q, k, v and ``bias`` are taken in autocast's dtype.

    Returns:
        (B, heads, Nq, head_dim), as of ``attention``.

    Raises:
        TypeError: not floating-point tensors (bool for the mask), or dtypes that do not go
            together.
        ValueError: shapes or devices that do not fit, parameters of a norm that is not there, an
            unknown norm, one of ``sin`` and ``cos`` alone, or numbers out of range.
        UnsupportedInput: ``backend`` (or ``use_backend``) names one that refuses the call.
    """
    plain = checked(q, k, v, bias, key_padding_mask, scale, dropout_p)
    parameters = {"q_weight": q_weight, "q_bias": q_bias, "k_weight": k_weight, "k_bias": k_bias}
    _check_norm(norm, plain.q, parameters)
    _check_tables(plain.q, plain.k, sin, cos)
    rest: tuple[Any, ...] = (
        norm, *parameters.values(), _check.epsilon(eps), sin, cos,
        _check.flag("interleaved", interleaved),
    )  # fmt: skip
    call = RotaryAttentionCall._make((*plain, *rest))
    out: torch.Tensor | None = _OPERATOR.whole(call, backend)
    if out is None:
        out = OPERATORS["attention"](call.attention(*prepared(call)), backend)
    return out


def _check_norm(norm: Any, q: torch.Tensor, parameters: dict[str, torch.Tensor | None]) -> None:
    """Raises unless ``norm`` is known, and has such parameters."""
    if norm not in NORMS:
        raise ValueError(f"norm must be None, 'layer' or 'rms', got {norm!r}")
    given: dict[torch.dtype, str] = {}
    for name, value in parameters.items():
        if value is None:
            continue
        if norm is None or (norm == "rms" and name.endswith("bias")):
            raise ValueError(f"{name} must be None where norm is {norm!r}, got a value")
        _check.tensor(name, value)
        _check.shape(name, value, (q.shape[-1],), "head_dim")
        _check_beside("q", q, name, value)
        given[value.dtype] = name
    if len(given) > 1:
        one, other = list(given.items())[:2]
        raise TypeError(f"{one[1]} is {one[0]} but {other[1]} is {other[0]}")


def _check_tables(
    q: torch.Tensor, k: torch.Tensor, sin: torch.Tensor | None, cos: torch.Tensor | None
) -> None:
    """Raises unless ``sin`` and ``cos`` are there together and fit the last rows of q and k."""
    if sin is None and cos is None:
        return
    if sin is None or cos is None:
        missing = "sin" if sin is None else "cos"
        raise ValueError(f"sin and cos must be given together, got no {missing}")
    batch, heads, queries, head_dim = q.shape
    if head_dim % 2:
        raise ValueError(f"q must have an even head_dim to be rotated, got {_check.shape_of(q)}")
    _check.tensor("sin", sin, dims=(2, 4))
    most = min(queries, k.shape[2])
    full = (batch, heads, sin.shape[-2], head_dim)
    planes = zip(reversed(sin.shape[:-2]), reversed(full[:-2]), strict=False)
    if (
        sin.shape[-1] != head_dim
        or sin.shape[-2] > most
        or not all(size in (1, whole) for size, whole in planes)
    ):
        raise ValueError(
            f"sin must broadcast to (batch, heads, M, head_dim) = ({batch}, {heads}, M,"
            f" {head_dim}) with M of at most {most}, got shape {_check.shape_of(sin)}"
        )
    _check_beside("q", q, "sin", sin)
    _check.tensor("cos", cos)
    _check.shape("cos", cos, tuple(sin.shape), "shaped like sin")
    _check.same("sin", sin, cos=cos)


def _check_beside(anchor: str, x: torch.Tensor, name: str, value: torch.Tensor) -> None:
    """Raises unless ``value`` is on x's device, and of its dtype or float32 beside half of it."""
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device} but {anchor} is on {x.device}")
    half = x.dtype in (torch.bfloat16, torch.float16)
    if value.dtype != x.dtype and not (half and value.dtype == torch.float32):
        raise TypeError(f"{name} is {value.dtype} but {anchor} is {x.dtype}")
