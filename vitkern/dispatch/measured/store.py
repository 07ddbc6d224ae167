"""The decisions of this process: read from disk once, at the first automatic choice."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from vitkern._host import cache_folder
from vitkern.dispatch.measured.environment import environment, file_name
from vitkern.dispatch.measured.file import Decision, DecisionFile, warn
from vitkern.dispatch.measured.key import Key, first_shape, is_variant

Overrides = dict[str, dict[Any, dict[Key, str]]]
"""By op and by the shape of the first argument: the backends that differ from the fixed order."""


class Store:
    """Decisions by key, and quick access to the few that matter.

    Attributes:
        overrides: replaced, never changed, so that readers need no lock; None before ``load``.
        variants: what was measured to be the fastest form of a backend's kernel; as ``overrides``.
    """

    def __init__(self) -> None:
        self.overrides: Overrides | None = None
        self.variants: dict[Key, str] = {}
        self._lock = threading.RLock()
        self._file: DecisionFile | None = None
        self._decisions: dict[Key, Decision] = {}
        self._unsaved: dict[Key, Decision] = {}

    @property
    def path(self) -> Path | None:
        """The file; None where there is no folder for it, or before ``load``."""
        return None if self._file is None else self._file.path

    def load(self) -> Overrides:
        """Read what is on disk, unless that was done."""
        with self._lock:
            if self.overrides is None:
                self.overrides = {}  # first: whatever goes wrong, it goes wrong once
                self._open(only_if_any=True)
            return self.overrides

    def overruled(self) -> int:
        """How many kinds of calls take another backend than the fixed order gives."""
        return sum(len(keys) for shapes in self.load().values() for keys in shapes.values())

    def reopen(self) -> None:
        """Read again, for the environment that there is now, and what others have added."""
        with self._lock:
            self._open(only_if_any=False)

    def get(self, key: Key) -> Decision | None:
        """The decision about this kind of call."""
        return self._decisions.get(key)

    def add(self, key: Key, decision: Decision) -> None:
        """Use a decision from now on; ``save`` writes it."""
        with self._lock:
            self._decisions[key] = self._unsaved[key] = decision
            self._index()

    def chosen_anew(self) -> None:
        """There are other backends: whatever was chosen, and kept elsewhere, does not hold."""
        with self._lock:
            self.variants = self.variants.copy()

    def save(self) -> None:
        """Write what is new; what cannot be written is tried again the next time."""
        with self._lock:
            if self._unsaved and self._file is not None and self._file.update(self._unsaved):
                self._unsaved = {}

    def clear(self) -> int:
        """Forget all decisions, of all environments, on disk too; returns how many files went.

        Raises:
            OSError: a file cannot be deleted.
        """
        with self._lock:
            self._decisions, self._unsaved, self.overrides, self.variants = {}, {}, {}, {}
            folder = cache_folder()
            files = list(folder.glob("decisions-*.json")) if folder is not None else []
            for path in files:
                path.unlink(missing_ok=True)
            return len(files)

    def forget(self) -> None:
        """As in a new process: nothing is known, and the next choice reads from disk."""
        with self._lock:
            self._decisions, self._unsaved, self._file, self.overrides = {}, {}, None, None
            self.variants = {}

    def _open(self, *, only_if_any: bool) -> None:
        folder = None
        try:
            folder = cache_folder()
            if folder is None or (only_if_any and not any(folder.glob("decisions-*.json"))):
                return  # without a look at the library: most processes have no decisions
            found = environment()
        except OSError as error:
            warn(folder, f"cannot look for decisions: {error}")
            return
        path = folder / file_name(found)
        if path != self.path:
            self._decisions, self._unsaved = {}, {}
        self._file = DecisionFile(path, found)
        self._decisions = {**self._file.read(), **self._unsaved}
        self._index()

    def _index(self) -> None:
        overrides: Overrides = {}
        variants: dict[Key, str] = {}
        for key, decision in self._decisions.items():
            if is_variant(key):
                variants[key] = decision.winner
            elif decision.winner != decision.static:
                shapes = overrides.setdefault(key[0], {})
                shapes.setdefault(first_shape(key), {})[key] = decision.winner
        self.overrides, self.variants = overrides, variants


STORE = Store()
"""A cache, for the whole process."""
