"""``rotary_attention`` in Triton: a pass over q and one over k, then ``attention``'s kernels.

Each element is read and written once before attention and once after its gradient; what comes in
between is the norm, the rotation and the sums for the norm's parameters, all on chip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vitkern.dispatch.backend import Tensors
from vitkern.ops._family import Outputs, empty_unless
from vitkern.ops._triton import availability
from vitkern.ops._triton.kernel import Config, Kernel, Resources, cdiv, config, pow2, target_for
from vitkern.ops._triton.operator import TRITON
from vitkern.ops._triton.recorder import Work
from vitkern.ops._triton.sums import column_sums
from vitkern.ops.attention import triton as attention
from vitkern.ops.attention.operators import joined
from vitkern.ops.rotary_attention.call import HALVES, INTERLEAVED, NORMS, RotaryAttentionCall
from vitkern.ops.rotary_attention.reference import normalised, turned

_MODULE = "vitkern.ops.rotary_attention.triton_kernels"


def _space(constants: Mapping[str, Any], itemsize: int) -> Sequence[Config]:
    """Rows of about a thousand elements together, and twice as many."""
    rows = max(1024 // constants["BLOCK_D"], 1)
    return [config(4, 1, BLOCK_R=rows), config(4, 1, BLOCK_R=2 * rows)]


# Live at once: an element, its partner, their sine and cosine; backward two sums more.
_PREPARE = Kernel(
    _MODULE, "prepare", _space,
    lambda c, itemsize: Resources(0, 4 * c["BLOCK_R"] * c["BLOCK_D"]), tensor_cores=False,
)  # fmt: skip
_BACKWARD = Kernel(
    _MODULE, "prepare_backward", _space,
    lambda c, itemsize: Resources(0, 6 * c["BLOCK_R"] * c["BLOCK_D"]), tensor_cores=False,
)  # fmt: skip


def supports(call: RotaryAttentionCall) -> list[str]:
    """Reasons to refuse: those of ``attention``, and of every op for what comes before it."""
    return attention.supports(call.attention(call.q, call.k)) or availability.refusals(
        call.q, call.q_weight, call.q_bias, call.k_weight, call.k_bias, call.sin, call.cos
    )


@dataclass(frozen=True)
class _Rows:
    """What is done to the rows of q, or of k."""

    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    sin: torch.Tensor | None
    cos: torch.Tensor | None
    norm: int
    eps: float
    interleaved: bool

    @property
    def still(self) -> int:
        """How many of the first rows are not rotated."""
        return 0 if self.sin is None else self.x.shape[2] - self.sin.shape[-2]

    @property
    def rotates(self) -> bool:
        return self.sin is not None and self.cos is not None and self.sin.shape[-2] > 0

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return bool(self.norm) or self.rotates

    @property
    def count(self) -> int:
        batch, heads, length, _ = self.x.shape
        return batch * heads * length

    def constants(self) -> dict[str, Any]:
        head_dim = self.x.shape[-1]
        rotation = INTERLEAVED if self.interleaved else HALVES
        return {
            "HEAD_DIM": head_dim, "BLOCK_D": pow2(head_dim, 16), "NORM": self.norm,
            "ROTATION": rotation if self.rotates else 0,
        }  # fmt: skip

    def arguments(self) -> dict[str, Any]:
        batch, heads, length, _ = self.x.shape
        sin, cos = (
            None if table is None or not self.rotates
            else table.expand(batch, heads, *table.shape[-2:])
            for table in (self.sin, self.cos)
        )  # fmt: skip
        return {
            "X": self.x, "WEIGHT": self.weight, "SIN": sin, "COS": cos,
            "rows": self.count, "heads": heads, "length": length, "still": self.still,
            "eps": self.eps,
            "weight_step": 0 if self.weight is None else self.weight.stride(0),
            **attention.strides("x", "image head row column", self.x),
            **attention.strides("sin", "image head row column", sin),
            **attention.strides("cos", "image head row column", cos),
        }  # fmt: skip

    def read(self) -> float:
        """Bytes of the parameters and tables."""
        return _bytes(self.weight, self.bias, self.sin, self.cos)


def _bytes(*tensors: torch.Tensor | None) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def _prepared(rows: _Rows) -> torch.Tensor:
    """The rows, normalised and rotated: in new memory, if anything is done to them."""
    if not rows.changes or not rows.count:
        return rows.x
    out = joined(rows.x)

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        # Tables are as many bytes as a plane of rows; all planes read them, from L2.
        once, each = _bytes(rows.x) + rows.read(), rows.x.element_size() * rows.x.shape[-1]
        again = 0.0
        if rows.sin is not None:
            again = 2.0 * rows.count * each * rows.sin.element_size() / rows.x.element_size()
        return Work(read=once + again, unique=once, written=_bytes(out))

    _PREPARE(
        lambda c: (cdiv(rows.count, c["BLOCK_R"]),),
        {
            **rows.arguments(), "BIAS": rows.bias, "OUT": out,
            "bias_step": 0 if rows.bias is None else rows.bias.stride(0),
        },
        rows.constants(),
        work,
        operand=rows.x,
    )  # fmt: skip
    return out


def _gradients(
    rows: _Rows,
    dout: torch.Tensor,
    dx: torch.Tensor | None,
    dweight: torch.Tensor | None,
    dbias: torch.Tensor | None,
) -> None:
    """Those of what :func:`_prepared` took; ``dout`` is its result's, laid out like it."""
    # As many programs as fill the device twice, whatever the configuration: each leaves sums.
    each = max(cdiv(rows.count, 8 * target_for(rows.x.device).processors), 1)
    programs = cdiv(rows.count, each)
    partial_weight, partial_bias = (
        None if total is None
        else rows.x.new_empty((programs, rows.x.shape[-1]), dtype=torch.float32)
        for total in (dweight, dbias)
    )  # fmt: skip

    def work(_: Mapping[str, Any], grid: tuple[int, ...]) -> Work:
        once = _bytes(dout, rows.x if rows.norm else None) + rows.read()
        return Work(read=once, unique=once, written=_bytes(dx, partial_weight, partial_bias))

    if programs:
        _BACKWARD(
            lambda c: (programs,),
            {
                **rows.arguments(), "DOUT": dout, "DX": dx, "each": each,
                "PARTIAL_WEIGHT": partial_weight, "PARTIAL_BIAS": partial_bias,
            },
            rows.constants(),
            work,
            operand=rows.x,
        )  # fmt: skip
    for partial, total in ((partial_weight, dweight), (partial_bias, dbias)):
        if partial is not None and total is not None:
            column_sums(partial, total)


def _table_gradients(
    rows: _Rows, dout: torch.Tensor, dsin: torch.Tensor, dcos: torch.Tensor
) -> None:
    """Adds those of sin and cos: by PyTorch, for few models learn them."""
    if not rows.rotates:
        return
    x = normalised(rows.x, NORMS[rows.norm], rows.weight, rows.bias, rows.eps)
    x, dout = x[:, :, rows.still :].float(), dout[:, :, rows.still :].float()
    dcos += (dout * x).sum_to_size(dcos.shape)
    dsin += (dout * turned(x, rows.interleaved)).sum_to_size(dsin.shape)


def _allocate(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    seed: torch.Tensor | None,
    norm: int,
    q_weight: torch.Tensor | None,
    q_bias: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    k_bias: torch.Tensor | None,
    eps: float,
    sin: torch.Tensor | None,
    cos: torch.Tensor | None,
    interleaved: bool,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return joined(q), empty_unless(save, q, q.shape[:3], torch.float32)


def _launch(outputs: Outputs, *arguments: Any) -> None:
    *call, save = arguments
    of_q, of_k = _both(*call)
    rest: list[Any] = [*call[2:8], save]
    attention.launch(outputs, _prepared(of_q), _prepared(of_k), *rest)


def _both(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Any, mask: Any, scale: float,
    dropout_p: float, seed: Any, norm: int, q_weight: Any, q_bias: Any, k_weight: Any, k_bias: Any,
    eps: float, sin: Any, cos: Any, interleaved: bool,
) -> tuple[_Rows, _Rows]:  # fmt: skip
    """What is done to q and to k, of an operator's arguments."""
    return (
        _Rows(q, q_weight, q_bias, sin, cos, norm, eps, interleaved),
        _Rows(k, k_weight, k_bias, sin, cos, norm, eps, interleaved),
    )


def _allocate_backward(
    dout: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    seed: torch.Tensor | None,
    norm: int,
    q_weight: torch.Tensor | None,
    q_bias: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    k_bias: torch.Tensor | None,
    eps: float,
    sin: torch.Tensor | None,
    cos: torch.Tensor | None,
    interleaved: bool,
    need_q: bool,
    need_k: bool,
    need_v: bool,
    need_bias: bool,
    need_q_weight: bool,
    need_q_bias: bool,
    need_k_weight: bool,
    need_k_bias: bool,
    need_tables: bool,
) -> tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]:
    def like(parameter: torch.Tensor | None, needed: bool) -> torch.Tensor:
        if parameter is None or not needed:
            return q.new_empty(0)
        return parameter.new_empty(parameter.shape)

    return (
        joined(q) if need_q else q.new_empty(0),
        joined(k) if need_k else q.new_empty(0),
        joined(v) if need_v else q.new_empty(0),
        like(bias, need_bias),
        like(q_weight, need_q_weight),
        like(q_bias, need_q_bias),
        like(k_weight, need_k_weight),
        like(k_bias, need_k_bias),
        like(sin, need_tables),
        like(cos, need_tables),
    )


def _launch_backward(outputs: Outputs, dout: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
                     *arguments: Any) -> None:  # fmt: skip
    dq, dk, dv, dbias, *others, dsin, dcos = outputs
    call, needs = arguments[:17], arguments[17:]
    need_q, need_k, need_v, need_bias, *needs_others, need_tables = needs
    of_q, of_k = _both(*call)
    v = call[2]
    inner = []
    for rows, d, needed, parameters in (
        (of_q, dq, need_q, needs_others[:2]), (of_k, dk, need_k, needs_others[2:]),
    ):  # fmt: skip
        needed = needed or any(parameters) or (need_tables and rows.rotates)
        inner.append((needed, (joined(rows.x) if rows.changes else d) if needed else d))
    (inner_q, of_dq), (inner_k, of_dk) = inner
    rest: list[Any] = [*call[3:8], inner_q, inner_k, need_v, need_bias]
    attention.launch_backward(
        (of_dq, of_dk, dv, dbias), dout, _prepared(of_q), _prepared(of_k), v, out, lse, *rest
    )
    if need_tables:
        sums = [table.new_zeros(table.shape, dtype=torch.float32) for table in (dsin, dcos)]
        for rows, gradient in ((of_q, of_dq), (of_k, of_dk)):
            _table_gradients(rows, gradient, *sums)
        dsin.copy_(sums[0])
        dcos.copy_(sums[1])
    for rows, gradient, d, needed, totals, parameters in (
        (of_q, of_dq, dq, need_q, others[:2], needs_others[:2]),
        (of_k, of_dk, dk, need_k, others[2:], needs_others[2:]),
    ):
        if rows.changes and (needed or any(parameters)):
            _gradients(
                rows, gradient, d if needed else None,
                *(t if n else None for t, n in zip(totals, parameters, strict=True)),
            )  # fmt: skip


_run = TRITON.operator("rotary_attention", _allocate, _launch)
_run_backward = TRITON.operator("rotary_attention_backward", _allocate_backward, _launch_backward)


def _arguments(call: RotaryAttentionCall) -> tuple[Any, ...]:
    """An operator's, which has the norm as a number."""
    return tuple(call._replace(norm=NORMS.index(call.norm)))  # type: ignore[arg-type]


def forward(call: RotaryAttentionCall, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    """Keeps the output and the logarithm of each row's sum; q and k are prepared again."""
    out, lse = _run(*_arguments(call), needs_grad)
    return out, (out, lse) if needs_grad else ()


def backward(
    call: RotaryAttentionCall,
    saved: Tensors,
    grads: tuple[torch.Tensor, ...],
    needs: tuple[bool, ...],
) -> Tensors:
    """One gradient per argument, None where it is not wanted."""
    wanted = dict(zip(call._fields, needs, strict=True))
    names = ("q", "k", "v", "bias", "q_weight", "q_bias", "k_weight", "k_bias")
    tables = wanted["sin"] or wanted["cos"]
    computed = _run_backward(
        grads[0], *saved, *_arguments(call), *(wanted[name] for name in names), tables
    )
    found = dict(zip((*names, "sin", "cos"), computed, strict=True))
    return tuple(found[name] if wanted[name] else None for name in call._fields)


BACKEND = TRITON.backend(supports, forward, backward)
