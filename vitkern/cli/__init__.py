"""The command ``vitkern``: one file of this package a command.

Exit status: 0 all well; 2 it was called wrongly, that is, the arguments or a recipe say what is not
there or does not fit, and nothing was begun; 1 it was called rightly and failed, at what a file
holds, at writing, or in the work. What a user can mend is said in one line on the error stream;
tracebacks are bugs.

A command is a module without a leading underscore that has ``HELP`` (a line), ``configure(parser)``
and ``run(arguments) -> exit status``. It imports what is slow in ``run``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vitkern.cli._errors import Failure

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. argparse exits by itself, with status 2."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except Failure as error:
        print(f"vitkern: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # `vitkern info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("vitkern: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Command(_Parser):
    """Refuses by itself what it does not know, so that the error names the command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def _parser() -> argparse.ArgumentParser:
    from vitkern.bench.machine import version

    parser = _Parser(
        prog="vitkern", description="Custom kernels that make vision transformers fast."
    )
    parser.add_argument("--version", action="version", version=f"vitkern {version()}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Command
    )
    for found in pkgutil.iter_modules(__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        command = commands.add_parser(
            found.name.replace("_", "-"), help=module.HELP, description=module.__doc__
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser
