"""What the report says, and what is skipped for which reasons."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import timm.models
import torch
from rich.console import Console
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.utils import parametrize, weight_norm
from torch.nn.utils.parametrizations import spectral_norm

import vitkern
from tests import needs
from tests.patching import zoo
from vitkern.patching import CannotPatch, PatchedModule


def printed(report: vitkern.PatchReport) -> str:
    """What rich shows of it."""
    console = Console(width=120, file=io.StringIO())
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_entries_of_a_vit() -> None:
    report = vitkern.patch(zoo.build("vit"), backend="eager")
    assert not report.skipped
    assert report.patched[:5] == (
        PatchedModule("patch_embed", "patch_embed", "eager"),
        PatchedModule("blocks.0", "layer_norm + linear + attention + mlp", "eager"),
        PatchedModule("blocks.0.norm1", "layer_norm", "eager"),
        PatchedModule("blocks.0.attn", "linear + attention", "eager"),
        PatchedModule("blocks.0.norm2", "layer_norm", "eager"),
    )
    assert [entry.name for entry in report.patched[-2:]] == ["norm", "head"]


def test_entries_of_a_swin() -> None:
    report = vitkern.patch(zoo.build("swin"), backend="eager")
    ops = {entry.name: entry.op for entry in report.patched}
    assert ops["layers.0.blocks.1"] == "layer_norm + linear + window_attention + mlp"
    assert ops["layers.1.downsample"] == "layer_norm + linear"
    assert ops["patch_embed"] == "patch_embed + layer_norm"
    assert "layers.0.blocks.1.attn" not in ops


def test_dict_is_json() -> None:
    model = zoo.build("vit")
    model.blocks[0].mlp.act = nn.Tanh()
    report = vitkern.patch(model, backend="eager")
    data = json.loads(json.dumps(report.to_dict()))
    assert data["patched"][0] == {
        "name": "patch_embed", "op": "patch_embed", "backend": "eager", "note": "",
    }  # fmt: skip
    names = {entry["name"] for entry in data["skipped"]}
    assert names == {"blocks.0"}
    assert "Tanh" in data["skipped"][0]["reasons"]["eager"][0]
    notes = {entry["name"]: entry["note"] for entry in data["patched"]}
    assert notes["blocks.0.mlp"].startswith("not fused: act is torch.Tanh")


def test_table_folds_layers_and_lists_reasons_once() -> None:
    model = zoo.build("vit")
    for block in model.blocks:
        block.mlp.act = nn.Tanh()
    report = vitkern.patch(model, backend="eager")
    text = str(report)
    assert "blocks.*.attn (×2)" in text
    assert "skipped [1]" in text
    assert text.count("act is torch.Tanh") == 2  # of the block and of the MLP
    lines = text.splitlines()
    assert re.fullmatch(
        r"11 modules patched, with [0-9.]+ % of the parameters; 2 skipped", lines[-2]
    )
    assert lines[-1].startswith("left as they are: ")
    assert repr(report) == f"<PatchReport: {lines[-2]}>"
    assert "blocks.*.attn" in printed(report)


def test_model_without_known_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    report = vitkern.patch(model)
    assert not report.patched
    assert not report.skipped
    assert report.others == (("torch.Conv2d", 1),)
    assert "nothing to patch" in str(report)
    assert "nothing to patch" in printed(report)
    with pytest.raises(vitkern.CannotPatch, match="nothing to patch"):
        vitkern.patch(model, strict=True)


def test_a_layer_by_itself_is_patched_where_a_backend_is_named_as_is_said() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(3, 2))
    said = "a LayerNorm or Linear by itself is patched where a backend is named"
    assert said in str(vitkern.patch(model))
    (entry,) = vitkern.patch(model, backend="eager").patched
    assert (entry.name, entry.op) == ("2", "linear")


def test_modules_of_unknown_kinds_are_counted() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(30))

    model = nn.Sequential(nn.Linear(6, 10), Odd(), Odd(), nn.ReLU())
    model[2].weight = model[1].weight  # shared: counted once
    report = vitkern.patch(model, backend="eager")
    assert report.others == (("tests.test_modules_of_unknown_kinds_are_counted.<locals>.Odd", 1),)
    assert report.share == 0.7
    assert str(report).splitlines()[-2:] == [
        "1 modules patched, with 70 % of the parameters; 0 skipped",
        "left as they are: tests.test_modules_of_unknown_kinds_are_counted.<locals>.Odd ×1",
    ]
    assert report.to_dict()["others"] == dict(report.others)


def test_the_model_itself_can_be_the_module() -> None:
    report = vitkern.patch(nn.Linear(4, 4), backend="eager")
    assert report.patched == (PatchedModule("", "linear", "eager"),)
    assert "(the model)" in str(report)


def test_what_only_eager_takes_is_left_alone() -> None:
    model = zoo.build("vit")  # float64
    before = zoo.state_of(model)
    report = vitkern.patch(model)
    assert not report.patched
    assert [entry.name for entry in report.skipped] == [
        "patch_embed",
        *(f"blocks.{i}{part}" for i in range(2) for part in ("", ".attn", ".mlp")),
    ]
    assert all(entry.reasons["cpu"] for entry in report.skipped)
    assert {next(iter(entry.reasons)) for entry in report.skipped} == {"cpu"}  # the model is there
    assert zoo.state_of(model) == before


def test_models_without_memory_are_left_alone() -> None:
    with torch.device("meta"):
        models = [
            timm.models.VisionTransformer(img_size=32, depth=1),
            timm.models.SwinTransformer(depths=(2,), num_heads=(3,)),
        ]
    for model in models:
        report = vitkern.patch(model)
        assert not report.patched
        assert report.skipped


def test_explicit_backend_refuses_with_its_reasons() -> None:
    model = zoo.build("vit")  # float64
    before = zoo.state_of(model)
    for strict in (False, True):
        with pytest.raises(CannotPatch) as caught:
            vitkern.patch(model, backend="cpu", strict=strict)
        skipped = caught.value.skipped
        assert {"patch_embed", "blocks.0", "blocks.1.mlp", "norm"} <= {s.name for s in skipped}
        assert all(set(entry.reasons) == {"cpu"} for entry in skipped)
        head, *lines = str(caught.value).splitlines()
        assert head.startswith(f"{len(skipped)} modules cannot be patched")
        assert len(lines) == len({entry.why() for entry in skipped}) < len(skipped)
        for entry in skipped:
            (line,) = (line for line in lines if line.endswith(f": {entry.why()}"))
            assert entry.name in line.removesuffix(entry.why()).strip(" :").split(", ")
        assert zoo.state_of(model) == before


@needs.library
def test_explicit_backend_holds_in_every_call() -> None:
    model = zoo.build("our-vit", torch.float32)
    vitkern.patch(model, backend="cpu")
    with pytest.raises(vitkern.UnsupportedInput, match="float64"):
        model.double()(zoo.images("our-vit"))


class _Louder(timm.layers.Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class _Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def _replace_mlp(model: Any) -> None:
    old = model.blocks[0].mlp
    model.blocks[0].mlp = _Louder(48, 192).double().eval()
    model.blocks[0].mlp.load_state_dict(old.state_dict())


def _weight_norm(model: Any) -> None:
    with pytest.warns(FutureWarning):
        weight_norm(model.blocks[0].mlp.fc1)


def _instance_forward(model: Any) -> None:
    attn = model.blocks[0].attn
    original = attn.forward
    attn.forward = lambda *args, **kwargs: 2 * original(*args, **kwargs)


def _subclass_weight(model: Any) -> None:
    class Traced(torch.Tensor):
        pass

    linear = model.blocks[0].mlp.fc2
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Traced))


REFUSED: dict[str, tuple[Callable[[Any], object], dict[str, str]]] = {
    "subclass": (_replace_mlp, {"blocks.0.mlp": "subclass of timm.Mlp", "blocks.0": "mlp is"}),
    "activation": (
        lambda m: setattr(m.blocks[0].mlp, "act", nn.Tanh()),
        {"blocks.0": "mlp: act is torch.Tanh"},
    ),
    "weight norm, with hooks": (
        _weight_norm,
        {"blocks.0.mlp": "fc1.weight is not a parameter", "blocks.0.mlp.fc1": "not a parameter"},
    ),
    "weight norm, parametrized": (
        lambda m: spectral_norm(m.blocks[0].attn.qkv),
        {"blocks.0.attn": "ParametrizedLinear", "blocks.0.attn.qkv": "parametrized (weight)"},
    ),
    "low rank": (
        lambda m: parametrize.register_parametrization(m.blocks[0].attn.proj, "weight", _Doubled()),
        {"blocks.0.attn": "proj is", "blocks.0": "attn: proj is"},
    ),
    "forward of the instance": (
        _instance_forward,
        {"blocks.0.attn": "forward was replaced on the instance"},
    ),
    "weight of a tensor subclass": (
        _subclass_weight,
        {"blocks.0.mlp": "Traced, not a plain tensor"},
    ),
    "norm": (
        lambda m: setattr(m.blocks[0], "norm2", timm.layers.RmsNorm(48).double()),
        {"blocks.0": "norm2 is timm.RmsNorm, not a LayerNorm"},
    ),
    "drop path": (
        lambda m: setattr(m.blocks[0], "drop_path1", _Doubled()),
        {"blocks.0": "drop_path1 is tests._Doubled"},
    ),
    "layer scale": (
        lambda m: setattr(m.blocks[0], "ls2", _Doubled()),
        {"blocks.0": "ls2 is tests._Doubled"},
    ),
    "patch embedding": (
        lambda m: (
            setattr(m.patch_embed.proj, "padding_mode", "reflect")
            or setattr(m.patch_embed.proj, "padding", (1, 1))
        ),
        {"patch_embed": "padding"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_plain_is_refused_and_still_right(case: str) -> None:
    change, expected = REFUSED[case]
    model, x = zoo.build("vit"), zoo.images("vit")
    change(model)
    computes = case != "patch embedding"  # whose grid does not fit its position embedding then
    wanted = model(x) if computes else None
    report = vitkern.patch(model, backend="eager")
    skipped = {entry.name: entry.why() for entry in report.skipped}
    for name, reason in expected.items():
        assert reason in skipped[name], skipped
    assert not set(skipped) & {entry.name for entry in report.patched}
    assert "blocks.1" in {entry.name for entry in report.patched}
    if computes:
        torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)
    with pytest.raises(CannotPatch, match=next(iter(expected)).replace(".", r"\.")):
        vitkern.patch(model, backend="eager", strict=True)


def test_changed_swin_buffers_are_refused() -> None:
    model = zoo.build("swin")
    blocks = model.layers[0].blocks
    blocks[0].attn.relative_position_index = blocks[0].attn.relative_position_index.flip(0)
    blocks[1].attn_mask = torch.zeros_like(blocks[1].attn_mask)
    wanted = model(zoo.images("swin"))
    report = vitkern.patch(model, backend="eager")
    skipped = {entry.name: entry.why() for entry in report.skipped}
    assert "relative_position_index" in skipped["layers.0.blocks.0"]
    assert "attn_mask" in skipped["layers.0.blocks.1"]
    torch.testing.assert_close(model(zoo.images("swin")), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "block",
    ["ParallelScalingBlock", "ParallelThingsBlock", "ResPostBlock", "DiffParallelScalingBlock"],
)
def test_other_blocks_are_named_and_their_layers_patched(block: str) -> None:
    cls = getattr(timm.models.vision_transformer, block)
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=3, block_fn=cls
    ).double()
    model.eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    wanted = model(x)
    report = vitkern.patch(model, backend="eager")
    skipped = {entry.name: entry.why() for entry in report.skipped}
    assert "no adapter" in skipped["blocks.0"]
    assert any(entry.name.startswith("blocks.0.") for entry in report.patched)
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)


def test_blocks_with_swiglu_are_refused_and_their_layers_patched() -> None:
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=3,
        mlp_layer=timm.layers.SwiGLU,
    ).double()  # fmt: skip
    report = vitkern.patch(model, backend="eager")
    skipped = {entry.name: entry.why() for entry in report.skipped}
    assert "mlp is timm.SwiGLU, not Mlp" in skipped["blocks.0"]
    ops = {entry.name: entry.op for entry in report.patched}
    assert ops["blocks.0.attn"] == "linear + attention"
    assert ops["blocks.0.mlp"] == "linear"


def test_attention_dropout_of_swin_is_noted() -> None:
    model = timm.models.SwinTransformer(
        img_size=56, embed_dim=24, depths=(2,), num_heads=(2,), attn_drop_rate=0.1
    )
    report = vitkern.patch(model, backend="eager", strict=True)
    notes = {entry.name: entry.note for entry in report.patched}
    assert "attention dropout" in notes["layers.0.blocks.0"]
    assert "attention dropout" in str(report)


def test_blocks_by_themselves() -> None:
    block = Block(48, 3).double().eval()
    x = torch.randn(2, 5, 48, dtype=torch.float64)
    wanted = block(x)
    report = vitkern.patch(block, backend="eager", strict=True)
    assert report.patched[0].name == ""
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-10)
