"""Compile the kernels that this installation lacks, into the cache folder.

Later processes use them; reinstalling is not needed. Takes some minutes. CUDA kernels need nvcc and
no GPU; those for the CPU need a C++20 compiler. What is there already is not built again, unless by
force: then what is built takes its place, if it is for other cards or damaged.
"""

from __future__ import annotations

import argparse
import sys

from vitkern.cli._errors import Failure, Usage

HELP = "compile the kernels that this installation lacks: --cpu, --cuda"


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--cpu", action="store_true", help="the kernels for the CPU")
    parser.add_argument("--cuda", action="store_true", help="the CUDA kernels")
    parser.add_argument(
        "--architectures", metavar="N", nargs="+", type=int,
        help="of the CUDA kernels, as 80 90 (default: those of the installed PyTorch)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="CUDA kernels though they are there")


def run(arguments: argparse.Namespace) -> int:
    """Build, and print the paths."""
    from vitkern._build import BuildError, BuildFailed
    from vitkern.building import build_cpu, build_cuda

    if not arguments.cpu and not arguments.cuda:
        raise Usage("build: --cpu or --cuda is required")
    if arguments.architectures is not None and not arguments.cuda:
        raise Usage("build: --architectures is for --cuda")
    if arguments.force and not arguments.cuda:
        raise Usage("build: --force is for --cuda")
    try:
        if arguments.cpu:
            print(build_cpu())
        if arguments.cuda:
            print(build_cuda(arguments.architectures, force=arguments.force))
    except ValueError as error:
        raise Usage(f"build: --{error}") from error
    except BuildError as error:
        if isinstance(error, BuildFailed) and error.output:
            print(error.output, file=sys.stderr)
        raise Failure(f"not built: {error}") from error
    return 0
