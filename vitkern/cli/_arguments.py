"""Types of arguments that several commands have."""

from __future__ import annotations

import argparse

from vitkern.cli._errors import Usage


def add_products(parser: argparse.ArgumentParser) -> None:
    """The option for the form of the patched model's products."""
    parser.add_argument(
        "--products",
        metavar="FORM",
        choices=("bfloat16", "int8"),
        help="of a float32 model in bfloat16 (patch(dtype=)) or int8 (quantize), forward only",
    )


def check_products(arguments: argparse.Namespace) -> None:
    """Options that go with ``--products``.

    Raises:
        Usage: it is given with others.
    """
    if arguments.products is None:
        return
    for mode in ("train", "step"):
        if getattr(arguments, mode, False):
            raise Usage(f"--products is for inference, and does not go with --{mode}")
    if arguments.dtype != "float32":
        raise Usage(
            f"--products takes a model in float32: it does not go with --dtype {arguments.dtype}"
        )


def positive(text: str) -> int:
    """A whole number above 0.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value
