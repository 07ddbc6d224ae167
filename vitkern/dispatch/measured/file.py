"""A file of decisions that several processes may read and write, and that is never half written.

Writers take turns (a lock beside the file, where the system has such locks), merge what they have
with what is there, write another file and rename it. Whatever is wrong with the folder, the file or
the disk is said once, and costs nothing but the memory of it.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitkern.dispatch.measured.key import Key, from_text, to_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_SECONDS = 10.0
"""How long to wait for another process, which holds the lock for milliseconds."""

_warned: set[Path | None] = set()
_warned_lock = threading.Lock()


@dataclass(frozen=True)
class Decision:
    """What was measured about one kind of call.

    Attributes:
        winner: the backend to take.
        static: the backend that comes first in the fixed order.
        seconds: median time of each backend that takes such calls.
    """

    winner: str
    static: str
    seconds: dict[str, float]

    @staticmethod
    def from_dict(values: Any) -> Decision:
        """What ``asdict`` gave.

        Raises:
            ValueError, TypeError, AttributeError: it did not.
        """
        decision = Decision(**values)
        names = {decision.winner, decision.static}
        if not names <= decision.seconds.keys() or not all(
            isinstance(name, str) and isinstance(value, float)
            for name, value in decision.seconds.items()
        ):
            raise ValueError(f"not a decision: {values!r}"[:200])
        return decision


def warn(path: Path | None, what: str) -> None:
    """Say what is wrong with a file or a folder (None: with finding one), once per process."""
    with _warned_lock:
        if path in _warned:
            return
        _warned.add(path)
    warnings.warn(
        f"vitkern: {what}; measured choices of backends are not kept or not used",
        UserWarning,
        stacklevel=2,
    )


class DecisionFile:
    """The decisions of one environment.

    Args:
        path: the file, which need not exist.
        environment: what the decisions hold for; a file of another one is not used.
    """

    def __init__(self, path: Path, environment: Mapping[str, Any]) -> None:
        self.path = path
        self.environment = dict(environment)

    def read(self) -> dict[Key, Decision]:
        """What is there; nothing, and a warning, where it cannot be read."""
        try:
            return self._parse()
        except FileNotFoundError:
            return {}
        except OSError as error:
            warn(self.path, f"cannot read {self.path}: {error.strerror}")
        except ValueError:
            try:
                # Again, in turn: another process may have mended it in the meantime.
                with self._turn():
                    return self._parse_or_keep_aside()
            except OSError as error:
                warn(self.path, f"{self.path} is damaged, and stays: {error.strerror}")
        return {}

    def update(self, new: Mapping[Key, Decision]) -> bool:
        """Add decisions to the file; False, and a warning, where that fails."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._turn():
                self._write({**self._parse_or_keep_aside(), **new})
            return True
        except OSError as error:
            warn(self.path, f"cannot write {self.path}: {error.strerror or error}")
            return False

    def _parse(self) -> dict[Key, Decision]:
        """
        Raises:
            OSError: it cannot be read.
            ValueError: it is not such a file.
        """
        data = self.path.read_bytes()
        try:
            content = json.loads(data)
            if content["environment"] != self.environment:
                raise ValueError("of another environment")
            return {
                from_text(text): Decision.from_dict(values)
                for text, values in content["decisions"].items()
            }
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("not a file of decisions") from error

    def _parse_or_keep_aside(self) -> dict[Key, Decision]:
        """What is there. A file that cannot be understood gets another name: it may be of use."""
        try:
            return self._parse()
        except FileNotFoundError:
            return {}
        except ValueError:
            number = itertools.count(1)
            while (aside := self.path.with_suffix(f".damaged-{next(number)}")).exists():
                pass  # nobody else makes one: it is our turn
            os.replace(self.path, aside)
            warn(self.path, f"{self.path} is damaged or not vitkern's; it is kept as {aside}")
            return {}

    def _write(self, decisions: Mapping[Key, Decision]) -> None:
        texts = {to_text(key): asdict(decision) for key, decision in decisions.items()}
        texts.pop(None, None)
        content = {"environment": self.environment, "decisions": texts}
        prefix = f".{self.path.name}."
        for left in self._folder.glob(f"{prefix}*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=prefix, dir=self._folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @property
    def _folder(self) -> Path:
        return self.path.parent

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """No other process, and no other thread, is in such a block for this file."""
        with open(self.path.with_suffix(".lock"), "ab") as file:
            deadline = time.monotonic() + LOCK_SECONDS
            while fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"locked for {LOCK_SECONDS:g} seconds") from None
                    time.sleep(0.01)
                except OSError:  # a file system without locks: renaming is atomic all the same
                    break
            yield
