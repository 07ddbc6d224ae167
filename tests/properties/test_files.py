"""Files that are damaged in any way: the error that is documented, or what the file says.

Never another exception, and never a model that is half changed.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

import vitkern
from vitkern.dispatch.measured.file import Decision, DecisionFile
from vitkern.dispatch.measured.key import Key
from vitkern.models import VisionTransformer, load_checkpoint
from vitkern.training.checkpoint import CheckpointError, read_state, write_state
from vitkern.training.history import read_history
from vitkern.training.recipe import Recipe

Draw = Callable[..., Any]


def model() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(8, 4, 1, 3, embed_dim=4, depth=1, num_heads=2).eval()


def contents(module: nn.Module) -> dict[str, bytes]:
    """All of its state, bit for bit."""
    state = module.state_dict()
    return {
        k: v.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for k, v in state.items()
    }


@st.composite
def damaged(draw: Draw, original: bytes) -> bytes:
    """The file with some bytes lost, changed, repeated or added; most often near its beginning."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        last = len(content)
        place = st.integers(0, min(last, 300)) | st.integers(0, last)
        first, second = sorted((draw(place), draw(place)))
        kind = draw(st.sampled_from(["cut", "flip", "set", "drop", "repeat", "insert", "move"]))
        if kind == "cut":
            del content[first:]
        elif kind == "drop":
            del content[first:second]
        elif kind == "repeat":
            content[second:second] = content[first:second]
        elif kind == "insert":
            content[first:first] = draw(st.binary(max_size=12))
        elif kind == "move":
            piece = content[first:second]
            del content[first:second]
            place = draw(st.integers(0, len(content)))
            content[place:place] = piece
        elif first < last:
            new = draw(st.integers(0, 255))
            content[first] = new if kind == "set" else content[first] ^ (1 << new % 8)
    return bytes(content)


@st.composite
def damaged_header(draw: Draw, original: bytes) -> bytes:
    """A safetensors file whose header is damaged, and as long as the file says it is."""
    length = int.from_bytes(original[:8], "little")
    header = draw(damaged(original[8 : 8 + length]))
    return len(header).to_bytes(8, "little") + header + original[8 + length :]


@st.composite
def damaged_archive(draw: Draw, original: bytes) -> bytes:
    """A file of torch.save in which the pickle is damaged, and the archive around it is whole."""
    result = BytesIO()
    with zipfile.ZipFile(BytesIO(original)) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, draw(damaged(content)) if name.endswith(".pkl") else content)
    return result.getvalue()


def torch_file(**options: Any) -> bytes:
    result = BytesIO()
    torch.save(model().state_dict(), result, **options)
    return result.getvalue()


def safetensors_file() -> bytes:
    return save(model().state_dict())


ZIPPED, PICKLED = torch_file(), torch_file(_use_new_zipfile_serialization=False)
CHECKPOINTS = {
    ".safetensors": damaged(safetensors_file()) | damaged_header(safetensors_file()),
    ".pt": damaged(ZIPPED) | damaged_archive(ZIPPED),
    ".bin": damaged(PICKLED),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("suffix", CHECKPOINTS)
def test_checkpoints(suffix: str, tmp_path: Path) -> None:
    path, target = tmp_path / f"model{suffix}", model()
    before = contents(target)

    @given(content=CHECKPOINTS[suffix])
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        try:
            load_checkpoint(target, path)
        except ValueError as error:
            assert repr(str(path)) in str(error)
            assert contents(target) == before
        else:  # values may be others: such files have no checksum
            target.load_state_dict(model().state_dict())

    holds()


def test_quantized_models(tmp_path: Path) -> None:
    path, target = tmp_path / "model.safetensors", model()
    quantized = model()
    vitkern.quantize(quantized, torch.randn(2, 1, 8, 8), backend="eager")
    vitkern.save_quantized(quantized, path)
    original, before = path.read_bytes(), contents(target)
    vitkern.dequantize(quantized)
    vitkern.load_quantized(quantized, path, backend="eager")
    x = torch.randn(2, 1, 8, 8)

    @given(content=damaged(original) | damaged_header(original))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        try:
            vitkern.load_quantized(target, path, backend="eager")
        except ValueError as error:
            assert repr(str(path)) in str(error)
            assert contents(target) == before
            assert not any(vitkern.patching.swap.swap_of(m) for m in target.modules())
        else:
            found = contents(target)
            with torch.inference_mode():  # not bit for bit: tensors may begin elsewhere in memory
                torch.testing.assert_close(target(x), quantized(x))
            vitkern.dequantize(target)
            vitkern.unpatch(target)
            target.load_state_dict(model().state_dict())
            assert found == contents(quantized)

    holds()


def test_states_of_trainings(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000001.safetensors"
    state = {"model": model().state_dict(), "epoch": 1, "extra": {"pair": (1, None), 3: [0.5]}}
    write_state(path, state)
    original = path.read_bytes()

    @given(content=damaged(original) | damaged_header(original))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_state(path)
        except CheckpointError as error:
            assert path.name in str(error)
        else:
            assert found["extra"] == state["extra"]

    holds()


def test_histories(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    lines = [{"kind": "step", "epoch": 0, "loss": 0.5}, {"kind": "epoch", "epoch": 0}]

    @given(content=damaged("".join(json.dumps(line) + "\n" for line in lines).encode()))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        assert all(isinstance(line, dict) for line in read_history(path))

    holds()


RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
# What YAML has beyond plain data, and values that look like others.
SNIPPETS = st.sampled_from(
    ["&a [*a]", "*b", "!!python/object/apply:os.system [x]", "2001-99-99", "0x", ".nan", "-.inf",
     "1e999", "? [1]\n: 2", "<<: 1", "!!set {a}", "!!binary a", "!!timestamp x", "!!int x",
     "[" * 2000, "null", "{}", "true", "\u2028", "9" * 5000, "1:99:99", "=", "!!float ''",
     "!!bool 3", "---\n"]
)  # fmt: skip


@st.composite
def damaged_recipe(draw: Draw) -> bytes:
    paths = sorted(RECIPES.glob("*.yaml"))
    content = draw(st.sampled_from(paths)).read_text(encoding="utf-8")
    if draw(st.booleans()):
        changed: bytes = draw(damaged(content.encode()))
        return changed
    lines = content.splitlines()
    line = draw(st.integers(0, len(lines) - 1))
    name, colon, _ = lines[line].partition(": ")
    lines[line] = f"{name}{colon}{draw(SNIPPETS)}"
    return "\n".join(lines).encode()


def test_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"

    @given(content=damaged_recipe())
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        try:
            recipe = Recipe.from_yaml(path, {"train.epochs": 3})
        except (TypeError, ValueError) as error:
            assert str(error)
            assert len(str(error)) < 2000
        else:
            assert recipe.train.epochs == 3
            json.dumps(recipe.to_dict())

    holds()


BOMB = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("model: &a [*a]", ValueError, "more than 20 levels"),
        (f"a0: &a0 [1]\n{BOMB}", ValueError, "more than 20 levels, or more than 10000"),
        (f"model: [{'1, ' * 10_000}]", ValueError, "or more than 10000"),
        ("model: 2001-01-01", TypeError, "which is a date"),
        ("model: !!set {a}", TypeError, "which is a set"),
        ("model: {1: 2}", TypeError, "the name 1, which is no text"),
        ("model: !!bool 3", ValueError, "is no YAML"),
        ("[" * 100_000, ValueError, "is no YAML"),
    ],
)
def test_recipes_of_other_than_plain_data(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message) as found:
        Recipe.from_yaml(path, {})
    assert str(path) in str(found.value)
    assert len(str(found.value)) < 1000


def test_lines_of_a_history_that_are_no_events(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(f'0.5\n[]\n{"[" * 100_000}\n{{"kind": "step"}}\n', encoding="utf-8")
    assert read_history(path) == [{"kind": "step"}]


ENVIRONMENT = {"torch": "1", "cores": 2}
KEY: Key = ("op", "cpu", 1, ((3, 4), torch.float32, True, False, False), None)


def test_decisions(tmp_path: Path) -> None:
    """Choices that were measured: whatever is there, reading and adding to it work."""
    path = tmp_path / "decisions-1.json"
    new = Decision("eager", "cpu", {"cpu": 2.0, "eager": 1.0})
    DecisionFile(path, ENVIRONMENT).update({KEY: new})
    original = path.read_bytes()

    @given(content=damaged(original))
    def holds(content: bytes) -> None:
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = DecisionFile(path, ENVIRONMENT).read()
            assert all(isinstance(one, Decision) for one in found.values())
            assert DecisionFile(path, ENVIRONMENT).update({KEY: new})
            assert DecisionFile(path, ENVIRONMENT).read()[KEY] == new
        for aside in tmp_path.glob("*.damaged-*"):
            aside.unlink()

    holds()
