"""Errors that end a command with one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Failure(Exception):
    """The command failed; the message is for the user."""

    status = 1


class Usage(Failure):
    """The command was called wrongly."""

    status = 2


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that users make, or can mend, into one line."""
    from vitkern.bench.child import ChildFailed
    from vitkern.bench.forms import FormUnavailable
    from vitkern.bench.models import TimmMissing, UnknownModel
    from vitkern.dispatch import UnknownBackend
    from vitkern.patching.api import CannotPatch
    from vitkern.quantization import CannotQuantize

    try:
        yield
    except BrokenPipeError:  # whoever read the output has enough: `| head`
        raise
    except (UnknownModel, UnknownBackend, FileNotFoundError) as error:
        raise Usage(_one_line(error)) from error
    except (TimmMissing, CannotPatch, CannotQuantize, FormUnavailable) as error:
        raise Failure(_one_line(error)) from error
    except (ChildFailed, OSError, MemoryError) as error:
        raise Failure(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
