"""Work that is shared out to processes by Ray Data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["shared_out"]


def shared_out(
    worker: Callable[..., Callable[[str], bytes]],
    arguments: Mapping[str, Any],
    tasks: Sequence[str],
    workers: int,
) -> list[bytes]:
    """Results of tasks, in their order.

    Args:
        worker: makes what does a task; once in each process.
        arguments: of it.
        tasks: what it is called with, one at a time.
        workers: processes, each on one processor.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: a cluster that is too small; a task raised an error, or has no result.
    """
    import ray
    from ray.exceptions import RayError

    rows = [{"number": number, "task": task} for number, task in enumerate(tasks)]
    if not rows:
        return []
    with _cluster(ray, workers):
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < workers:  # it would wait for more
            raise RuntimeError(f"{workers} workers need as many processors, Ray has {there}")
        # Blocks are what Ray Data gives to actors, and again where one dies, which it replaces as
        # often as it takes: a few tasks each.
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 16 * workers))
        mapped = data.map_batches(
            _Actor,
            fn_constructor_kwargs={"worker": worker, "arguments": dict(arguments)},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
        )
        try:
            found = {row["number"]: row["result"] for row in mapped.iter_rows()}
        except RayError as error:
            raise RuntimeError(f"a worker of Ray failed: {error}") from error
    lost = [row["number"] for row in rows if row["number"] not in found]
    if lost:
        raise RuntimeError(f"Ray gave no result of {len(lost)} of {len(rows)} batches: {lost[:5]}")
    return [found[number] for number in range(len(rows))]


class _Actor:
    """What Ray calls: batches of one row, whose columns are all that it looks at."""

    def __init__(self, worker: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self._worker = worker(**arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"number": batch["number"], "result": [self._worker(str(batch["task"][0]))]}


@contextmanager
def _cluster(ray: Any, workers: int) -> Iterator[None]:
    """The cluster that there is, or one of this machine for as long as it is needed."""
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    started = not ray.is_initialized()
    if started:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not os.environ.get("RAY_ADDRESS"):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
            # One more: with all taken by workers, Ray Data has none to read rows with.
            quiet.update(num_cpus=workers + 1, include_dashboard=False)
        ray.init(**quiet)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
        if started:
            ray.shutdown()
