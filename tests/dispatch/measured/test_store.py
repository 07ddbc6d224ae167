"""Where decisions are kept, what they hold for, and what a process knows of them."""

from __future__ import annotations

import errno
import json
import os
import platform
import warnings
from pathlib import Path

import pytest

from tests.dispatch.measured.conftest import Timer
from tests.dispatch.measured.test_measuring import CALL
from tests.dispatch.toy import ToyCall
from vitkern._host import cache_folder
from vitkern.dispatch import Operator, measuring
from vitkern.dispatch.measured import STORE, file, store
from vitkern.dispatch.measured.environment import environment, file_name


@pytest.mark.parametrize(
    "own, xdg, expected",
    [
        ("/own", "/xdg", "/own"),
        (None, "/xdg", "/xdg/vitkern"),
        ("", "/xdg", "/xdg/vitkern"),
        (None, "relative", "/home/me/.cache/vitkern"),
        (None, None, "/home/me/.cache/vitkern"),
    ],
)
def test_the_folder(
    own: str | None, xdg: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("VITKERN_CACHE_DIR", own), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_without_a_home_decisions_live_in_memory(
    toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "cache_folder", lambda: None)
    with measuring():
        toy(CALL)
    assert toy.select(CALL).name == "eager"
    assert STORE.path is None


def _denied(*arguments: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("what", ["name", "folder", "working folder"])
def test_without_a_readable_folder_it_is_told_once_and_decisions_live_in_memory(
    what: str, toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_warned", set())
    monkeypatch.setenv("VITKERN_CACHE_DIR", "x" * 5000)
    if what == "folder":
        monkeypatch.setattr(Path, "glob", _denied)
    elif what == "working folder":
        monkeypatch.setattr(store, "cache_folder", _denied)
    with pytest.warns(UserWarning, match=r"cannot look for decisions: .*not used") as caught:
        assert toy.select(CALL).name == "double"
        STORE.forget()
        assert toy.select(CALL).name == "double"
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the file, where that was not looked for
        with measuring():
            toy(CALL)
    assert toy.select(CALL).name == "eager"


def test_choices_against_the_fixed_order_are_counted(toy: Operator[ToyCall], timer: Timer) -> None:
    assert STORE.overruled() == 0
    with measuring():
        toy(CALL)
    assert STORE.overruled() == 1
    STORE.forget()
    assert STORE.overruled() == 1  # from disk
    timer.seconds["double"] = 0.5
    STORE.clear()
    with measuring():
        toy(CALL)
    assert STORE.overruled() == 0


def test_the_environment_names_no_host_and_has_a_file_name_of_its_own() -> None:
    found = environment()
    text = json.dumps(found)
    assert platform.node() not in text
    assert found["processor"] and found["torch_build"]
    names = {file_name({**found, name: "another"}) for name in found} | {file_name(found)}
    assert len(names) == len(found) + 1
    assert file_name(json.loads(text)) == file_name(found)


def test_decisions_of_another_environment_are_not_used(
    toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    with measuring():
        toy(CALL)
    here = environment()
    STORE.forget()
    monkeypatch.setattr(store, "environment", lambda: {**here, "torch": "9.9"})
    assert toy.select(CALL).name == "double"
    with measuring():
        toy(CALL)
    assert len(timer.timed) == 2
    assert len(list(folder.glob("decisions-*.json"))) == 2


def test_a_process_without_decisions_does_not_look_at_the_library(
    toy: Operator[ToyCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    def environment() -> None:
        raise AssertionError("hashed a library for nothing")

    monkeypatch.setattr(store, "environment", environment)
    assert toy.select(CALL).name == "double"


def test_the_disk_is_read_once(toy: Operator[ToyCall], timer: Timer, folder: Path) -> None:
    with measuring():
        toy(CALL)
    STORE.forget()
    assert toy.select(CALL).name == "eager"
    for path in folder.iterdir():
        path.unlink()
    assert toy.select(CALL).name == "eager"


def test_a_block_sees_what_others_have_added(
    toy: Operator[ToyCall], timer: Timer, folder: Path
) -> None:
    with measuring():
        toy(CALL)
    (path,) = folder.glob("decisions-*.json")
    content = path.read_bytes()
    path.unlink()
    STORE.forget()
    assert toy.select(CALL).name == "double"
    path.write_bytes(content)
    with measuring() as measurement:
        toy(CALL)
    assert [use.cached for use in measurement.uses] == [True]
    assert len(timer.timed) == 1


def test_what_could_not_be_written_is_written_later(
    toy: Operator[ToyCall], timer: Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match="cannot write"), measuring():
            assert toy(CALL).eq(1).all()  # the result is not affected
    assert toy.select(CALL).name == "eager"
    with measuring():
        pass
    STORE.forget()
    assert toy.select(CALL).name == "eager"


def test_clear_forgets_on_disk_too(toy: Operator[ToyCall], timer: Timer, folder: Path) -> None:
    with measuring():
        toy(CALL)
    other = folder / "other.json"
    other.write_text("")
    assert STORE.clear() == 1
    assert toy.select(CALL).name == "double"
    assert other.exists()
    STORE.forget()
    assert toy.select(CALL).name == "double"
    assert STORE.clear() == 0
