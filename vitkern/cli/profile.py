"""Where a timm model's time goes, patched or not: by operator, with its share of the peak."""

from __future__ import annotations

import argparse

from vitkern.cli._arguments import add_products, check_products, positive
from vitkern.cli._errors import Usage, user_errors

HELP = "time, operations, bytes and share of the peak of each operator in a timm model"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("model", metavar="MODEL", help="a timm name, as vit_small_patch16_224")
    parser.add_argument("--batch", metavar="N", type=positive, default=1, help="images")
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    add_products(parser)
    parser.add_argument("--eager", action="store_true", help="the model as it is, not patched")
    parser.add_argument("--calls", action="store_true", help="a line for every call, in order")
    parser.add_argument("--quick", action="store_true", help="few passes")
    parser.add_argument(
        "--target", metavar="GPU", help="predict for a GPU that is not here, as h100; measures none"
    )
    parser.add_argument("--threads", metavar="N", type=positive, help="threads of PyTorch's ops")
    parser.add_argument("--json", metavar="FILE", help="write JSON there; - is the output")
    parser.add_argument("--picture", metavar="FILE", help="draw it there: .png, .svg or .pdf")


def run(arguments: argparse.Namespace) -> int:
    """Profile or predict, and print."""
    return _measure(arguments) if arguments.target is None else _predict(arguments)


def _predict(arguments: argparse.Namespace) -> int:
    """The time on a GPU that is not here."""
    import torch

    from vitkern.bench import models
    from vitkern.bench.gpu import report as gpu_report
    from vitkern.bench.gpu.predict import predict
    from vitkern.bench.report import write_json
    from vitkern.cli._output import console, print_json, target, writing
    from vitkern.ops._triton.targets import TARGETS

    others = ("train", "eager", "calls", "quick", "threads", "picture", "products")
    given = [f"--{name}" for name in others if getattr(arguments, name)]
    if given:
        raise Usage(f"--target predicts inference, and does not go with {', '.join(given)}")
    if arguments.target not in TARGETS:
        raise Usage(f"--target: got {arguments.target!r}; takes {', '.join(TARGETS)}")
    row = models.Row(arguments.model, arguments.batch, "eval", arguments.dtype)
    with user_errors():
        models.check_name(row.model)
        path = target("--json", arguments.json)
        dtype = models.DTYPES[row.dtype]
        with torch.device("meta"):
            model = models.create(row.model).to(dtype).eval()
            images = torch.empty((row.batch, *models.image_size(model)), dtype=dtype)
        found = predict(model, images, TARGETS[arguments.target])
    document = gpu_report.document(found, row.model, row.batch)
    if path is not None:
        with writing("--json", path):
            write_json(path, document)
    if arguments.json == "-":
        print_json(document)
    else:
        out = console()
        out.print(gpu_report.summary(found, row.batch, row.label))
        out.print(gpu_report.kernels(found[0]))
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    """The time here."""
    import torch

    from vitkern.bench import machine, models, profile_report, report
    from vitkern.bench.forms import prepare
    from vitkern.bench.passes import make_pass
    from vitkern.bench.profile import profile
    from vitkern.bench.timing import QUICK, Plan
    from vitkern.cli._output import check_picture, console, print_json, target, writing

    check_picture(arguments.picture)
    check_products(arguments)
    if arguments.eager and arguments.products is not None:
        raise Usage("--products is of a patched model, and does not go with --eager")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    mode = "train" if arguments.train else "eval"
    row = models.Row(arguments.model, arguments.batch, mode, arguments.dtype, arguments.products)
    with user_errors():
        models.check_name(row.model)
        path, picture = target("--json", arguments.json), target("--picture", arguments.picture)
        model, images = models.build(row)
        if not arguments.eager:
            prepare(model, images, row.form)
        plan = QUICK if arguments.quick else Plan(max_seconds=60.0)
        found = profile(model, make_pass(row, model, images), plan, form=row.forms[1])
        here = machine.describe()
        title = f"{row.label}, {'eager' if arguments.eager else 'patched'}"
        entry = {"name": title, "row": row.to_dict(), **found.to_dict()}
        document = report.document("profile", here, [entry])
        if path is not None:
            with writing("--json", path):
                report.write_json(path, document)
        if picture is not None:
            with writing("--picture", picture):
                profile_report.draw(found, here, title, picture)
    if arguments.json == "-":
        print_json(document)
    else:
        out = console()
        table = profile_report.table(found, here, title, calls=arguments.calls)
        out.print(report.fitted(table, out))
        if found.contention is not None and found.contention.busy:
            print(f"{found.contention}, so do not believe these times: measure again when idle")
        if found.reason is not None:
            print(f"share of the peak: {found.reason}")
    return 0
