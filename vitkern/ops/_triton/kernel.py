"""A kernel: where its source is, its configurations, the choice among them, and its launch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from vitkern.dispatch.measured import fastest
from vitkern.ops._recorder import Recorder, recorder, view
from vitkern.ops._triton.recorder import Launch, Work, recording
from vitkern.ops._triton.targets import Target, target_of

REGISTERS = 255
"""32-bit registers that a thread can have."""


class NothingFits(ValueError):
    """No configuration of a kernel fits a target."""


@dataclass(frozen=True)
class Config:
    """Constants of a kernel that change its speed and not its results beyond rounding.

    Attributes:
        constants: names and values, such as ``(("BLOCK_M", 64),)``.
        warps: of 32 threads, a program.
        stages: of the software pipeline of loads.
    """

    constants: tuple[tuple[str, int], ...]
    warps: int
    stages: int

    @functools.cached_property
    def name(self) -> str:
        """For files and tables."""
        values = "-".join(f"{name}{value}" for name, value in self.constants)
        return f"{values}-warps{self.warps}-stages{self.stages}".lower().lstrip("-")


def config(warps: int = 4, stages: int = 2, **constants: int) -> Config:
    """A configuration, its constants as keywords."""
    return Config(tuple(constants.items()), warps, stages)


@dataclass(frozen=True)
class Resources:
    """What a program needs, by the model that prunes configurations before they are compiled.

    Attributes:
        shared: bytes of shared memory.
        registers: 32-bit registers of the whole program that live at the same time: accumulators
            and operands, not addresses.
    """

    shared: int
    registers: int


Model = Callable[[Mapping[str, Any], int], Resources]
"""``model(constants, itemsize)``: the constants are those of the call and of the configuration."""

Space = Callable[[Mapping[str, Any], int], Sequence[Config]]
"""``space(constants, itemsize)``: configurations to try, the one for unmeasured calls first."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A ``@triton.jit`` function and how to launch it.

    A kernel must not read what it writes: the choice among configurations runs it many times.

    Attributes:
        module: that has the function; imported at the first launch.
        function: its name.
        space: the configurations.
        model: what they need.
        tensor_cores: whether its products of half-precision operands must use them.
    """

    module: str
    function: str
    space: Space
    model: Model
    tensor_cores: bool = True
    _fitting: dict[Any, tuple[Config, ...]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """``op.function``, or ``function`` where several ops share it."""
        owner = self.module.split(".")[-2].lstrip("_")
        return f"{owner}.{self.function}"

    @functools.cached_property
    def jit(self) -> Any:
        """The function itself. Imports Triton."""
        return getattr(importlib.import_module(self.module), self.function)

    def fitting(
        self, target: Target, constants: Mapping[str, Any], itemsize: int
    ) -> tuple[Config, ...]:
        """The configurations that fit a target by the model, in order; at least one.

        Raises:
            NothingFits: none does. The compile gate shows that it does not happen on NVIDIA's.
        """
        key = (target, itemsize, *sorted(constants.items()))
        found = self._fitting.get(key)
        if found is None:
            found = tuple(
                one for one in self.space(constants, itemsize)
                if fits(target, one, self.model({**constants, **dict(one.constants)}, itemsize))
            )  # fmt: skip
            if not found:
                raise NothingFits(
                    f"no configuration of {self.name} fits {target.title} with {dict(constants)}"
                )
            self._fitting[key] = found
        return found

    def __call__(
        self,
        grid: Callable[[Mapping[str, Any]], tuple[int, ...]],
        arguments: Mapping[str, Any],
        constants: Mapping[str, Any],
        work: Callable[[Mapping[str, Any], tuple[int, ...]], Work],
        *,
        operand: torch.Tensor,
    ) -> None:
        """Launch on ``operand``'s device and the current stream of it, without waiting.

        Args:
            grid: number of programs from all constants.
            arguments: by parameter name: tensors, numbers, None.
            constants: ``tl.constexpr`` parameters that are not the configuration's.
            work: what it does, from all constants and the grid; called only where recorded.
            operand: the tensor whose dtype the products are in.
        """
        recorded, device = recording(), operand.device
        target = target_for(device)
        candidates = self.fitting(target, constants, operand.dtype.itemsize)
        if recorded:
            chosen = candidates[0]
            merged = {**constants, **dict(chosen.constants)}
            programs = grid(merged)
            recorded.launches.append(
                Launch(self, chosen, candidates, arguments, constants, programs,
                       work(merged, programs))
            )  # fmt: skip
            return

        def run(one: Config) -> Any:
            merged = {**constants, **dict(one.constants)}
            return self.jit[grid(merged)](
                **arguments, **merged, num_warps=one.warps, num_stages=one.stages
            )

        writing = recorder()
        with _on(device), nullcontext() if writing is None else writing.paused():
            chosen = self._choose(device, candidates, arguments, constants, run)
            compiled = run(chosen)
        if writing is not None:
            merged = {**constants, **dict(chosen.constants)}
            values = {name: {**arguments, **merged}[name] for name in self.jit.arg_names}
            programs = (*grid(merged), 1, 1)[:3]
            if compiled is None:  # by the interpreter
                options = {"num_warps": chosen.warps, "num_stages": chosen.stages}
                writing.steps.append(_Interpreted(self.jit[programs], values, options, writing))
            else:
                writing.steps.append(_Compiled(compiled, programs, values, writing))

    def _choose(
        self,
        device: torch.device,
        candidates: tuple[Config, ...],
        arguments: Mapping[str, Any],
        constants: Mapping[str, Any],
        run: Callable[[Config], None],
    ) -> Config:
        """The configuration measured to be the fastest for such a launch; else the first."""
        if len(candidates) == 1:
            return candidates[0]
        by_name = {one.name: one for one in candidates}

        winner = fastest(
            f"triton:{self.name}", device, tuple(by_name), lambda: _likeness(arguments, constants),
            lambda name: functools.partial(run, by_name[name]),
            # While a CUDA graph is captured nobody waits; what was measured before is in the graph.
            lambda: device.type != "cuda" or not torch.cuda.is_current_stream_capturing(),
        )  # fmt: skip
        return by_name.get(winner, candidates[0])


class _Compiled:
    """A launch that a plan repeats: addresses in place of tensors, as Triton's launcher takes."""

    def __init__(
        self, compiled: Any, programs: tuple[int, ...], values: dict[str, Any], writing: Recorder
    ) -> None:
        self._watched, self._values = compiled[programs], list(values.values())
        self._run, self._programs = compiled.run, programs
        self._binary = compiled.function, compiled.packed_metadata, None, None, None
        self._knobs = importlib.import_module("triton.knobs").runtime
        for i, value in enumerate(self._values):
            if isinstance(value, torch.Tensor):
                self._values[i] = 0  # where it has no elements
        self._places = list(writing.places(dict(enumerate(values.values()))).items())

    def __call__(
        self, bases: Sequence[torch.Tensor], addresses: Sequence[int], stream: int
    ) -> None:
        values = self._values.copy()
        for i, place in self._places:
            values[i] = addresses[place.base] + place.offset
        # Somebody looks: a profiler of Triton's. What is described for it takes as long again.
        enter, leave = self._knobs.launch_enter_hook, self._knobs.launch_exit_hook
        if getattr(enter, "calls", enter) or getattr(leave, "calls", leave):
            self._watched(*values, stream=stream)
        else:
            self._run(*self._programs, stream, *self._binary, *values)


class _Interpreted:
    """The same for Triton's interpreter, which takes tensors."""

    def __init__(
        self, launch: Callable[..., object], values: dict[str, Any], options: dict[str, int],
        writing: Recorder,
    ) -> None:  # fmt: skip
        self._launch, self._options = launch, options
        tensors = {
            name: writing.shaped(value)
            for name, value in values.items()
            if isinstance(value, torch.Tensor) and value.numel()
        }
        self._views = {name: shaped for name, shaped in tensors.items() if shaped is not None}
        self._values = {name: value for name, value in values.items() if name not in tensors}

    def __call__(
        self, bases: Sequence[torch.Tensor], addresses: Sequence[int], stream: int
    ) -> None:
        views = {name: view(bases, *one) for name, one in self._views.items()}
        self._launch(**{**self._values, **views}, **self._options)


def target_for(device: torch.device) -> Target:
    """The target that launches are recorded for; else that of the device."""
    recorded = recording()
    return recorded.target if recorded else target_of(device)


def fits(target: Target, one: Config, needs: Resources) -> bool:
    """Whether a program can be launched on the target, and its registers do not spill."""
    threads = 32 * one.warps
    # Addresses, masks and loop counters take registers too: some 64 a thread.
    return needs.shared <= target.shared and needs.registers <= (REGISTERS - 64) * threads


def _on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _likeness(arguments: Mapping[str, Any], constants: Mapping[str, Any]) -> tuple[Any, ...]:
    """Launches with the same one are as fast: dtypes, sizes, strides, flags."""
    values = [
        (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value
        for value in arguments.values()
    ]
    return (*values, *constants.values())


def cdiv(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def pow2(n: int, least: int = 1) -> int:
    """The smallest power of two that is at least ``n`` and ``least``."""
    return max(least, 1 << max(n - 1, 0).bit_length())
