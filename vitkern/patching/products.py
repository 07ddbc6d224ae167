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

from vitkern.ops.attention.call import AttentionCall
from vitkern.ops.deformable_attention.call import DeformableAttentionCall
from vitkern.ops.linear.call import LinearCall
from vitkern.ops.patch_embed.call import PatchEmbedCall
from vitkern.patching import functional, scores, suitable
from vitkern.patching.adapter import Adapter, Call, Match
from vitkern.patching.parts import is_plain
from vitkern.patching.scores import Scores
from vitkern.patching.swap import RoutingMode, swap_of

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
        only_if_asked: bool = False,
    ) -> None:
        super().__init__(name, *classes)
        self.ops = ops
        self.written_out = written_out
        self.only_if_asked = only_if_asked

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


class Routed(RoutingMode):
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
            return functional.linear(self.swap.backend, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            if kwargs.get("need_weights", True):
                self.swap.tell(self.module, "need_weights=True: PyTorch computes the attention")
            return functional.multi_head(self.swap.backend, *args, **kwargs)
        return functional.patch_embed(self.swap.backend, *args, **kwargs)

    def _attend(self, *args: Any, **kwargs: Any) -> Any:
        # Called by operators of Scores, with this mode still on: the op's own products are no
        # business of it.
        with torch._C.DisableTorchFunction():
            return functional.attention(self.swap.backend, *args, **kwargs)

    def _worth(self, work: int) -> bool:
        return self.swap.backend is not None or work >= suitable.SMALLEST_ATTENTION

    def _attention(self, *args: Any, is_causal: bool = False, **kwargs: Any) -> Any:
        if len(args) > 5:  # is_causal by position
            is_causal, args = args[5], (*args[:5], *args[6:])
        if is_causal:
            self.swap.tell(self.module, "is_causal=True: PyTorch computes the attention")
            return NotImplemented
        return functional.attention(self.swap.backend, *args, **kwargs)


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
