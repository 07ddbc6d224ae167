"""Checks of settings. Each names the setting, what it got and what fits."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any


def known(what: str, names: Iterable[str], accepted: Iterable[str]) -> None:
    """All ``names`` are among ``accepted``.

    Raises:
        ValueError: names every unknown one, with near matches.
    """
    accepted = sorted(accepted)
    unknown = [name for name in names if name not in accepted]
    if not unknown:
        return
    lines = []
    for name in unknown:
        close = difflib.get_close_matches(str(name), accepted, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(accepted)}"
        lines.append(f"{what} has no setting {name!r}; {hint}")
    raise ValueError("; ".join(lines))


def integer(name: str, value: Any, minimum: int) -> None:
    """``value`` is an int of at least ``minimum``.

    Raises:
        TypeError: not an int.
        ValueError: below ``minimum``.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def number(
    name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False
) -> None:
    """``low <= value <= high``; with ``above``, ``low < value``.

    Raises:
        TypeError: not a number.
        ValueError: not finite, or outside.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        hint = ""
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
            hint = " (in YAML a number with an exponent needs a point: 1.0e-3)"
        raise TypeError(f"{name} must be a number, got {value!r}{hint}")
    fits = low < value if above else low <= value
    if not math.isfinite(value) or not fits or value > high:
        bound = f"above {low}" if above else f"at least {low}"
        upper = "" if math.isinf(high) else f" and at most {high}"
        raise ValueError(f"{name} must be {bound}{upper}, got {value}")


def flag(name: str, value: Any) -> None:
    """``value`` is True or False.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, got {value!r}")


def choice(name: str, value: Any, accepted: Iterable[str]) -> None:
    """``value`` is one of ``accepted``.

    Raises:
        ValueError: it is not; with near matches.
    """
    accepted = list(accepted)
    if value not in accepted:
        close = difflib.get_close_matches(str(value), accepted, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(repr(one) for one in accepted)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}{hint}")
