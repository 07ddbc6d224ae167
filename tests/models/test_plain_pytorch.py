"""The models stay plain: nothing of the kernels reaches them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vitkern.models

SOURCES = sorted(Path(vitkern.models.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_imports_only_torch_and_models(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    for name in imported:
        assert not name.startswith(("timm", "torchvision"))
        if name.startswith("vitkern"):
            assert name.startswith("vitkern.models")
