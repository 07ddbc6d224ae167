"""``measuring``: a block of code in which calls of a new kind are timed; and the choice itself."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vitkern.dispatch.measured import timing
from vitkern.dispatch.measured.gpu import sampler
from vitkern.dispatch.measured.key import Key, is_hashable, key_of, variant_key, wants_gradient
from vitkern.dispatch.measured.store import STORE, Decision

if TYPE_CHECKING:
    from vitkern.dispatch.backend import Backend
    from vitkern.dispatch.operator import Operator

# A context variable, not a flag: other threads and other tasks are not affected.
_ACTIVE: ContextVar[Measurement | None] = ContextVar("vitkern_measuring", default=None)

# Whether forms of kernels are timed: also in what a measurement of backends calls.
_VARIANTS: ContextVar[bool] = ContextVar("vitkern_measuring_variants", default=False)

# Two measurements at a time would disturb each other.
_one_at_a_time = threading.Lock()


def measures_forms() -> bool:
    """Whether forms of kernels that were not timed yet would be, in this thread or task."""
    return _VARIANTS.get()


def measures() -> bool:
    """Whether backends would be timed, in this thread or task."""
    return _ACTIVE.get() is not None


def choice(operator: Operator[Any], call: Any) -> Backend | None:
    """The backend that was measured to be the fastest for such calls; None = the fixed order.

    It runs in every call: without decisions that differ from the fixed order it costs two lookups.
    """
    measurement = _ACTIVE.get()
    if measurement is not None:
        return measurement.choose(operator, call)
    overrides = STORE.overrides
    if overrides is None:
        overrides = STORE.load()
    if not overrides:
        return None
    shapes = overrides.get(operator.name)
    if shapes is None:
        return None
    decisions = shapes.get(getattr(call[0], "shape", None))
    if decisions is None:
        return None
    try:
        backend = operator.backends.get(decisions.get(key_of(operator.name, call) or (), ""))
    except TypeError:  # a field that cannot be hashed
        return None
    return backend if backend is not None and not backend.supports(call) else None


def fastest(
    kernel: str,
    device: torch.device,
    names: Sequence[str],
    likeness: Callable[[], tuple[Any, ...]],
    run: Callable[[str], Callable[[], object]],
    timeable: Callable[[], bool] = lambda: True,
) -> str:
    """The form of a backend's kernel to take: what was measured for such launches, else the first.

    In a ``measuring`` block every form is timed where that was not done yet.

    Args:
        kernel: ``backend:name``.
        device: it runs on.
        names: of the forms.
        likeness: gives what a decision holds for, beside kernel and device: plain values, shapes
            and dtypes.
        run: ``run(name)`` gives a function that computes with that form.
        timeable: whether one may wait now; asked before anything is timed.
    """
    active = _VARIANTS.get()
    if STORE.overrides is None:
        STORE.load()
    if not active and not STORE.variants:
        return names[0]
    key = variant_key(kernel, device, likeness())
    known = STORE.variants.get(key, "")
    if known in names:
        return known
    if not active or not is_hashable(key) or not timeable():
        return names[0]
    token = _VARIANTS.set(False)
    try:
        runs = {name: run(name) for name in names}
        times = timing.in_turns(runs, names[0], sample=sampler(device))
    finally:
        _VARIANTS.reset(token)
    if names[0] not in times:
        return names[0]  # the launch itself will say why
    medians = {name: statistics.median(values) for name, values in times.items()}
    STORE.add(key, Decision(timing.winner(times, names[0]), names[0], medians))
    return STORE.variants[key]


@contextmanager
def measuring() -> Iterator[Measurement]:
    """Time calls of a new kind on every backend that takes them, in this block.

    The first automatic choice for a kind of call takes as long as some dozens of such calls, with
    their backward where a gradient is wanted; the winner computes this call and the later ones,
    also after the block, and in other processes: it is written to the cache folder at the end.
    Numbers may differ in rounding, as those of two backends do. Calls that name a backend are not
    timed, nor is what torch.compile traces.

    It holds for the thread (or the task) that enters the block, not for others.
    """
    STORE.reopen()
    measurement = Measurement()
    token, variants = _ACTIVE.set(measurement), _VARIANTS.set(True)
    try:
        yield measurement
    finally:
        _ACTIVE.reset(token)
        _VARIANTS.reset(variants)
        STORE.save()


@dataclass
class Use:
    """A kind of call that a ``measuring`` block met.

    Attributes:
        op: the op's name.
        shapes: of the call's tensors that have two or more dimensions, without repetition.
        dtype: of its first tensor.
        trained: whether a gradient was wanted.
        backend: what computed it.
        decision: what was measured; None where there was no choice or nothing could be timed.
        cached: whether it was known before.
        calls: how many there were.
        form: of its weights, where they are not taken as they are (``vitkern.ops.weights``).
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    trained: bool
    backend: str
    decision: Decision | None
    cached: bool
    calls: int = 1
    form: str | None = None


class Measurement:
    """What a ``measuring`` block does, and what it has met."""

    def __init__(self) -> None:
        self._uses: dict[Key, Use] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """The kinds of calls that chose automatically, in the order of their first calls."""
        return tuple(self._uses.values())

    def choose(self, operator: Operator[Any], call: Any) -> Backend | None:
        """The backend for ``call``, after a measurement where there was none; None = the order."""
        takers = {
            name: backend
            for name, backend in operator.backends.items()
            if backend.automatic and not backend.supports(call)
        }
        key = key_of(operator.name, call)
        if not takers or key is None or not is_hashable(key):
            return None
        if operator.composed and takers.keys() == {"eager"}:
            return None  # it will be other ops' calls, which choose
        use = self._uses.get(key)
        if use is not None:
            use.calls += 1
            return takers.get(use.backend)
        with _one_at_a_time:
            decision = STORE.get(key)
            cached = decision is not None and decision.seconds.keys() == takers.keys()
            if not cached:
                decision = self._measure(operator, call, takers) if len(takers) > 1 else None
                if decision is not None:
                    STORE.add(key, decision)
        backend = next(iter(takers)) if decision is None else decision.winner
        self._uses[key] = _use(operator.name, call, backend, decision, cached)
        return takers[backend]

    def _measure(
        self, operator: Operator[Any], call: Any, takers: dict[str, Backend]
    ) -> Decision | None:
        """None where the first of the order fails: the call itself will say how."""
        static = next(iter(takers))
        runs = {name: _run(operator, backend, call) for name, backend in takers.items()}
        token = _ACTIVE.set(None)  # what candidates call in turn is not measured
        try:
            with torch.random.fork_rng(devices=[]):
                times = timing.in_turns(runs, static, sample=sampler(_device(call)))
        finally:
            _ACTIVE.reset(token)
        if static not in times:
            return None
        medians = {name: statistics.median(values) for name, values in times.items()}
        return Decision(timing.winner(times, static), static, medians)


def _run(operator: Operator[Any], backend: Backend, call: Any) -> Callable[[], object]:
    """One computation of ``call``, with its backward where a gradient is wanted.

    Gradients go nowhere: the leaves are other tensors, on the same memory.
    """
    if not wants_gradient(call):
        return lambda: operator.compute(backend, call)

    fields = [
        value.detach().requires_grad_()
        if isinstance(value, torch.Tensor) and value.requires_grad
        else value
        for value in call
    ]
    leaves = [v for v in fields if isinstance(v, torch.Tensor) and v.requires_grad]
    own = operator.call_type(*fields)

    def both() -> None:
        # Gradient checkpointing, for one, counts what is saved for backward: not this.
        with torch.autograd.graph.saved_tensors_hooks(_same, _same):
            result = operator.compute(backend, own)
        outputs = [y for y in (result if type(result) is tuple else (result,)) if y.requires_grad]
        ones = [torch.ones_like(y) for y in outputs]
        torch.autograd.grad(outputs, leaves, ones, allow_unused=True)

    return both


def _device(call: Any) -> torch.device:
    return next(value.device for value in call if isinstance(value, torch.Tensor))


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _use(op: str, call: Any, backend: str, decision: Decision | None, cached: bool) -> Use:
    tensors = [value for value in call if isinstance(value, torch.Tensor)]
    wide = [value for value in call if len(getattr(value, "shape", ())) > 1]
    return Use(
        op,
        tuple(dict.fromkeys(tuple(value.shape) for value in wide)),
        str(tensors[0].dtype).removeprefix("torch."),
        wants_gradient(call),
        backend,
        decision,
        cached,
        form=next((value.form for value in call if hasattr(value, "form")), None),
    )
