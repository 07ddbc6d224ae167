"""Files of decisions: several writers, damage, full disks, folders that cannot be written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from vitkern.dispatch.measured import file as module
from vitkern.dispatch.measured.file import Decision, DecisionFile
from vitkern.dispatch.measured.key import Key, to_text

ENVIRONMENT = {"torch": "1", "cores": 2}
DECISION = Decision("eager", "cpu", {"cpu": 2.0, "eager": 1.0})


def key(number: int) -> Key:
    return ("op", "cpu", 1, ((number, 4), torch.float32, True, False, False), None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions-1.json"


def others(path: Path) -> list[str]:
    """What is in the folder beside the file and its lock."""
    return sorted(p.name for p in path.parent.iterdir() if p.suffix not in (".json", ".lock"))


def test_a_missing_file_has_nothing(path: Path) -> None:
    assert DecisionFile(path, ENVIRONMENT).read() == {}
    assert not path.exists()


def test_two_writers_keep_each_others_decisions(path: Path) -> None:
    one, two = DecisionFile(path, ENVIRONMENT), DecisionFile(path, ENVIRONMENT)
    assert one.update({key(1): DECISION})
    assert two.update({key(2): DECISION})
    newer = Decision("cpu", "cpu", {"cpu": 1.0, "eager": 1.5})
    assert one.update({key(1): newer})
    assert two.read() == {key(1): newer, key(2): DECISION}
    assert others(path) == []


_WRITER = """
import sys
from pathlib import Path
from tests.dispatch.measured.test_file import DECISION, ENVIRONMENT, key
from vitkern.dispatch.measured.file import DecisionFile

path, writer = Path(sys.argv[1]), int(sys.argv[2])
for number in range(25):
    assert DecisionFile(path, ENVIRONMENT).update({key(100 * writer + number): DECISION})
"""


def test_several_processes_write_at_once(path: Path) -> None:
    root = Path(__file__).parents[3]
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(number)], cwd=root)
        for number in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    expected = {key(100 * writer + number) for writer in range(3) for number in range(25)}
    assert DecisionFile(path, ENVIRONMENT).read().keys() == expected
    assert others(path) == []


def damaged(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"environment": {"torch": "1", "co',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        [],
        {},
        {"environment": {"torch": "2", "cores": 2}, "decisions": {}},
        {"environment": ENVIRONMENT, "decisions": []},
        {"environment": ENVIRONMENT, "decisions": {"not a key": vars(DECISION)}},
        {"environment": ENVIRONMENT, "decisions": {to_text(key(1)): None}},
        {"environment": ENVIRONMENT, "decisions": {to_text(key(1)): {"winner": "cpu"}}},
        {
            "environment": ENVIRONMENT,
            "decisions": {to_text(key(1)): {**vars(DECISION), "winner": "gpu"}},
        },
        {
            "environment": ENVIRONMENT,
            "decisions": {to_text(key(1)): {**vars(DECISION), "seconds": ["cpu", "eager"]}},
        },
    ],
    ids=range(13),
)
@pytest.mark.parametrize("update", [False, True])
def test_a_damaged_file_is_kept_aside_and_told_once(path: Path, content: Any, update: bool) -> None:
    path.write_bytes(damaged(content))
    decisions = DecisionFile(path, ENVIRONMENT)
    with pytest.warns(UserWarning, match="is damaged or not vitkern's; it is kept as") as caught:
        if update:
            assert decisions.update({key(1): DECISION})
        else:
            assert decisions.read() == {}
    assert len(caught) == 1
    (aside,) = others(path)
    assert (path.parent / aside).read_bytes() == damaged(content)
    path.write_bytes(damaged(content))  # again: another name, and not another word
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DecisionFile(path, ENVIRONMENT).update({key(2): DECISION})
    assert len(others(path)) == 2
    assert decisions.read() == {key(2): DECISION}


def test_a_full_disk_leaves_the_old_file_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions = DecisionFile(path, ENVIRONMENT)
    decisions.update({key(1): DECISION})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match="cannot write .*: No space left on device"):
            assert not decisions.update({key(2): DECISION})
    assert decisions.read() == {key(1): DECISION}
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    decisions = DecisionFile(tmp_path / "file" / "decisions-1.json", ENVIRONMENT)
    with pytest.warns(UserWarning, match="cannot write") as caught:
        assert not decisions.update({key(1): DECISION})
        assert not decisions.update({key(1): DECISION})
    assert len(caught) == 1


def test_a_file_that_cannot_be_read_is_told(path: Path) -> None:
    path.mkdir()
    with pytest.warns(UserWarning, match="cannot read .*: Is a directory"):
        assert DecisionFile(path, ENVIRONMENT).read() == {}


def test_a_lock_that_never_comes_free_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    decisions = DecisionFile(path, ENVIRONMENT)
    decisions.update({key(1): DECISION})
    with open(path.with_suffix(".lock"), "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.warns(UserWarning, match=r"cannot write .*: locked for 0\.05 seconds"):
            assert not decisions.update({key(2): DECISION})
    assert decisions.read() == {key(1): DECISION}
    assert decisions.update({key(2): DECISION})


def test_without_locks_it_works_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert DecisionFile(path, ENVIRONMENT).update({key(1): DECISION})
    monkeypatch.setattr(module, "fcntl", None)
    assert DecisionFile(path, ENVIRONMENT).update({key(2): DECISION})
    assert len(DecisionFile(path, ENVIRONMENT).read()) == 2


def test_what_a_killed_process_left_goes(path: Path) -> None:
    left = path.parent / f".{path.name}.abc123"
    left.write_text("half")
    DecisionFile(path, ENVIRONMENT).update({key(1): DECISION})
    assert not left.exists()


def test_keys_without_a_text_are_left_out(path: Path) -> None:
    decisions = DecisionFile(path, ENVIRONMENT)
    assert decisions.update({(*key(1), float("inf")): DECISION, key(2): DECISION})
    assert decisions.read() == {key(2): DECISION}
