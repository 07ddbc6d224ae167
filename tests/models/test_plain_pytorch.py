"""The models stay plain: nothing of the kernels reaches them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vitkern.models

ROOT = Path(vitkern.models.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
TIMM = {"detr/backbone.py"}
"""Where timm may be imported, when it is first needed."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_only_torch_and_models(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    optional = ("torchvision", "transformers", "scipy", "huggingface_hub", "timm")
    for node in tree.body:
        assert not [name for name in imported_by(node) if name.startswith(optional)]
    for node in ast.walk(tree):
        for name in imported_by(node):
            assert not name.startswith(("torchvision", "transformers"))
            if path.relative_to(ROOT).as_posix() not in TIMM:
                assert not name.startswith("timm")
            if name.startswith("vitkern"):
                assert name.startswith("vitkern.models")


def imported_by(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []
