"""The documentation: snippets run, figures are those of the records, names are complete."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from tests import needs
from tests.docs.pages import PAGES, ROOT, SHELL, blocks

GUIDES = "docs/guides/"
"""Followed by test_guides.py."""

PACKAGES = (
    "vitkern", "vitkern.ops", "vitkern.models", "vitkern.quantization", "vitkern.training",
    "vitkern.data", "vitkern.dispatch", "vitkern.patching", "vitkern.patching.graph",
    "vitkern.testing",
)  # fmt: skip
SUBMODULES = ("vitkern.bench",)
"""Whose public names are those of their modules, documented as wholes."""


def public(package: str) -> list[str]:
    """The names in ``__all__``, without an import: some need extras."""
    path = ROOT.joinpath(*package.split(".")) / "__init__.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"{package} has no __all__")


def documented() -> dict[str, str]:
    """What the pages of the reference name, and on which page."""
    return {
        name: page.name
        for page in sorted((ROOT / "docs" / "api").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    }


def found(name: str) -> object:
    """What a module has of that name, or the module; an error if there is no such thing."""
    package, _, short = name.rpartition(".")
    inside = getattr(importlib.import_module(package), short, None)
    return importlib.import_module(name) if inside is None else inside


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    if package in ("vitkern.training", "vitkern.data"):
        pytest.importorskip("accelerate")
    # Several packages have some names of one thing: one entry is enough.
    there = {id(found(name)) for name in documented()}
    missing = [name for name in public(package) if id(found(f"{package}.{name}")) not in there]
    assert not missing or missing == ["ops"], f"not in docs/api: {missing}"


@pytest.mark.parametrize("package", SUBMODULES)
def test_every_module_of_a_package_of_modules_is_in_the_reference(package: str) -> None:
    text = importlib.import_module(package).__doc__ or ""
    modules = {name.lstrip("~") for name in re.findall(r":mod:`([^`]+)`", text)}
    assert len(modules) >= 5
    assert modules <= set(documented())


def test_the_reference_names_nothing_that_is_not_there() -> None:
    pytest.importorskip("accelerate")
    assert len(documented()) > 100
    for name in documented():
        found(name)


def test_public_functions_and_classes_say_what_they_are() -> None:
    for package in ("vitkern", "vitkern.ops", "vitkern.models", "vitkern.dispatch"):
        module = importlib.import_module(package)
        for name in public(package):
            one = getattr(module, name)
            if callable(one):
                assert (one.__doc__ or "").strip(), f"{package}.{name} has no docstring"


SNIPPETS = [
    page
    for page in PAGES
    if not page.startswith(GUIDES)
    and any(block.language == "python" and not block.title for block in blocks(page))
]


def test_pages_with_snippets_are_found() -> None:
    assert {"README.md", "docs/dispatch.md", "docs/patching.md"} <= set(SNIPPETS)


@pytest.mark.slow
@needs.library
@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page's snippets one after the other, in one namespace, as a reader would type them."""
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(page):
        if block.language == "python" and not block.title:
            # On the lines that they have in the page, for tracebacks.
            code = compile("\n" * block.line + block.code, str(ROOT / page), "exec")
            exec(code, namespace)


def test_every_block_has_a_known_language() -> None:
    for page in PAGES:
        for block in blocks(page):
            if page.startswith(GUIDES):
                assert block.language in ("", "python", "diff", "cpp", "console"), (page, block)
            else:
                assert block.language in ("", "python", "yaml", *SHELL), (page, block.line)


def test_tables_are_those_of_the_results() -> None:
    path = ROOT / "docs" / "tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page in tables.PAGES:
        text = (ROOT / page).read_text()
        assert "<!-- table: " in text
        assert tables.written(text) == text, f"{page}: run python docs/tables.py"
    changed = text.replace("1.14×", "2.14×")
    assert changed != text
    assert tables.written(changed) == text
