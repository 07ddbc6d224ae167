"""The name, its options, and how reports are had."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitkern
from tests.patching.graph.runs import Handwritten
from vitkern.patching.graph import GraphReport, compile_graph, graph_backend
from vitkern.patching.graph.registration import GROUP, NAME, TARGET

ROOT = Path(vitkern.__file__).parents[1]
X = torch.randn(2, 3, 16, 16)
CODE = """
import sys, torch
{first}
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
assert {unloaded} or "vitkern" not in sys.modules
compiled = torch.compile(model, backend="vitkern", options={{"rest": "aot_eager"}}, fullgraph=True)
x = torch.randn(3, 8)
torch.testing.assert_close(compiled(x), model(x))
assert "vitkern.patching.graph" in sys.modules
print(sorted(name for name in torch._dynamo.list_backends() if name == "vitkern"))
"""


def _run(code: str, *paths: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_name_without_an_import(tmp_path: Path) -> None:
    """As an installed package has it: by the entry point that pyproject.toml declares."""
    metadata = tmp_path / "vitkern-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vitkern\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{NAME} = {TARGET}\n")
    assert _run(CODE.format(first="", unloaded=False), tmp_path, ROOT) == "['vitkern']\n"


def test_the_entry_point_is_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'[project.entry-points.{GROUP}]\n{NAME} = "{TARGET}"\n' in text


def test_the_name_after_imports() -> None:
    """In a source tree, where the compiler was imported before: by ``import vitkern``."""
    code = CODE.format(first="import torch._dynamo\nimport vitkern", unloaded=True)
    assert _run(code, ROOT) == "['vitkern']\n"


def test_import_does_not_import_the_compiler() -> None:
    names = ["torch._dynamo", "torch._inductor"]
    code = f"import sys, vitkern; print([name for name in {names} if name in sys.modules])"
    assert _run(code, ROOT) == "[]\n"


def test_reports_in_a_list_by_a_call_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    model = Handwritten().eval()
    reports: list[GraphReport] = []
    told: list[GraphReport] = []
    torch._dynamo.reset()
    with caplog.at_level(logging.INFO, logger="vitkern.graph"):
        torch.compile(model, backend=graph_backend(report=reports, rest="eager"))(X)
    torch._dynamo.reset()
    torch.compile(model, backend=graph_backend(report=told.append, rest="eager"))(X)
    (report,) = reports
    assert told == reports
    assert str(report) in caplog.text
    assert isinstance(report, GraphReport)
    assert report.rest == "eager"
    assert report.to_dict()["rest"] == "eager"
    everything = [*report.replaced, *report.left]
    assert {"query", "head"} <= {one.module for one in everything}
    for one in everything:
        file, _, line = one.source.rpartition(":")
        assert Path(file).exists()
        assert int(line) > 0
    assert any(Path(one.source.rpartition(":")[0]).name == "runs.py" for one in everything)
    assert sum(report.counts().values()) == len(report.replaced)
    assert sum(report.reasons().values()) == len(report.left)
    assert str(report).endswith(
        f"{len(report.replaced)} ops, {len(report.left)} left; the rest by eager"
    )


def test_graph_breaks_give_several_reports() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x).relu()
            torch._dynamo.graph_break()
            return self.b(x).relu()

    reports: list[GraphReport] = []
    model = Broken()
    torch._dynamo.reset()
    backend = graph_backend(report=reports, rest="eager", backend="eager")
    x = torch.randn(2, 4)
    torch.testing.assert_close(torch.compile(model, backend=backend)(x), model(x))
    assert [[one.op for one in report.replaced] for report in reports] == [["linear"], ["linear"]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rest": "nothing"}, ValueError, "rest must be one of 'inductor', 'aot_eager', 'eager'"),
        ({"backend": "cpus"}, vitkern.UnknownBackend, "did you mean 'cpu'"),
        ({"report": 3}, TypeError, "report must be a list, callable or None, got int"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        graph_backend(**arguments)


def test_bad_options() -> None:
    module, inputs = torch.fx.symbolic_trace(nn.Identity()), [X]
    with pytest.raises(ValueError, match="options max_autotune: for Inductor"):
        compile_graph(module, inputs, options={"rest": "eager", "max_autotune": True})
    with pytest.raises(ValueError, match="mode 'max-autotune': for Inductor"):
        compile_graph(module, inputs, options={"rest": "eager"}, mode="max-autotune")
    with pytest.raises(TypeError, match="options must be a dict or None, got list"):
        compile_graph(module, inputs, options=["rest"])  # type: ignore[arg-type] - wrong on purpose


@pytest.mark.slow
@pytest.mark.usefixtures("inductor")
def test_inductor_compiles_the_rest() -> None:
    model = Handwritten().eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=graph_backend(), fullgraph=True)
    torch.testing.assert_close(compiled(X), model(X), rtol=1e-4, atol=1e-4)
    model(X).sum().backward()
    wanted = [one.grad for one in model.parameters()]
    model.zero_grad()
    compiled(X).sum().backward()
    for one, grad in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(one.grad, grad, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_missing_compiler_is_named() -> None:
    """Nothing falls back by itself: the error says what to do."""
    code = """
import torch
import torch._inductor.config as config
config.cpp.cxx, config.force_disable_caches = ("no-such-compiler",), True
from vitkern.patching.graph import graph_backend
try:
    torch.compile(lambda x: x.sin() * 2, backend=graph_backend())(torch.randn(7))
except Exception as error:
    print(error)
"""
    assert 'options={"rest": "aot_eager"}' in _run(code, ROOT)
