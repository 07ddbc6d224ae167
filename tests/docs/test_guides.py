"""The guides, followed to the letter in a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, follow
from vitkern._library import load

LONG = os.environ.get("VITKERN_TEST_GUIDES") == "1"
OP, BACKEND, ADAPTER = (
    f"docs/guides/{name}.md" for name in ("add-an-op", "add-a-backend", "add-an-adapter")
)


def followed(page: str) -> list[Block]:
    """The blocks that are instructions: those of files, and of what is run."""
    return [block for block in blocks(page) if not block.title.endswith("(what there is)")]


def checkout(folder: Path) -> Path:
    """A copy of the checkout, as a newcomer has it after ``make venv``."""
    ignored = shutil.ignore_patterns("__pycache__", "*_cache", ".hypothesis")
    for name in ("vitkern", "tests", "csrc", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(command: list[str] | str, folder: Path) -> None:
    """Run it in the copy, with this Python as ``python``; it has to succeed."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    dropped = {"TRITON_INTERPRET", "PYTEST_ADDOPTS", "VITKERN_TEST_GUIDES"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    environment = {
        **kept,
        "PATH": os.pathsep.join(folders),
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
        shell=isinstance(command, str), timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    if isinstance(command, str) and "pytest" in command:
        assert " passed" in result.stdout, f"{command} tested nothing:\n{result.stdout[-1000:]}"


def walk(page: str, folder: Path, *, long: bool) -> int:
    """Do what the blocks say, one after the other; returns how many commands were run.

    Without ``long``, what comes with a block of long commands is not done: the files of such a
    part, which need what these build.
    """
    steps, count = followed(page), 0
    if not long:
        last = next((i for i, step in enumerate(steps) if step.long), len(steps))
        while last < len(steps) and last > 0 and steps[last - 1].title:
            last -= 1
        steps = steps[:last]
    for step in steps:
        if step.title:
            follow(step, folder)
        elif step.language == "python":
            run([sys.executable, "-c", step.code], folder)
            count += 1
        elif step.language == "console":
            for command in step.commands():
                run(command, folder)
                count += 1
    return count


@pytest.mark.slow
def test_an_op_then_its_triton_backend(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    assert walk(OP, folder, long=LONG) == 3
    pytest.importorskip("triton", reason="the op was added; its Triton backend needs Triton")
    if LONG and not load().available:
        pytest.skip("needs the library's compiler")
    assert walk(BACKEND, folder, long=LONG) == (6 if LONG else 4)


@pytest.mark.slow
def test_an_adapter(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    assert walk(ADAPTER, checkout(tmp_path), long=LONG) >= 2


def test_a_change_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("a = 1\nb = 2\n")
    good = Block("diff", "file.py", False, " a = 1\n+c = 3\n", 1)
    follow(good, tmp_path)
    assert (tmp_path / "file.py").read_text() == "a = 1\nc = 3\nb = 2\n"
    for code in (" d = 4\n+c = 3\n", "+c = 3\n"):
        with pytest.raises(AssertionError, match=r"file\.py has"):
            follow(Block("diff", "file.py", False, code, 1), tmp_path)


def test_a_command_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit 3"):
        run("exit 3", tmp_path)
    with pytest.raises(AssertionError, match="tested nothing"):
        run("echo pytest: no tests ran", tmp_path)
