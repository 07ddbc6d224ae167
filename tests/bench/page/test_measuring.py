"""Rows are kept as they come; a run goes on where it stopped, and keeps what was before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from vitkern.bench import ops
from vitkern.bench.child import ChildFailed
from vitkern.bench.machine import Machine, describe
from vitkern.bench.models import TARGETS
from vitkern.bench.page import measuring
from vitkern.bench.page.lines import load
from vitkern.bench.page.measuring import Store, Task, tasks
from vitkern.bench.peers import ROWS
from vitkern.bench.report import read_json


@pytest.fixture
def here() -> Machine:
    return describe()


def task(name: str, calls: list[str], error: BaseException | None = None) -> Task:
    def run(progress: Any) -> dict[str, Any]:
        calls.append(name)
        if error is not None:
            raise error
        return {"name": name, "ok": True, "value": len(calls)}

    return Task(name, name, run, lambda why: {"name": name, "ok": False, "reason": why})


def measured(store: Store, *wanted: Task) -> list[tuple[str, int, bool]]:
    return [
        (task.name, number, run(lambda step: None))
        for task, number, run in measuring.run(store, wanted)
    ]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, here: Machine) -> None:
    calls: list[str] = []
    one, two = task("one", calls), task("two", calls)
    with pytest.raises(KeyboardInterrupt):
        measured(Store(tmp_path, "ops", here), one, task("two", calls, KeyboardInterrupt()))
    path = tmp_path / here.slug / "ops.json"
    document = read_json(path)
    assert [row["name"] for row in document["rows"]] == ["one"]
    assert (document["complete"], document["quick"]) == (False, False)
    calls.clear()
    assert measured(Store(tmp_path, "ops", here), one, two) == [("two", 2, True)]
    assert calls == ["two"]
    document = read_json(path)
    assert [row["name"] for row in document["rows"]] == ["one", "two"]
    assert document["complete"] is True
    assert [one.name for one in path.parent.iterdir()] == ["ops.json"]


def test_what_is_finished_is_kept_beside_the_new(tmp_path: Path, here: Machine) -> None:
    calls: list[str] = []
    for _ in range(3):
        assert len(measured(Store(tmp_path, "ops", here), task("one", calls))) == 1
    date = read_json(tmp_path / here.slug / "ops.json")["date"]
    names = sorted(path.name for path in (tmp_path / here.slug).iterdir())
    assert names == [f"ops-{date}-2.json", f"ops-{date}.json", "ops.json"]
    values = [read_json(tmp_path / here.slug / name)["rows"][0]["value"] for name in names]
    assert values == [2, 1, 3]


@pytest.mark.parametrize("change", ["software", "fresh"])
def test_what_was_interrupted_with_other_software_begins_anew(
    tmp_path: Path, here: Machine, change: str
) -> None:
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        measured(
            Store(tmp_path, "ops", here), task("a", calls), task("b", calls, KeyboardInterrupt())
        )
    other = dataclasses.replace(here, torch="9.9") if change == "software" else here
    store = Store(tmp_path, "ops", other, fresh=change == "fresh")
    assert store.rows == {}
    assert len(list((tmp_path / here.slug).iterdir())) == 1  # the old one, under another name


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1, "kind": "ops", "date": "d"}'])
def test_a_damaged_file_is_kept_and_not_believed(tmp_path: Path, here: Machine, text: str) -> None:
    path = tmp_path / here.slug / "ops.json"
    path.parent.mkdir()
    path.write_text(text)
    assert measured(Store(tmp_path, "ops", here), task("one", [])) == [("one", 1, True)]
    (old,) = [one for one in path.parent.iterdir() if one != path]
    assert old.read_text() == text


def test_a_row_that_fails_has_the_reason_and_the_others_are_measured(
    tmp_path: Path, here: Machine
) -> None:
    calls: list[str] = []
    store = Store(tmp_path, "ops", here)
    failing = task("mlp-cpu-a-float32", calls, ChildFailed("killed by signal 9. And more"))
    assert measured(store, failing, task("mlp-cpu-b-float32", calls)) == [
        ("mlp-cpu-a-float32", 1, False), ("mlp-cpu-b-float32", 2, True),
    ]  # fmt: skip
    first, second = load(tmp_path).lines
    assert first.reason == "fails: killed by signal 9"
    assert second.reason is None


def test_rough_figures_have_a_file_of_their_own(tmp_path: Path, here: Machine) -> None:
    store = Store(tmp_path, "ops", here, quick=True)
    store.add("one", {"name": "one", "ok": True})
    assert store.path.name == "ops-quick.json"
    assert read_json(store.path)["quick"] is True


@needs.library
def test_what_is_measured_of_ops() -> None:
    names = [one.name for one in tasks("ops")]
    assert names == [row.name for dtype in ("float32", "bfloat16") for row in ops.rows(dtype)]
    quick = [one.name for one in tasks("ops", quick=True)]
    assert set(quick) < set(names)
    assert {name.split("-")[0] for name in quick} == {name.split("-")[0] for name in names}


def test_what_is_measured_of_models() -> None:
    assert [one.name for one in tasks("models")] == [row.slug for row in TARGETS]
    assert [one.name for one in tasks("peers")] == [row.label for row in ROWS]
    assert len(tasks("models", quick=True)) == 2
    with pytest.raises(ValueError, match="got 'ponies'"):
        tasks("ponies")


@pytest.mark.parametrize("kind", [pytest.param("ops", marks=needs.library), "models", "peers"])
def test_a_row_that_failed_can_be_read(tmp_path: Path, here: Machine, kind: str) -> None:
    store = Store(tmp_path, kind, here)
    for one in tasks(kind, quick=True):
        store.add(one.name, one.failed("fails: why"))
    stored = load(tmp_path)
    assert stored.left_out == []
    assert {line.reason for line in stored.lines} == {"fails: why"}
