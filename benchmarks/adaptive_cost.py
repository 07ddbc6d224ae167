"""What AdaptiveViT spends by route: ``python -m benchmarks.adaptive_cost [--cpu-time] [NAME...]``.

FLOPs are counted on the meta device for every configuration (two for a multiplication and an
addition; elementwise work does not count). Times are taken in turns for those named: on two threads
by the clock, or with ``--cpu-time`` on one thread what it spent itself, which other processes
disturb less.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitkern.bench import timing
from vitkern.models import AdaptiveViT, create_model, list_models
from vitkern.models.adaptive import ROUTES


def images(size: int) -> torch.Tensor:
    """A pale disc, smooth noise and noise: simple, medium and complex, (3, 3, size, size)."""
    line = torch.linspace(-1.7, 1.7, size)
    disc = 0.5 * (line[:, None] ** 2 + line[None] ** 2 < 1).float().expand(1, 3, size, size)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, size, size, generator=generator)
    smooth = 3.0 * nn.functional.avg_pool2d(noise, 9, stride=1, padding=4)
    return torch.cat((disc, smooth, noise))


def count_flops(name: str) -> list[int]:
    """Of one image by each route, and of the estimator alone."""
    with torch.device("meta"):
        model = create_model(name).eval()
        assert isinstance(model, AdaptiveViT)
        height, width = model.patch_embeds["simple"].img_size
        image = torch.empty(1, 3, height, width)

    def counted(run: Callable[[], object]) -> int:
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
            run()
        return counter.get_total_flops()

    routes = [counted(lambda r=r: model.forward_route(image, r)) for r in range(len(ROUTES))]
    return [*routes, counted(lambda: model.complexity(image))]


def take_times(name: str, clock: Callable[[], float]) -> timing.Comparison:
    """Of one image by each route, and of batches of six, as the estimator sends them."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    assert isinstance(model, AdaptiveViT)
    simple, medium, complex_ = images(model.patch_embeds["simple"].img_size[0]).split(1)
    batches = {
        "complex": complex_,
        "medium": medium,
        "simple": simple,
        "6 complex": complex_.repeat(6, 1, 1, 1),
        "6 simple": simple.repeat(6, 1, 1, 1),
        "4 simple, 1 medium, 1 complex": torch.cat(
            (simple, complex_, simple, medium, simple, simple)
        ),
    }
    expected = {"simple": [0], "medium": [1], "complex": [2]}
    for route, numbers in expected.items():
        if model.choose(batches[route]).tolist() != numbers:
            raise RuntimeError(f"the estimator does not find the {route} image {route}")

    def run(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(batch)

    plan = timing.Plan(min_rounds=9, min_seconds=5.0, max_seconds=45.0)
    sides = {label: (lambda batch=batch: run(batch)) for label, batch in batches.items()}
    return timing.interleave(sides, plan, clock=clock)


def main(names: list[str]) -> None:
    print("GFLOPs of an image: simple, medium, complex; estimator")
    for name in list_models("adaptive_vit_*"):
        *routes, estimator = (flops / 1e9 for flops in count_flops(name))
        print(f"{name}: {', '.join(f'{r:.2f}' for r in routes)}; {estimator:.4f}")
    cpu_time = "--cpu-time" in names
    threads, clock = (1, time.thread_time) if cpu_time else (2, time.perf_counter)
    torch.set_num_threads(threads)
    for name in [name for name in names if name != "--cpu-time"]:
        print(f"{name}: median ms on {threads} threads, and how many times faster than 'complex'")
        times = take_times(name, clock)
        for label in times.seconds:
            slower = "6 complex" if label[0].isdigit() else "complex"
            ratio = times.ratio(slower, label).median
            print(f"  {label}: {1e3 * times.summary(label).median:.1f}, {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
