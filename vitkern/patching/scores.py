"""Attention that a module writes out: ``softmax(q @ k.T * scale + bias) @ v`` as one op.

The first product is put off: it gives a :class:`Scores`, which remembers q and k. What the module
then multiplies it with and adds to it is remembered as well, as are changes of its leading
dimensions and the softmax. The product of that with v is ``ops.attention``. Whatever else is asked
of a ``Scores`` (its mean, a slice, a mask filled in, a dropout that acts) makes it the tensor that
it stands for, and the module goes on with that. What is assumed of the code in between is that it
does not change q, k or what it added in place.

Only :class:`~vitkern.patching.products.Routed` makes them, in modules whose table asks for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map_only

MATMULS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
_ADD = ("add", "__add__", "__radd__")
_MULTIPLY = ("mul", "multiply", "__mul__", "__rmul__")

Attend = Callable[..., Any]

# Products of attention as einsum has them: scores of queries and keys, and sums of values.
_SCORES = re.compile(r"(?P<l>\w+)(?P<i>\w)(?P<d>\w),(?P=l)(?P<j>\w)(?P=d)->(?P=l)(?P=i)(?P=j)")
_SUMS = re.compile(r"(?P<l>\w+)(?P<i>\w)(?P<j>\w),(?P=l)(?P=j)(?P<d>\w)->(?P=l)(?P=i)(?P=d)")


class Scores:
    """``q @ k.T * scale + bias``, or its softmax, not computed yet.

    Attributes:
        q: (*leading, Nq, d).
        k: (*leading, Nk, d).
        scale: what the product is multiplied with.
        bias: what is added then; broadcasts to (*leading, Nq, Nk).
        weights: whether this is the softmax over the last dimension.
    """

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        attend: Attend,
        scale: float = 1.0,
        bias: torch.Tensor | None = None,
        weights: bool = False,
    ) -> None:
        self.q, self.k, self.scale, self.bias, self.weights = q, k, scale, bias, weights
        self._attend = attend
        self._tensor: torch.Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that this stands for."""
        return torch.Size((*self.q.shape[:-1], self.k.shape[-2]))

    @property
    def known(self) -> bool:
        """Whether the tensor exists already, and may have been changed in place."""
        return self._tensor is not None

    def tensor(self) -> torch.Tensor:
        """The tensor that this stands for."""
        if self._tensor is None:
            with torch._C.DisableTorchFunction():  # else the product would be put off again
                scores = self.q @ self.k.transpose(-2, -1)
                if self.scale != 1.0:
                    scores = scores * self.scale
                if self.bias is not None:
                    scores = scores + self.bias
                self._tensor = scores.softmax(-1) if self.weights else scores
        return self._tensor

    def with_(self, **changes: Any) -> Scores:
        """Another one that differs in some attributes."""
        now = {key: getattr(self, key) for key in ("q", "k", "scale", "bias", "weights")}
        return Scores(attend=self._attend, **{**now, **changes})

    def plus(self, other: Any) -> Any:
        """``self + other``; NotImplemented where it is not to be put off."""
        if self.known or self.weights or not isinstance(other, torch.Tensor):
            return NotImplemented
        if other.dtype != self.q.dtype:
            return NotImplemented
        shape = self.shape
        pairs = zip(reversed(other.shape), reversed(shape), strict=False)
        if other.dim() > len(shape) or not all(size in (1, full) for size, full in pairs):
            return NotImplemented
        return self.with_(bias=other if self.bias is None else self.bias + other)

    def times(self, other: Any) -> Any:
        """``self * other`` for what is the same for all keys of a query."""
        if self.known or self.weights:
            return NotImplemented
        if isinstance(other, int | float):
            bias = None if self.bias is None else self.bias * other
            return self.with_(scale=self.scale * other, bias=bias)
        return self._scaled(torch.mul, other)

    def over(self, other: Any) -> Any:
        """``self / other`` for what is the same for all keys of a query."""
        if self.known or self.weights:
            return NotImplemented
        if isinstance(other, int | float):
            return self.times(1.0 / other) if other else NotImplemented
        return self._scaled(torch.div, other)

    def _scaled(self, operation: Callable[..., Any], other: Any) -> Any:
        """With a tensor, or a number of ``torch.compile`` that is not known yet: q takes it."""
        if isinstance(other, torch.Tensor):
            # One without dimensions may be of another dtype than what comes out.
            if torch.result_type(self.q, other) != self.q.dtype or other.is_complex():
                return NotImplemented
            if other.dim() > self.q.dim() or (other.dim() > 0 and other.shape[-1] != 1):
                return NotImplemented
        elif not isinstance(other, torch.SymInt | torch.SymFloat):
            return NotImplemented
        q = operation(self.q, other)
        if q.shape != self.q.shape:
            return NotImplemented
        return self.with_(q=q, bias=None if self.bias is None else operation(self.bias, other))

    def view(self, *sizes: Any) -> Any:
        """Other leading dimensions, the last two as they are; else a view of the tensor."""
        if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
            sizes = tuple(sizes[0])
        wanted = sizes
        if self.known or not all(isinstance(size, int | torch.SymInt) for size in wanted):
            return self.tensor().view(*sizes)
        # Not Size.numel(), which makes a symbol of torch.compile a number.
        shape = self.shape
        known, numel = math.prod(size for size in wanted if size != -1), math.prod(shape)
        if wanted.count(-1) == 1 and known:
            wanted = tuple(numel // known if size == -1 else size for size in wanted)
        if wanted[-2:] != shape[-2:] or math.prod(wanted) != numel or len(wanted) < 3:
            return self.tensor().view(*sizes)
        leading = wanted[:-2]
        return self.with_(
            q=self.q.reshape(*leading, *self.q.shape[-2:]),
            k=self.k.reshape(*leading, *self.k.shape[-2:]),
            bias=None if self.bias is None else _releading(self.bias, shape[:-2], leading),
        )

    reshape = view

    def softmax(self, dim: int, dtype: torch.dtype | None = None) -> Any:
        """The weights, where it is over the last dimension."""
        last = dim in (-1, self.q.dim() - 1) and dtype in (None, self.q.dtype)
        if self.known or self.weights or not last:
            return self.tensor().softmax(dim, dtype)
        return self.with_(weights=True)

    def matmul(self, other: Any) -> Any:
        """``self @ other``: the attention, where these are weights."""
        if self.weights and not self.known and isinstance(other, torch.Tensor):
            y = self.attention(other)
            if y is not NotImplemented:
                return y
        tensor, other = self.tensor(), plain(other)
        with torch._C.DisableTorchFunction():
            return tensor @ other

    def attention(self, v: torch.Tensor) -> Any:
        """The op; NotImplemented where it takes no such v."""
        leading = self.q.shape[:-2]
        if v.shape != self.k.shape or not leading:
            return NotImplemented
        q, k, bias = self.q, self.k, self.bias
        flat = (math.prod(leading[:-1]), leading[-1])
        if len(leading) != 2:
            q, k, v = (one.reshape(*flat, *one.shape[-2:]) for one in (q, k, v))
            bias = None if bias is None else _releading(bias, leading, flat)
        y = self._attend(q, k, v, bias, scale=self.scale)
        if y is NotImplemented or len(leading) == 2:
            return y
        return y.reshape(*leading, *y.shape[-2:])

    # What Python asks of a tensor by operators.
    def __add__(self, other: Any) -> Any:
        return _or_tensor(self, self.plus(other), "__add__", other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        return _or_tensor(self, self.times(other), "__mul__", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return _or_tensor(self, self.over(other), "__truediv__", other)

    def __matmul__(self, other: Any) -> Any:
        return self.matmul(other)

    def __getattr__(self, name: str) -> Any:
        # Attributes and methods that are none of the above: those of the tensor.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Functions of PyTorch that are given one, outside of ``Routed``: on the tensor."""
        args, kwargs = plain((args, kwargs or {}))
        return func(*args, **kwargs)


def _forwarded(name: str) -> Callable[..., Any]:
    def operator(self: Scores, *args: Any) -> Any:
        return getattr(self.tensor(), name)(*plain(args))

    return operator


# Operators change or read the tensor itself. An in-place one stays with the tensor, which other
# names of the same object then see, too.
for _name in (
    *("__sub__", "__rsub__", "__neg__", "__pow__", "__getitem__", "__setitem__", "__len__"),
    *("__iter__", "__bool__", "__float__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__"),
    *("__ge__", "__invert__", "__rmatmul__", "__rtruediv__", "__iadd__", "__isub__", "__imul__"),
    *("__itruediv__", "__and__", "__or__"),
):
    setattr(Scores, _name, _forwarded(_name))
# A class with __eq__ has no hash, and functions of PyTorch look their arguments up.
Scores.__hash__ = object.__hash__  # type: ignore[method-assign]


def _or_tensor(scores: Scores, result: Any, name: str, other: Any) -> Any:
    """The result, or the tensor's own where there is none."""
    if result is NotImplemented:
        return getattr(scores.tensor(), name)(plain(other))
    return result


def _releading(bias: torch.Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> torch.Tensor:
    """A bias of scores with the leading sizes ``old``, for scores that have ``new`` ones.

    Where it is the same for all of the sizes that change, it stays as small as it is.
    """
    bias = bias.reshape((1,) * (len(old) + 2 - bias.dim()) + tuple(bias.shape))
    same = 0  # how many of the last leading sizes are the same
    while same < min(len(old), len(new)) and old[-1 - same] == new[-1 - same]:
        same += 1
    changed = len(old) - same
    kept = bias.shape[changed:]
    if all(size == 1 for size in bias.shape[:changed]):
        return bias.reshape((1,) * (len(new) - same) + tuple(kept))
    bias = bias.expand(*old[:changed], *kept)
    return bias.reshape(*new[: len(new) - same], *kept)


def plain(values: Any) -> Any:
    """The same, with every :class:`Scores` in it replaced by its tensor."""
    return tree_map_only(Scores, Scores.tensor, values)


def product(a: Any, b: Any, attend: Attend, worth: Callable[[int], bool]) -> Any:
    """The :class:`Scores` of ``a @ b``, or NotImplemented where it is not one to put off.

    Args:
        a: (*leading, Nq, d).
        b: (*leading, d, Nk).
        attend: computes the attention; may return NotImplemented.
        worth: whether an attention of so many multiply-adds is.
    """
    if type(a) not in _TENSORS or type(b) not in _TENSORS or a.dim() < 4:
        return NotImplemented
    if a.dtype != b.dtype or not a.is_floating_point() or a.shape[:-2] != b.shape[:-2]:
        return NotImplemented
    if a.shape[-1] != b.shape[-2] or not 0 < a.shape[-1] <= _WIDEST:
        return NotImplemented
    if not worth(a.numel() * b.shape[-1]) or torch.is_autocast_enabled(a.device.type):
        return NotImplemented
    return Scores(a, b.transpose(-2, -1), attend)


def einsum(args: tuple[Any, ...], attend: Attend, worth: Callable[[int], bool]) -> Any:
    """The :class:`Scores` or the attention that ``torch.einsum(*args)`` is, or NotImplemented."""
    if len(args) != 3 or not isinstance(args[0], str):
        return NotImplemented
    equation, a, b = args[0].replace(" ", ""), args[1], args[2]
    if type(a) is Scores:
        return a.matmul(b) if _distinct(_SUMS, equation) else NotImplemented
    if not _distinct(_SCORES, equation) or not isinstance(b, torch.Tensor):
        return NotImplemented
    if type(a) not in _TENSORS or a.shape[-1] != b.shape[-1]:
        return NotImplemented  # sizes of one broadcast, and others are einsum's own error
    return product(a, b.transpose(-2, -1), attend, worth)


def _distinct(pattern: re.Pattern[str], equation: str) -> bool:
    """Whether an equation is such a product, of letters that mean one dimension each."""
    found = pattern.fullmatch(equation)
    letters = "".join(found.groups()) if found is not None else "--"
    return len(set(letters)) == len(letters)


_TENSORS = (torch.Tensor, torch.nn.Parameter)
_WIDEST = 256  # heads are narrower


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of PyTorch with a :class:`Scores` among its arguments."""
    first = args[0] if args else None
    name = getattr(func, "__name__", "")
    if type(first) is Scores and not first.known:
        if func is F.softmax or name == "softmax":
            values = dict(zip(("dim", "_stacklevel", "dtype"), args[1:], strict=False)) | kwargs
            if func is F.softmax and isinstance(values.get("dim"), int):
                return first.softmax(values["dim"], values.get("dtype"))
        if func is F.dropout and not _drops(*args[1:], **kwargs):
            return first
        if func in MATMULS and len(args) == 2 and not kwargs:
            return first.matmul(args[1])
    if len(args) == 2 and not kwargs and name in (*_ADD, *_MULTIPLY):
        scores, other = args if type(first) is Scores else (args[1], first)
        if type(scores) is Scores:
            result = scores.plus(other) if name in _ADD else scores.times(other)
            if result is not NotImplemented:
                return result
    args, kwargs = plain((args, kwargs))
    return func(*args, **kwargs)


def _drops(p: float = 0.5, training: bool = True, inplace: bool = False) -> bool:
    return training and p > 0.0
