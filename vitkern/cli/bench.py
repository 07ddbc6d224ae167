"""Time timm models as they are and patched, in turns; the patched model has to be right first.

Without arguments it measures five rows of ViT and Swin, which takes about 3 to 4 minutes; --quick
takes less. With --peers it times torch.compile, ONNX Runtime and OpenVINO as well, which takes some
minutes for each row, because they convert the model first.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from typing import TYPE_CHECKING

from vitkern.cli import _peers
from vitkern.cli._arguments import add_products, check_products, positive
from vitkern.cli._errors import Usage, user_errors

if TYPE_CHECKING:
    from vitkern.bench.measure import Result
    from vitkern.bench.models import Row

HELP = "time timm models eager and patched: speed-up, share of the peak, error, memory"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "models", metavar="MODEL", nargs="*", help="timm names (default: five rows of ViT and Swin)"
    )
    parser.add_argument("--batch", metavar="N", nargs="+", type=positive, help="images (default 1)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--train", action="store_true", help="forward and backward")
    modes.add_argument(
        "--step", action="store_true", help="forward, backward and the optimizer's step (AdamW)"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    add_products(parser)
    parser.add_argument("--wide", action="store_true", help="40 rows: 20 models, batch 1 and 8")
    parser.add_argument("--threads", metavar="N", type=positive, help="threads of PyTorch's ops")
    parser.add_argument("--quick", action="store_true", help="few rounds, and no memory")
    parser.add_argument(
        "--no-page-faults",
        action="store_true",
        help="also the speed-up where freed memory is kept, so that eager has no page faults",
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="beside torch.compile, ONNX Runtime and OpenVINO (pip install 'vitkern[peers]')",
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="with --peers, draw it there: .png, .svg or .pdf"
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON there; - is the output")


def rows(arguments: argparse.Namespace) -> list[Row]:
    """What was asked for.

    Raises:
        Usage: options that do not go together.
    """
    from vitkern.bench.models import TARGETS, WIDE, Row

    check_products(arguments)
    form = arguments.products
    chosen = bool(arguments.models or arguments.batch or arguments.train or arguments.step)
    if arguments.wide and chosen:
        raise Usage("--wide has its own models, batches and mode")
    if arguments.wide or (not chosen and arguments.dtype == "float32"):
        found = WIDE if arguments.wide else TARGETS
        # Forms are for the forward only.
        return [replace(row, form=form) for row in found if form is None or row.mode == "eval"]
    names = arguments.models or dict.fromkeys(row.model for row in TARGETS)
    mode = "train" if arguments.train else "step" if arguments.step else "eval"
    return [
        Row(name, batch, mode, arguments.dtype, form)
        for name in names
        for batch in arguments.batch or (1,)
    ]


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 where a patched model is wrong or fails."""
    import torch

    from vitkern.bench import machine, measure, models, report
    from vitkern.bench.timing import QUICK, Plan
    from vitkern.cli._output import begin, console, print_json, show_progress, target, writing

    if arguments.peers:
        return _peers.run(arguments)
    if arguments.picture is not None:
        raise Usage("--picture: only --peers draws one")
    wanted = rows(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    results: list[Result] = []
    with user_errors():
        for row in wanted:
            models.check_name(row.model)
        path = target("--json", arguments.json)
        here = machine.describe()
        for number, row in enumerate(wanted, 1):
            begin(row.label, number, len(wanted))
            result = measure.measure(
                row,
                QUICK if arguments.quick else Plan(),
                with_memory=not (arguments.quick or arguments.no_memory),
                with_faults=arguments.no_page_faults,
                progress=functools.partial(show_progress, row.label),
            )
            results.append(result)
            document = report.document("models", here, [one.to_dict() for one in results])
            if path is not None:  # after each row: who interrupts keeps what there is
                with writing("--json", path):
                    report.write_json(path, document)
    if arguments.json == "-":
        print_json(document)
    else:
        out = console()
        out.print(report.fitted(report.table(results, here), out))
        for line in report.notes(results):
            out.print(line, markup=False, soft_wrap=True)
    return 0 if all(result.ok for result in results) else 1
