"""``vitkern coverage``: what it says of right, wrong and broken models, and what it writes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm.models
import torch
from torch import nn

import vitkern
from tests import needs
from vitkern._library import load
from vitkern.bench import coverage, coverage_models, coverage_report
from vitkern.bench.coverage import Coverage, Subject, count_products, measure, shorten
from vitkern.bench.timing import Plan
from vitkern.cli import main

SIZE = (3, 32, 32)


def _vit(depth: int = 4) -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=depth, num_heads=3, num_classes=10
    )


def _broken() -> nn.Module:
    raise RuntimeError("no such\nmodel")


class _Nothing(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.argmax(1)


VIT = Subject("test/vit", _vit, SIZE)


def test_a_vit_is_right_and_short() -> None:
    found = measure(VIT, timing=Plan(min_rounds=2, min_seconds=0.0, max_seconds=1.0))
    assert found.outcome == "right"
    assert [check.name for check in found.checks] == [
        "output", "input's gradient", "parameters' gradients",
    ]  # fmt: skip
    assert found.blocks_left_out == 2
    assert found.parameters == sum(parameter.numel() for parameter in _vit().parameters())
    assert found.speedup is not None
    assert found.products is not None
    tokens, width = 17, 48
    block = tokens * 12 * width * width + 2 * tokens * tokens * width
    embed, head = 16 * 3 * 64 * width, width * 10
    assert found.products.total == 2 * 2 * (embed + 4 * block + head)


@needs.library
def test_what_runs_on_kernels_is_counted() -> None:
    model = _vit().eval()
    images = torch.randn(2, *SIZE)
    assert count_products(lambda: model(images)).ours == 0
    before = count_products(lambda: model(images))
    assert before.convolution == 0 < before.total  # that of patches is a product
    report = vitkern.patch(model)
    after = count_products(lambda: model(images))
    assert report.patched
    assert after.total == before.total
    assert after.convolution == 0
    assert 0.99 < after.share <= 1.0
    assert 0.85 < coverage.module_share(model) < 1.0  # the last norm and the head are not


@pytest.mark.parametrize(
    ("convolution", "counted"),
    [
        (nn.Conv2d(8, 16, 1), False),
        (nn.Conv2d(8, 16, 1, stride=2), False),
        (nn.Conv2d(8, 16, 2, stride=2), False),
        (nn.Conv2d(8, 16, 2, stride=2, padding=1), True),
        (nn.Conv2d(8, 16, 3, stride=2), True),
        (nn.Conv2d(8, 16, 1, groups=2), True),
    ],
)
def test_convolutions_that_are_products(convolution: nn.Conv2d, counted: bool) -> None:
    found = count_products(lambda: convolution(torch.randn(1, 8, 6, 6)))
    assert found.convolution == (found.total if counted else 0)
    assert found.total > 0


def test_pytorchs_fast_paths_are_counted() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 40, batch_first=True).eval()
    x = torch.randn(3, 7, 16)
    fast = count_products(lambda: layer(x))
    layer.train()
    layer.dropout.p = layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
    assert fast.total == count_products(lambda: layer(x)).total > 0


def test_captured_graphs_are_right_and_counted() -> None:
    found = measure(VIT, graph="aot_eager")
    assert found.outcome == "right"
    assert found.error is None
    assert found.products is not None
    assert (
        found.products.total == count_products(lambda: _vit().eval()(torch.randn(2, *SIZE))).total
    )
    again = Coverage.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    if load().available:
        assert found.patched == {"linear: cpu": 4, "mlp: cpu": 4, "patch_embed: cpu": 1}
        assert any("fewer than" in reason for reason in found.skipped)
        assert 0.5 < found.products.share < 1.0  # small products are PyTorch's


@pytest.mark.parametrize("spoiled", ["output", "gradient"])
def test_a_wrong_model_is_wrong(spoiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def patch(model: Any, **options: Any) -> vitkern.PatchReport:
        report = vitkern.patch(model, **options)
        if spoiled == "output":
            model.head.register_forward_hook(lambda module, args, out: out * 1.001)
        else:
            model.head.weight.register_hook(lambda grad: grad * 1.001)
        return report

    monkeypatch.setattr(coverage, "patch", patch)
    found = measure(VIT)
    assert found.outcome == "wrong"
    assert found.inputs == 3
    failed = {check.name for check in found.checks if not check.passed}
    assert ("output" in failed) == (spoiled == "output")
    assert "parameters' gradients" in failed


def test_a_broken_model_is_a_row_with_its_error() -> None:
    found = measure(Subject("test/broken", _broken, SIZE))
    assert (found.outcome, found.error) == ("failed", "RuntimeError: no such model")
    nothing = measure(Subject("test/nothing", _Nothing, SIZE))
    assert nothing.outcome == "failed"
    assert "no floating-point tensor" in str(nothing.error)


def test_blocks_that_differ_or_are_counted_stay() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[4](x)

    x = torch.randn(2, 4)
    model = Counted()
    short, left_out = shorten(model, x)
    assert left_out == 0
    # nn.Module gives attributes as Tensor | Module, of which mypy knows no length.
    assert len(short.blocks) == 5  # type: ignore[arg-type]
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 4))
    assert shorten(layers, x)[1] == 0
    assert shorten(nn.Sequential(*layers[:2], nn.Linear(4, 4)), x)[1] == 1
    assert len(layers) == 4


def test_results_survive_json() -> None:
    found = measure(VIT)
    broken = measure(Subject("test/broken", _broken, SIZE))
    for one in (found, broken):
        again = Coverage.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again == one


def test_names_are_unique_and_patterns_choose() -> None:
    names = [one.name for one in coverage_models.subjects()]
    assert len(set(names)) == len(names) > 60
    assert [one.name for one in coverage_models.choose(["hf/det*"])] == ["hf/detr"]
    assert {one.library for one in coverage_models.choose(["swin_t*"])} >= {"timm", "vitkern"}
    with pytest.raises(ValueError, match="no model matches 'nothing'"):
        coverage_models.choose(["nothing"])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two tiny models instead of all; the names of those that were built."""
    built: list[str] = []

    def build(name: str, depth: int) -> nn.Module:
        built.append(name)
        return _broken() if name == "broken" else _vit(depth)

    chosen = [Subject(f"test/{name}", partial(build, name, 2), SIZE) for name in ("a", "broken")]
    monkeypatch.setattr(coverage_models, "subjects", lambda: chosen)
    return built


def test_command_writes_resumes_and_reports(
    few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = tmp_path / "out" / "coverage.json", tmp_path / "coverage.md"
    assert main(["coverage", "a", "--json", str(path)]) == 0
    assert main(["coverage", "--json", str(path), "--table", str(page), "--resume"]) == 1
    assert few == ["a", "broken"]  # the first was not measured again
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows] == ["test/a", "test/broken"]
    assert sorted(one.name for one in path.parent.iterdir()) == ["coverage.json"]
    text = page.read_text()
    assert "| test/a | right |" in text
    assert "test/broken: RuntimeError: no such model" in text
    assert "1 models ran, 0 wrong; 1 failed (test/broken)" in text
    assert "test/broken" in capsys.readouterr().out
    assert coverage_report.load(path, {"another": "machine"}) == []
    assert main(["coverage", "--list"]) == 0
    assert capsys.readouterr().out == "test/a\ntest/broken\n"


def test_command_looks_at_graphs(
    few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = tmp_path / "coverage.json", tmp_path / "graph.md"
    command = ["coverage", "a", "--graph", "eager", "--json", str(path), "--table", str(page)]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0
    assert few == ["a"]
    text = page.read_text()
    assert text.startswith("# Graph coverage")
    assert "| model | outcome | GFLOP | FLOPs | of products | ops | left | error |" in text
    assert "| test/a | right |" in text
    # What was found out about patch is something else.
    assert main(["coverage", "a", "--json", str(path), "--resume"]) == 0
    assert few == ["a", "a"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--graph", "eager", "--time"], "--time: not beside --graph"),
        (["nothing*"], "no model matches 'nothing*'"),
        (["--resume"], "--resume: needs --json FILE"),
        (["--resume", "--json", "-"], "--resume: needs --json FILE"),
    ],
)
def test_command_refuses(
    few: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["coverage", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not few
