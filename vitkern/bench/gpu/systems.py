"""One row of the GPU check: each system is compared with float64, then all are timed in turns."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import vitkern
from vitkern.bench import parity
from vitkern.bench.flops import model_flops
from vitkern.bench.gpu.card import smi
from vitkern.bench.gpu.predict import predict
from vitkern.bench.gpu.rows import Entry, build, on_meta
from vitkern.bench.measure import first_line
from vitkern.bench.parity import Check, Tensors
from vitkern.bench.passes import make_pass
from vitkern.bench.timing import Comparison, Plan
from vitkern.ops._triton.targets import Target

EAGER, VITKERN, COMPILED = "eager", "vitkern", "torch.compile"
EAGER_GRAPH, VITKERN_GRAPH = "eager, CUDA graph", "vitkern, CUDA graph"


def named(backend: str) -> str:
    """The system that runs on one of our backends only."""
    return f"{VITKERN}, {backend}"


RATIOS = ((EAGER, VITKERN), (COMPILED, VITKERN), (EAGER_GRAPH, VITKERN_GRAPH),
          (COMPILED, VITKERN_GRAPH), (named("triton"), named("cuda")))  # fmt: skip

Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Place:
    """Where rows are measured, and how: a GPU, or the CPU in a dry run.

    Attributes:
        device: of models and images.
        target: the data sheet's figures; None where there are none.
        plan: how long to time.
        time: times callables in turns.
        capture: makes a CUDA graph of a pass.
        compiler: torch.compile's backend.
        backends: ours, each of which is a system of its own beside the tuned choice among them.
    """

    device: torch.device
    target: Target | None
    plan: Plan
    time: Callable[[Mapping[str, Run], Plan], Comparison]
    capture: Callable[[Run], Run]
    compiler: str = "inductor"
    backends: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Results:
    """Outputs and gradients of one pass."""

    output: Tensors
    gradients: Tensors

    def compare(self, eager: _Results, got: _Results) -> list[Check]:
        """These are the truth."""
        kinds = [(kind, getattr(self, kind)) for kind in ("output", "gradients")]
        return [
            parity.compare(kind, truth, getattr(eager, kind), getattr(got, kind))
            for kind, truth in kinds
            if truth
        ]


class Bench:
    """The systems of one row."""

    def __init__(self, entry: Entry, place: Place, progress: Callable[[str], object]) -> None:
        self.entry, self.place, self.progress = entry, place, progress
        self.runs: dict[str, Run] = {}
        self.checks: dict[str, list[Check]] = {}
        self.notes: list[str] = []
        self.backends: dict[str, int] = {}
        self.ops: list[dict[str, Any]] = []
        progress("model")
        self.model, self.images = build(entry, place.device)
        progress("float64")
        self.truth = self._truth()
        self.eager = self._results(self.model, self._pass(self.model))

    def measure(self) -> dict[str, Any]:
        """All that is known of the row, for JSON."""
        self._add(EAGER, lambda: (self.model, self._pass(self.model)))
        self._add(VITKERN, self._patched)
        if self.entry.compared:
            for backend in self.place.backends:
                self._add(named(backend), functools.partial(self._patched_by, backend))
            self._add(COMPILED, self._compiled)
        if self.entry.row.mode == "eval":
            for name, plain in ((EAGER_GRAPH, EAGER), (VITKERN_GRAPH, VITKERN)):
                if plain in self.runs:
                    self._add(name, functools.partial(self._graph, plain))
        del self.truth, self.eager
        self.progress("time")
        times = self.place.time(self.runs, self.place.plan)
        after = smi("clocks.sm", "temperature.gpu") if self.place.device.type == "cuda" else None
        return self._document(times, after)

    def _add(self, name: str, make: Callable[[], tuple[nn.Module, Run]]) -> None:
        """Compare with the truth; what is wrong or fails is not timed, and a note says so."""
        self.progress(name)
        try:
            model, run = make()
            checks = self.truth.compare(self.eager, self._results(model, run))
        except Exception as error:  # of a compiler, a capture, a kernel: one system less
            self.notes.append(f"{name}: not timed, it fails: {first_line(error)}")
            return
        self.checks[name] = checks
        wrong = [one for one in checks if not one.passed]
        if wrong:
            self.notes.append(f"{name}: not timed, parity failed: {wrong[0]}")
        else:
            self.runs[name] = run

    def _pass(self, model: nn.Module) -> Run:
        return make_pass(self.entry.row, model, self.images)

    def _truth(self) -> _Results:
        oracle = copy.deepcopy(self.model).double()
        return self._results(oracle, make_pass(self.entry.row, oracle, self.images.double()))

    def _results(self, model: nn.Module, run: Run) -> _Results:
        output = run().clone()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        return _Results({"output": output}, gradients)

    def _patched(self) -> tuple[nn.Module, Run]:
        model = copy.deepcopy(self.model)
        report = vitkern.patch(model)
        self.backends = dict(Counter(module.backend for module in report.patched))
        self.progress("tune")
        self.ops = [
            {
                "op": use.op,
                "shapes": [list(shape) for shape in use.shapes],
                "calls": use.calls,
                "backend": use.backend,
                "seconds": use.decision and dict(use.decision.seconds),
            }
            for use in vitkern.tune(model, self.images).uses
        ]
        self.progress(VITKERN)
        return model, self._pass(model)

    def _patched_by(self, backend: str) -> tuple[nn.Module, Run]:
        model = copy.deepcopy(self.model)
        try:
            vitkern.patch(model, backend=backend)
        except vitkern.CannotPatch as error:
            first = error.skipped[0]
            raise RuntimeError(f"{first.name}: {first.why()}") from error
        return model, self._pass(model)

    def _compiled(self) -> tuple[nn.Module, Run]:
        torch.compiler.reset()
        model = copy.deepcopy(self.model)
        model.compile(dynamic=False, backend=self.place.compiler)
        return model, self._pass(model)

    def _graph(self, plain: str) -> tuple[nn.Module, Run]:
        return self.model, self.place.capture(self.runs[plain])

    def _document(self, times: Comparison, after: list[str] | None) -> dict[str, Any]:
        row = self.entry.row
        flops = model_flops(self.model, self.images, backward=row.mode == "train")
        peak = _peak(self.place.target, row.dtype)
        systems: dict[str, Any] = {}
        for name, checks in self.checks.items():
            systems[name] = {"parity": [one.to_dict() for one in checks], "seconds": None}
            if name in self.runs:
                found = times.summary(name)
                systems[name] |= {
                    "seconds": found.to_dict(),
                    "images_per_second": row.batch / found.median,
                    "share_of_peak": flops / found.median / peak if peak else None,
                }
        predicted = self._predicted()
        ours = systems.get(VITKERN_GRAPH, {}).get("seconds")
        return {
            "name": row.slug,
            "row": row.to_dict(),
            "ok": VITKERN in self.runs,
            "backends": self.backends,
            "ops": self.ops,
            "flops": flops,
            "peak": peak,
            "systems": systems,
            "speedups": {
                f"{fast} over {slow}": times.ratio(slow, fast).to_dict()
                for slow, fast in RATIOS
                if slow in self.runs and fast in self.runs
            },
            "predicted_seconds": predicted,
            "measured_over_predicted": (
                ours["median"] / predicted["triton"] if ours and predicted else None
            ),
            "after": after and dict(zip(("clock", "temperature"), after, strict=True)),
            "notes": self.notes,
        }

    def _predicted(self) -> dict[str, float] | None:
        """By the model of bench.gpu.predict, which knows inference only, in CUDA graphs."""
        if self.place.target is None or self.entry.row.mode != "eval":
            return None
        try:
            found = predict(*on_meta(self.entry), self.place.target)
        except Exception as error:  # a prediction is no reason to lose what was measured
            self.notes.append(f"no prediction: {first_line(error)}")
            return None
        return {one.system: one.seconds for one in found}


def _peak(target: Target | None, dtype: str) -> float | None:
    """FLOP/s by the data sheet: of tensor cores, or in float32 of the others."""
    if target is None:
        return None
    return target.single if dtype == "float32" else target.half
