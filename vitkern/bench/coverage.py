"""How much of a model runs on vitkern's kernels after ``patch``, and whether it is still right.

Of each model three things are found out, each on a copy with the same random weights:

* **Parity**, on a copy that is made short: of blocks that repeat (same class, same shapes) two are
  kept. Output, and gradients of the input and of all parameters, of the patched and of the eager
  model, each against float64, as in :mod:`vitkern.bench.parity`. The gradient is that of a fixed
  linear function of all outputs, in evaluation mode.
* **Share**, on the whole model: a forward without gradients, whose matrix products are counted
  operator by operator, as in :mod:`vitkern.bench.operator_flops`. What runs on ``eager``, for
  whatever reason, is counted as PyTorch's.
* **Time**, where asked for: eager and patched in turns.

A model that cannot be made, run or patched is a row with its error. Nothing here raises for it.
"""

from __future__ import annotations

import copy
import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from vitkern.bench.models import enliven
from vitkern.bench.parity import Check, compare
from vitkern.bench.products import Products, count_graph_products, count_products
from vitkern.bench.timing import Plan, Summary, interleave
from vitkern.patching import PatchReport, graph_backend, patch
from vitkern.patching.swap import swap_of

__all__ = [
    "Coverage",
    "Products",
    "Subject",
    "count_products",
    "measure",
    "module_share",
    "shorten",
]

SEEDS = (1, 2, 3)
"""Inputs of parity. The second and third are tried where the first fails: the worst errors of all
three are compared then, so that one lucky sum of the eager model decides nothing."""

TIMING = Plan(min_rounds=5, min_seconds=0.4, max_seconds=3.0)


@dataclass(frozen=True)
class Subject:
    """A model to look at.

    Attributes:
        name: ``library/model``, unique.
        build: makes it with random weights.
        size: (channels, height, width) of its images.
        transformer: whether it belongs to those that the goals are about; convolutional networks
            with a little attention do not.
        batch: images in a batch.
        channels_last: whether the images have channels last in memory, for eager as well.
    """

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, int, int]
    transformer: bool = True
    batch: int = 2
    channels_last: bool = False

    @property
    def library(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Coverage:
    """What was found out about a model.

    Attributes:
        name: the subject's.
        transformer: the subject's.
        error: why it could not be looked at; everything else is then as it starts.
        parameters: how many numbers they are.
        blocks_left_out: repeated blocks that the copy for parity is shorter by.
        checks: of output and gradients.
        inputs: how many inputs parity took.
        products: of a forward.
        modules: share of the modules with parameters that run on ops, 0 to 1.
        patched: how many modules were patched, by op and backend.
        skipped: why others of known kinds were not, with how often.
        fallbacks: warnings of patched modules that ran their original forward.
        speedup: eager's time over the patched model's, forward.
        seconds: what looking took.
    """

    name: str
    transformer: bool = True
    error: str | None = None
    parameters: int = 0
    blocks_left_out: int = 0
    checks: tuple[Check, ...] = ()
    inputs: int = 0
    products: Products | None = None
    modules: float = 0.0
    patched: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    speedup: Summary | None = None
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """``right``, ``wrong`` or ``failed``."""
        if self.error is not None:
            return "failed"
        return "right" if all(check.passed for check in self.checks) else "wrong"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        products = self.products
        return {
            **values,
            "outcome": self.outcome,
            "checks": [check.to_dict() for check in self.checks],
            "products": products and asdict(products),
            "patched": dict(self.patched),
            "skipped": dict(self.skipped),
            "fallbacks": list(self.fallbacks),
            "speedup": self.speedup and self.speedup.to_dict(),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Coverage:
        """What ``to_dict`` gave."""
        known = {key: values[key] for key in Coverage.__dataclass_fields__}
        checks = []
        for one in known["checks"]:
            error = float("inf") if one["error"] is None else one["error"]
            checks.append(Check(**{**one, "error": error}))
        return Coverage(
            **{
                **known,
                "checks": tuple(checks),
                "products": known["products"] and Products(**known["products"]),
                "fallbacks": tuple(known["fallbacks"]),
                "speedup": known["speedup"] and Summary.from_dict(known["speedup"]),
            }
        )


def measure(subject: Subject, *, timing: Plan | None = None, graph: str | None = None) -> Coverage:
    """Looks at one model; whatever goes wrong with it is in the result.

    Args:
        subject: the model.
        timing: how long to time it; None does not.
        graph: looks at ``torch.compile(model, backend="vitkern")`` instead of ``patch``; what
            compiles the rest. It is not timed.
    """
    start = time.perf_counter()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.manual_seed(0)
            found = _measure(subject, timing) if graph is None else _measure_graph(subject, graph)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Coverage(
            subject.name, subject.transformer, text[:500], seconds=time.perf_counter() - start
        )
    finally:
        gc.collect()
    texts = [str(one.message) for one in caught]
    fallbacks = tuple(dict.fromkeys(one for one in texts if one.startswith("vitkern: ")))
    values = {key: getattr(found, key) for key in Coverage.__dataclass_fields__}
    values |= {"fallbacks": fallbacks, "seconds": time.perf_counter() - start}
    return Coverage(**values)


def _measure(subject: Subject, timing: Plan | None) -> Coverage:
    model = subject.build().float().eval()
    enliven(model)
    checks, inputs, left_out = _parity(subject, model, patch)
    eager = copy.deepcopy(model) if timing is not None else None
    report = patch(model)
    images = _images(subject, SEEDS[0])
    products = count_products(lambda: model(images))
    speedup = None
    if eager is not None and timing is not None:
        runs = {"eager": _inference(eager, images), "patched": _inference(model, images)}
        speedup = interleave(runs, timing).ratio("eager", "patched")
    return Coverage(
        subject.name,
        subject.transformer,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        blocks_left_out=left_out,
        checks=checks,
        inputs=inputs,
        products=products,
        modules=module_share(model),
        patched=_counts(report),
        skipped=_skipped(report),
        speedup=speedup,
    )


def _measure_graph(subject: Subject, rest: str) -> Coverage:
    model = subject.build().float().eval()
    enliven(model)

    def compile_it(model: nn.Module) -> None:
        torch.compiler.reset()  # or the models before would use up the limit of compilations
        model.compile(backend=graph_backend(rest=rest))

    checks, inputs, left_out = _parity(subject, model, compile_it)
    products, reports = count_graph_products(model, _images(subject, SEEDS[0]))
    patched: dict[str, int] = {}
    skipped: dict[str, int] = {}
    for report in reports:
        for counts, found in ((patched, report.counts()), (skipped, report.reasons())):
            for key, count in found.items():
                counts[key] = counts.get(key, 0) + count
    return Coverage(
        subject.name,
        subject.transformer,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        blocks_left_out=left_out,
        checks=checks,
        inputs=inputs,
        products=products,
        patched=patched,
        skipped=skipped,
    )


def _inference(model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run


def _images(subject: Subject, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(subject.batch, *subject.size, generator=generator)
    return images.to(memory_format=torch.channels_last) if subject.channels_last else images


def _counts(report: PatchReport) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in report.patched:
        key = f"{one.op}: {one.backend}"
        counts[key] = counts.get(key, 0) + 1
    return counts


def _skipped(report: PatchReport) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in report.skipped:
        counts[one.why()] = counts.get(one.why(), 0) + 1
    return counts


def _parity(
    subject: Subject, model: nn.Module, change: Callable[[nn.Module], object]
) -> tuple[tuple[Check, ...], int, int]:
    """Output's and gradients' checks, of how many inputs, and how many blocks were left out.

    Args:
        subject: the model.
        model: as it was built.
        change: what is done to the copy that is looked at, in place.
    """
    eager, left_out = shorten(model, _images(subject, SEEDS[0]))
    oracle, patched = copy.deepcopy(eager).double(), copy.deepcopy(eager)
    change(patched)
    pooled: list[dict[str, dict[str, torch.Tensor]]] = [{}, {}, {}]
    for seed in SEEDS:
        images = _images(subject, seed)
        for pool, one, x in zip(
            pooled, (oracle, eager, patched), (images.double(), images, images), strict=True
        ):
            for kind, tensors in _results(one, x).items():
                pool.setdefault(kind, {}).update(
                    {f"{seed} {name}": value for name, value in tensors.items()}
                )
        truth, plain, ours = pooled
        checks = tuple(compare(kind, truth[kind], plain[kind], ours[kind]) for kind in truth)
        if all(check.passed for check in checks):
            break
    return checks, SEEDS.index(seed) + 1, left_out


def _results(model: nn.Module, images: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    """Outputs, and gradients of a linear function of them."""
    images = images.detach().clone().requires_grad_()
    parameters = {key: value for key, value in model.named_parameters() if value.requires_grad}
    outputs = list(_floating(model(images)))
    if not outputs:
        raise ValueError("the model returns no floating-point tensor")
    total = images.new_zeros(())
    for one in outputs:
        if one.requires_grad and one.numel():
            weights = torch.linspace(-1.0, 1.0, one.numel(), dtype=torch.float64, device=one.device)
            total = total + (one * weights.reshape(one.shape).to(one.dtype)).sum()
    wanted = {"input": images, **parameters}
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    gradients = {
        key: torch.zeros_like(value) if grad is None else grad
        for (key, value), grad in zip(wanted.items(), grads, strict=True)
    }
    return {
        "output": {str(number): one.detach() for number, one in enumerate(outputs)},
        "input's gradient": {"input": gradients.pop("input")},
        "parameters' gradients": gradients,
    }


def _floating(outputs: Any) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            yield leaf


def shorten(model: nn.Module, images: torch.Tensor) -> tuple[nn.Module, int]:
    """A copy of ``model`` that keeps two of each run of alike blocks, and how many it leaves out.

    Alike are children of a Sequential or ModuleList that have the same class and parameters of the
    same names and shapes. Where the short copy cannot run, it is a whole copy.
    """
    short = copy.deepcopy(model)
    left_out = 0
    for module in list(short.modules()):
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        kept: list[nn.Module] = []
        for child in module:
            if len(kept) >= 2 and _signature(kept[-1]) == _signature(kept[-2]) == _signature(child):
                left_out += 1
            else:
                kept.append(child)
        if len(kept) < len(module):
            module._modules = {str(number): child for number, child in enumerate(kept)}
    if left_out:
        try:
            with torch.no_grad():
                short(images)
        except Exception:
            return copy.deepcopy(model), 0
    return short, left_out


def _signature(module: nn.Module) -> tuple[Any, ...]:
    shapes = tuple((key, tuple(value.shape)) for key, value in module.named_parameters())
    return (type(module), shapes, bool(shapes))


def module_share(model: nn.Module) -> float:
    """Of the modules with parameters of their own, the share that a patched forward computes."""
    inside: set[int] = set()
    for module in model.modules():
        if swap_of(module) is not None:
            inside.update(id(below) for below in module.modules())
    own = [module for module in model.modules() if module._parameters]
    return sum(id(module) in inside for module in own) / len(own) if own else 0.0
