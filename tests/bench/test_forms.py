"""The patched model in each form of products, and where there is no kernel for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import needs
from vitkern.bench import forms
from vitkern.bench.forms import FormUnavailable, prepare
from vitkern.bench.models import PRODUCTS, Row, build
from vitkern.ops.weights import Bfloat16Weight, Int8Weight
from vitkern.patching.forms import form_of

ROW = Row("vit_tiny_patch16_224", 1)


@needs.library
@pytest.mark.parametrize(
    "form, kind", [(None, type(None)), ("bfloat16", Bfloat16Weight), ("int8", Int8Weight)]
)
def test_layers_of_blocks_have_the_form(form: str | None, kind: type) -> None:
    model, images = build(ROW)
    report = prepare(model, images, form)
    assert report.patched
    found = {
        type(form_of(module))
        for name, module in model.named_modules()
        if name.startswith("blocks.") and isinstance(module, torch.nn.Linear)
    }
    assert found == {kind}


def test_int8_on_eager_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    report = SimpleNamespace(backend="eager", note="no kernel takes int8 here")
    monkeypatch.setattr(forms, "quantize", lambda *arguments: report)
    model, images = build(ROW)
    with pytest.raises(FormUnavailable, match="int8: no kernel takes int8 here"):
        prepare(model, images, "int8")


def test_rows_with_forms() -> None:
    row = Row("m", 2, form="int8")
    assert row.forms == ("float32", "int8")
    assert Row("m", 2, dtype="bfloat16").forms == ("bfloat16", "bfloat16")
    assert Row("m", 2).forms == ("float32", "float32")
    assert Row.from_dict(row.to_dict()) == row
    assert "form" not in Row("m", 2).to_dict()
    assert row.label == "m, batch 2, products in int8"
    assert len({Row("m", 2, form=form).slug for form in (None, *PRODUCTS)}) == 3


@pytest.mark.parametrize(
    "changes", [{"form": "int4"}, {"form": "int8", "mode": "train"},
                {"form": "int8", "dtype": "bfloat16"}],
)  # fmt: skip
def test_forms_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"form (must be|is for)"):
        Row("m", 1, **changes)
