"""Every command in the README and in the other pages: run, or checked in a short form.

The short forms: ``make`` is a dry run; ``vitkern`` has its arguments parsed by the command itself,
and its files looked for; ``pytest`` collects; ``pip install`` has its requirements parsed, and its
extras looked for. What takes seconds is run. A command of another kind fails, until it has a form
here: nothing is skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, SHELL, blocks
from vitkern import cli

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

RUN = ("vitkern info", "vitkern patch-report vit_tiny_patch16_224", "make")
"""What takes seconds."""

STANDS_FOR = ("RECIPE", "MODEL", "RUN", "FOLDER", "photos/", "photo.jpg", "runs/")
"""What readers replace, and what only exists after a run."""


def commands() -> Iterator[tuple[str, str]]:
    """Page and command, of the blocks of shells; guides have a test of their own."""
    for page in PAGES:
        if page.startswith("docs/guides/"):
            continue
        for block in blocks(page):
            if block.language in SHELL or (not block.language and "vitkern " in block.code):
                yield from ((page, command) for command in block.commands())


ALL = sorted({command: page for page, command in commands()}.items())


def run(command: list[str], **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout


def check_make(words: list[str], runs: bool) -> None:
    if not shutil.which("make"):
        pytest.skip("no make")
    listed = run(["make", "help"])
    for target in words:
        if "=" not in target:
            assert f"  make {target} " in listed, f"make help has no {target}"
    if not runs:
        run(["make", "--dry-run", *words])


def check_vitkern(words: list[str], runs: bool) -> None:
    """Arguments that the command takes, and files that are there; run in this process."""
    arguments = cli._parser().parse_args(words)  # exits with a message where they are wrong
    assert callable(arguments.run)
    for word in words[1:]:
        if "/" in word and "." in word and not word.startswith(("hf/", *STANDS_FOR)):
            assert (ROOT / word).exists(), f"{word} is not there"
    if runs:
        pytest.importorskip("timm")
        with redirect_stdout(StringIO()) as printed:
            assert cli.main(words) == 0
        assert printed.getvalue().strip()


def check_pip(words: list[str]) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    assert words[0] == "install"
    for word in words[1:]:
        if word.startswith("-"):
            assert word in ("--no-build-isolation",), f"an option without a form here: {word}"
        elif word.startswith("."):
            extras = re.findall(r"\w+", word)
            if tomllib is not None:
                project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
                assert set(extras) <= set(project["optional-dependencies"]), word
        else:
            requirements.Requirement(word)


def check_pytest(words: list[str], variables: dict[str, str]) -> None:
    pytest.importorskip("hypothesis")
    pytest.importorskip("pytest_benchmark")
    words = [word for word in words if word != "--benchmark-only"]  # which collects nothing
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *words]
    assert re.search(r"::test_|: \d+", run(command, **variables)), "collects no test"


def check_tool(command: str, words: list[str]) -> None:
    """Commands of others: that they are put together rightly, and what they are about is there."""
    if words[:2] == ["pre-commit", "install"]:
        assert yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    elif words[:3] == ["sudo", "apt-get", "install"]:
        assert all(re.fullmatch(r"-y|[a-z][a-z0-9.+-]+", word) for word in words[3:])
        assert "python3-venv" in words  # which the Makefile asks for
    elif words[0] == "torchrun":
        assert words[words.index("-m") + 1] == "vitkern.cli"
        check_vitkern(words[words.index("-m") + 2 :], False)
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    else:
        raise AssertionError(f"no form for {command!r}: add one here")


@pytest.mark.parametrize("command, page", ALL, ids=[command for command, _ in ALL])
def test_command(command: str, page: str) -> None:
    variables: dict[str, str] = {}
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    kind, runs = words[0], command in RUN
    if kind == "make":
        check_make(words[1:], runs)
    elif kind == "vitkern":
        check_vitkern(words[1:], runs)
    elif kind == "pip":
        check_pip(words[1:])
    elif kind == "pytest":
        check_pytest(words[1:], variables)
    else:
        check_tool(command, words)


def test_the_readme_s_commands_are_found() -> None:
    of_readme = {command for page, command in commands() if page == "README.md"}
    assert {"make demo", "make test", *RUN} - {"make"} <= of_readme
    assert len(ALL) > 30


@pytest.mark.parametrize(
    "command",
    ["make demos", "vitkern benchmark", "vitkern bench --batchsize 8", "pip install .[everything]",
     "vitkern train examples/recipes/none.yaml", "curl example.org", "pytest tests/none.py"],
)  # fmt: skip
def test_what_does_not_work_is_found(command: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        test_command(command, "")


def test_every_target_says_what_it_does() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", text, re.M))
    assert len(targets) >= 15
    assert targets == set(re.findall(r"^([a-z-]+):.*## \S", text, re.M))
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert phony is not None and targets == set(phony[1].split())


def test_links_between_files_lead_somewhere() -> None:
    """Of pages that the site does not have, or has from elsewhere: mkdocs checks the others."""
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
        for link in links:
            if not link.startswith("http"):
                assert (ROOT / link).exists(), f"{page}: {link}"


def test_what_make_docs_needs_is_in_the_extra() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^docs = \[.*mkdocs", text, re.M)
    assert Path(ROOT / "mkdocs.yml").is_file()
