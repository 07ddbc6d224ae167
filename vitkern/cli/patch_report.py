"""What vitkern.patch does to a model: which modules run on which backend, and why others do not."""

from __future__ import annotations

import argparse

HELP = "which modules of a timm model vitkern.patch would run on which backend"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("model", metavar="MODEL", help="a timm name, as vit_small_patch16_224")
    parser.add_argument("--backend", help="the backend that all modules must run on")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--full", action="store_true", help="a line for every module")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Patch a model with fresh weights and print the report. Skipped modules are no failure."""
    from vitkern.bench import models
    from vitkern.cli._errors import user_errors
    from vitkern.cli._output import console, print_json
    from vitkern.dispatch import check_backend_name
    from vitkern.patching import patch

    with user_errors():
        check_backend_name(arguments.backend)
        model = models.create(arguments.model).to(models.DTYPES[arguments.dtype]).eval()
        report = patch(model, backend=arguments.backend)
    if arguments.json:
        print_json({"model": arguments.model, **report.to_dict()})
    elif arguments.full and (report.patched or report.skipped):
        for patched in report.patched:
            print(f"{patched.name or '(the model)'}: {patched.op}: {patched.backend}")
        for skipped in report.skipped:
            print(f"{skipped.name or '(the model)'}: {skipped.op}: skipped: {skipped.why()}")
    else:
        console().print(report)
    return 0
