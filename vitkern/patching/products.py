"""The general adapter: a module's own forward, with its products on ops.

Where nothing larger can be fused, the module runs the code that its library wrote, and only what it
calls of :mod:`torch.nn.functional` is computed by ops: ``linear``,
``scaled_dot_product_attention``, ``multi_head_attention_forward``, and the convolution of a patch
embedding. Norms of queries and keys, rotary embeddings, masks, position biases and windows are the
module's own then, whatever they are, and so are children, hooks on them and parametrizations: all
of them are called.

It is done by a :class:`torch.overrides.TorchFunctionMode` that is on while the module's forward
runs, in the thread that runs it. So a table of classes is all that a library needs. The mode costs
about two microseconds for each function of PyTorch that the module calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from vitkern import ops
from vitkern.ops.attention.call import AttentionCall
from vitkern.ops.deformable_attention.call import DeformableAttentionCall
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.patch_embed.call import PatchEmbedCall
from vitkern.patching import scores, suitable
from vitkern.patching.adapter import Adapter, Call, Match
from vitkern.patching.parts import is_plain
from vitkern.patching.scores import Scores
from vitkern.patching.swap import swap_of

if TYPE_CHECKING:
    from vitkern.patching.swap import Swap

NOTE = "PyTorch computes small products, heads wider than 128, and linear layers in training"


class Products(Adapter):
    """Modules of any kind that multiply: their own forward, with its products on ops.

    Args:
        name: of the adapter.
        classes: that it takes.
        ops: what they compute: "linear", "attention", "patch_embed", "deformable_attention" (which
            is for subclasses: PyTorch has no function for it).
        written_out: whether they write attention out, as matrix products and a softmax: see
            :mod:`vitkern.patching.scores`.
    """

    transparent = True
    forms = False

    def __init__(
        self,
        name: str,
        *classes: str,
        ops: tuple[str, ...] = ("linear", "attention"),
        written_out: bool = False,
    ) -> None:
        super().__init__(name, *classes)
        self.ops = ops
        self.written_out = written_out

    def match(self, module: nn.Module) -> Match:
        """Any plain floating-point parameter, which gives dtype and device."""
        plain = (p for p in module.parameters() if is_plain(p) and p.is_floating_point())
        like = next(plain, None)
        if like is None:
            return Match(["has no plain floating-point parameter"])
        return Match(calls=[_PROBES[op](like) for op in self.ops], note=NOTE)

    def forward(self, swap: Swap, module: Any, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if any(isinstance(one, torch.Tensor) and one.is_nested for one in given):
            return swap.original(module, *args, **kwargs)
        with Routed(swap, module):
            result = type(module).forward(module, *args, **kwargs)
        return scores.plain(result) if self.written_out else result


def _probe_linear(like: torch.Tensor) -> Call:
    x = like.new_empty((1, 1))
    return LinearCall(x, x, None, None, None, None)


def _probe_attention(like: torch.Tensor) -> Call:
    q = like.new_empty((1, 1, 1, 1))
    return AttentionCall(q, q, q, None, None, 1.0, 0.0, None)


def _probe_patch_embed(like: torch.Tensor) -> Call:
    image = like.new_empty((1, 1, 2, 2))
    return PatchEmbedCall(image, image, None)


def probe_deformable(like: torch.Tensor) -> Call:
    """A call with one pixel and one point."""
    value = like.new_empty((1, 1, 1, 1))
    points = like.new_empty((1, 1, 1, 1, 1, 2))
    return DeformableAttentionCall(value, ((1, 1),), points, points[..., 0])


_PROBES = {
    "linear": _probe_linear,
    "attention": _probe_attention,
    "patch_embed": _probe_patch_embed,
    "deformable_attention": probe_deformable,
}

# Functions that are computed by ops, and the ops.
_ROUTED: dict[Any, str] = {
    F.linear: "linear",
    F.scaled_dot_product_attention: "attention",
    F.multi_head_attention_forward: "attention",
    F.conv2d: "patch_embed",
}


class Routed(TorchFunctionMode):
    """While it is on, the products that a module asks PyTorch for are computed by ops.

    Args:
        swap: of the module; has the backend.
        module: whose forward runs.
    """

    def __init__(self, swap: Swap, module: nn.Module) -> None:
        super().__init__()
        self.swap = swap
        self.module = module
        self.ops = swap.adapter.ops
        # Compiled code is traced through plain tensors; what is traced then stays with PyTorch. And
        # nobody but the libraries' own modules may see scores that are put off.
        self.written_out = (
            getattr(swap.adapter, "written_out", False)
            and not torch.compiler.is_compiling()
            and not watched_below(module, swaps=True)
            and all(of_library(child) for child in module.modules() if child is not module)
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Called for each function and property that the module uses: what it does for those that
        # are not routed counts.
        kind = _ROUTED.get(func)
        if kind is None and not self.written_out:
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        result: Any = NotImplemented
        if kind is not None and kind in self.ops:
            result = self._routed(func, args, kwargs)
        elif self.written_out:
            if any(type(one) is Scores for one in args):
                if func is torch.einsum and not kwargs:
                    result = scores.einsum(args, self._attend, self._worth)
                if result is NotImplemented:
                    result = scores.call(func, args, kwargs)
            elif func in scores.MATMULS and len(args) == 2 and not kwargs:
                result = scores.product(*args, self._attend, self._worth)
            elif func is torch.einsum and not kwargs:
                result = scores.einsum(args, self._attend, self._worth)
        return func(*args, **kwargs) if result is NotImplemented else result

    def _routed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is F.linear:
            return linear(self.swap.backend, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            if kwargs.get("need_weights", True):
                self.swap.tell(self.module, "need_weights=True: PyTorch computes the attention")
            return multi_head(self.swap.backend, *args, **kwargs)
        return patch_embed(self.swap.backend, *args, **kwargs)

    def _attend(self, *args: Any, **kwargs: Any) -> Any:
        # Called by operators of Scores, with this mode still on: the op's own products are no
        # business of it.
        with torch._C.DisableTorchFunction():
            return attention(self.swap.backend, *args, **kwargs)

    def _worth(self, work: int) -> bool:
        return self.swap.backend is not None or work >= suitable.SMALLEST_ATTENTION

    def _attention(self, *args: Any, is_causal: bool = False, **kwargs: Any) -> Any:
        if len(args) > 5:  # is_causal by position
            is_causal, args = args[5], (*args[:5], *args[6:])
        if is_causal:
            self.swap.tell(self.module, "is_causal=True: PyTorch computes the attention")
            return NotImplemented
        return attention(self.swap.backend, *args, **kwargs)


def watched_below(module: nn.Module, swaps: bool = False) -> bool:
    """Whether a descendant has hooks, or a forward of its own; ``swaps`` are allowed to it."""
    return any(
        child._forward_hooks
        or child._forward_pre_hooks
        or child._backward_hooks
        or child._backward_pre_hooks
        or ("forward" in child.__dict__ and not (swaps and swap_of(child) is not None))
        for child in module.modules()
        if child is not module
    )


_LIBRARIES = ("torch.nn.", "timm.", "torchvision.", "transformers.", "vitkern.")


def of_library(module: nn.Module) -> bool:
    """Whether the module's class is one that PyTorch, timm, torchvision or transformers has."""
    return type(module).__module__.startswith(_LIBRARIES)


def linear(
    backend: str | None, input: Any, weight: Any, bias: Any = None, *, out: Any = None
) -> Any:
    """``F.linear`` on ops; NotImplemented where PyTorch is to compute it."""
    if out is not None or suitable.linear(backend, input, weight, bias) is not None:
        return NotImplemented
    return ops.linear(input, weight, bias, backend=backend)


def attention(
    backend: str | None,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``F.scaled_dot_product_attention`` on ops; NotImplemented where PyTorch is to compute it."""
    if isinstance(scale, torch.Tensor):
        return NotImplemented
    if suitable.attention(backend, query, key, value, attn_mask, dropout_p) is not None:
        return NotImplemented
    return attend(backend, query, key, value, attn_mask, dropout_p, scale=scale)


def attend(
    backend: str | None,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    *,
    scale: float | None = None,
) -> Any:
    """``F.scaled_dot_product_attention`` that is known to suit ``ops.attention``."""
    dims, leading, bias = query.dim(), query.shape[:-2], attn_mask
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype)
        bias = bias.masked_fill(~attn_mask, float("-inf"))
    if dims != 4:
        query, key, value = (
            one.unsqueeze(1) if dims == 3 else one.flatten(0, dims - 4)
            for one in (query, key, value)
        )
    y = ops.attention(
        query, key, value, bias=bias, scale=scale, dropout_p=dropout_p, backend=backend
    )
    return y if dims == 4 else y.reshape(*leading, *y.shape[-2:])


def patch_embed(
    backend: str | None,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """A convolution whose stride is its kernel, on ops; NotImplemented for others.

    The result has channels last in memory, as what follows flattens and transposes it.
    """
    reason = suitable.patch_embed(input, weight, bias, stride, padding, dilation, groups)
    if reason is not None:
        return NotImplemented
    rows, columns = weight.shape[2:]
    if backend is None and rows * columns < suitable.SMALLEST_PATCH:
        return NotImplemented
    y = ops.patch_embed(input, weight, bias, backend=backend)
    return y.transpose(1, 2).unflatten(2, (input.shape[2] // rows, input.shape[3] // columns))


def multi_head(
    backend: str | None,
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """``F.multi_head_attention_forward`` on ops; NotImplemented where PyTorch is to compute it.

    query (Nq, B, C), key and value (Nk, B, ...). Where weights are wanted, keys are added or given,
    or the mask is only hinted at, PyTorch computes it, and so it does what is small.
    """
    given = (bias_k, bias_v, static_k, static_v)
    if need_weights or add_zero_attn or any(one is not None for one in given):
        return NotImplemented
    if not suitable.plain(query, key, value) or query.dim() != 3:
        return NotImplemented
    if is_causal and attn_mask is None:
        return NotImplemented
    heads, width = num_heads, embed_dim_to_check
    batch, head_dim = query.shape[1], width // num_heads
    if query.shape[2] != width or key.shape[:2] != value.shape[:2] or head_dim * heads != width:
        return NotImplemented
    work = query.numel() * key.shape[0], max(query.numel(), key.numel()) * width
    if not masks_fit(attn_mask, key_padding_mask, (batch, heads, query.shape[0], key.shape[0])):
        return NotImplemented  # raises PyTorch's own error
    small = work[0] < suitable.SMALLEST_ATTENTION and work[1] < suitable.SMALLEST_LINEAR
    if backend is None and small:
        return NotImplemented
    if not use_separate_proj_weight and query is key and key is value:
        q, k, v = linear_or_own(backend, query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        if not use_separate_proj_weight:
            weights = in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        q, k, v = (
            linear_or_own(backend, one, weight, bias)
            for one, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
    q, k, v = (one.unflatten(2, (heads, head_dim)).permute(1, 2, 0, 3) for one in (q, k, v))
    bias = added((attn_mask, key_padding_mask), query.dtype, batch, heads)
    y = attention_or_own(backend, q, k, v, bias, dropout_p if training else 0.0)
    y = y.permute(2, 0, 1, 3).flatten(2)
    return linear_or_own(backend, y, out_proj_weight, out_proj_bias), None


def masks_fit(mask: Any, padding: Any, sizes: tuple[int, int, int, int]) -> bool:
    """Whether masks of ``multi_head_attention_forward`` have the shapes that PyTorch takes.

    Args:
        mask: of scores, or None.
        padding: of keys, or None.
        sizes: batch, heads, queries, keys.
    """
    batch, heads, queries, keys = sizes
    if padding is not None and padding.shape != (batch, keys):
        return False
    return mask is None or mask.shape in ((queries, keys), (batch * heads, queries, keys))


def added(masks: tuple[Any, Any], dtype: torch.dtype, batch: int, heads: int) -> Any:
    """What the masks of ``multi_head_attention_forward`` add to (B, heads, Nq, Nk) scores.

    Args:
        masks: (Nq, Nk) or (B*heads, Nq, Nk), and (B, Nk); True ignores a key, numbers are added.
        dtype: of the scores.
        batch: images.
        heads: of each.
    """
    bias, padding = (
        torch.zeros_like(one, dtype=dtype).masked_fill(one, float("-inf"))
        if one is not None and one.dtype == torch.bool
        else one
        for one in masks
    )
    if bias is not None and bias.dim() == 3:
        bias = bias.unflatten(0, (batch, heads))
    if padding is None:
        return bias
    padding = padding[:, None, None, :]
    return padding if bias is None else bias + padding


def linear_or_own(backend: str | None, x: Any, weight: Any, bias: Any) -> Any:
    """A linear layer on ops, or PyTorch's where that is as fast."""
    y = linear(backend, x, weight, bias)
    return F.linear(x, weight, bias) if y is NotImplemented else y


def attention_or_own(
    backend: str | None, q: Any, k: Any, v: Any, bias: Any = None, dropout_p: float = 0.0
) -> Any:
    """Attention on ops, or PyTorch's where that is as fast."""
    y = attention(backend, q, k, v, bias, dropout_p)
    return (
        F.scaled_dot_product_attention(q, k, v, bias, dropout_p) if y is NotImplemented else y
    )  # fmt: skip
