"""Time each op of a timm model on every backend, and remember the winners in the cache folder.

Later processes on this machine use them, with the same versions and as many threads. What was
measured before is not measured again: --clear forgets it first.
"""

from __future__ import annotations

import argparse

from vitkern.cli._arguments import add_products, check_products, positive
from vitkern.cli._errors import Usage, user_errors

HELP = "measure ahead which backend is the fastest for each op of a timm model"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a timm name, as vit_small_patch16_224"
    )
    parser.add_argument(
        "--batch", metavar="N", nargs="+", type=positive, default=[1], help="images (default 1)"
    )
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    add_products(parser)
    parser.add_argument("--threads", metavar="N", type=positive, help="threads of PyTorch's ops")
    parser.add_argument("--clear", action="store_true", help="first forget all that was measured")
    parser.add_argument("--json", metavar="FILE", help="write JSON there; - is the output")


def run(arguments: argparse.Namespace) -> int:
    """Tune and print, a table a batch."""
    import torch

    from vitkern.bench import contention, forms, machine, models, report
    from vitkern.cli._output import console, print_json, target, writing
    from vitkern.dispatch.measured import STORE
    from vitkern.tuning import tune

    if arguments.model is None and not arguments.clear:
        raise Usage("tune: MODEL or --clear is required")
    check_products(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    mode = "train" if arguments.train else "eval"
    rows, found = [], []
    with user_errors():
        if arguments.model is not None:
            models.check_name(arguments.model)
            rows = [
                models.Row(arguments.model, batch, mode, arguments.dtype, arguments.products)
                for batch in arguments.batch
            ]
        path = target("--json", arguments.json)
        forgotten = STORE.clear() if arguments.clear else 0
        others = []
        for row in rows:
            model, images = models.build(row)
            if row.form is not None:
                forms.prepare(model, images, row.form)
            meter = contention.Meter()
            meter.sample()
            found.append(tune(model, images))
            meter.sample()
            others.append(meter.result())
        entries = [
            {
                "name": row.slug,
                "row": row.to_dict(),
                **one.to_dict(),
                "contention": other and other.to_dict(),
            }
            for row, one, other in zip(rows, found, others, strict=True)
        ]
        document = report.document("tune", machine.describe(), entries)
        if path is not None:
            with writing("--json", path):
                report.write_json(path, document)
    if arguments.json == "-":
        print_json(document)
        return 0
    out = console()
    if arguments.clear:
        out.print(f"forgot {forgotten} file{'s' * (forgotten != 1)} of decisions")
    for row, one, other in zip(rows, found, others, strict=True):
        out.print(row.label, markup=False)
        out.print(one)
        if one.path is not None:
            out.print(f"kept in {one.path}", markup=False, soft_wrap=True)
        if one.measured and other is not None and other.busy:
            print(f"{other}, so some choices may be wrong: --clear, and tune again when it is idle")
    return 0
