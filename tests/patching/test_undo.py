"""Patching one instance, undoing it, copying and storing it."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import vitkern
from tests import needs
from tests.patching import zoo
from vitkern.ops._cpu import packed_bytes
from vitkern.patching import CannotPatch

NAMES = ("vit-layer-scale", "swin-not-divisible", "our-vit", "our-swin")


@pytest.mark.parametrize("name", NAMES)
def test_unpatch_leaves_every_module_as_it_was(name: str) -> None:
    model = zoo.build(name)
    before = zoo.state_of(model)
    vitkern.patch(model, backend="eager")
    assert zoo.state_of(model) != before
    model(zoo.images(name))
    vitkern.unpatch(model)
    assert zoo.state_of(model) == before
    vitkern.unpatch(model)  # nothing to undo: a no-op
    assert zoo.state_of(model) == before


@pytest.mark.parametrize("name", NAMES)
def test_only_forward_is_added(name: str) -> None:
    model = zoo.build(name)
    types = [type(module) for module in model.modules()]
    parameters = {key: id(value) for key, value in model.named_parameters()}
    buffers = {key: id(value) for key, value in model.named_buffers()}
    keys, text = list(model.state_dict()), repr(model)
    before = [set(module.__dict__) for module in model.modules()]
    vitkern.patch(model, backend="eager")
    assert [type(module) for module in model.modules()] == types
    assert {key: id(value) for key, value in model.named_parameters()} == parameters
    assert {key: id(value) for key, value in model.named_buffers()} == buffers
    assert list(model.state_dict()) == keys
    assert repr(model) == text
    for module, had in zip(model.modules(), before, strict=True):
        assert set(module.__dict__) - had <= {"forward"}


def test_other_instances_are_untouched() -> None:
    model, other = zoo.build("vit"), zoo.build("vit")
    before = zoo.state_of(other)
    vitkern.patch(model, backend="eager")
    assert zoo.state_of(other) == before


def test_signature_is_the_class_forward_signature() -> None:
    model = zoo.build("vit")
    wanted = inspect.signature(model.blocks[0].forward)
    vitkern.patch(model, backend="eager")
    assert inspect.signature(model.blocks[0].forward) == wanted


@pytest.mark.parametrize(("name", "argument"), [("vit", "x"), ("our-vit", "images")])
def test_arguments_may_be_named_as_in_the_class(name: str, argument: str) -> None:
    model, x = zoo.build(name), zoo.images(name)
    wanted = model.norm(model.patch_embed(x))
    vitkern.patch(model, backend="eager")
    patches = model.patch_embed(**{argument: x})
    torch.testing.assert_close(
        model.norm(**{"x" if name == "vit" else "input": patches}), wanted, rtol=0, atol=1e-10
    )
    with pytest.raises(TypeError):
        model.norm()
    with pytest.raises(TypeError):
        model.norm(patches, patches)


def test_patching_twice_changes_nothing() -> None:
    model = zoo.build("vit")
    first = vitkern.patch(model, backend="eager")
    state = zoo.state_of(model)
    assert vitkern.patch(model, backend="eager") == first
    assert zoo.state_of(model) == state


def test_patching_with_another_backend_patches_anew() -> None:
    model = zoo.build("vit", torch.float32)
    automatic = vitkern.patch(model)
    eager = vitkern.patch(model, backend="eager")
    assert {entry.backend for entry in eager.patched} == {"eager"}
    assert model.blocks[0].forward.backend == "eager"
    assert vitkern.patch(model) == automatic
    if not automatic.patched:
        assert "forward" not in model.blocks[0].__dict__


def test_context_restores_also_after_an_error() -> None:
    model = zoo.build("vit")
    before = zoo.state_of(model)
    with vitkern.patched(model, backend="eager") as report:
        assert report.patched
        assert "forward" in model.blocks[0].__dict__
    assert zoo.state_of(model) == before
    with pytest.raises(KeyError), vitkern.patched(model, backend="eager"):
        raise KeyError
    assert zoo.state_of(model) == before


def test_context_restores_an_earlier_patch() -> None:
    model = zoo.build("vit")
    vitkern.patch(model.blocks[0], backend="eager")
    before = zoo.state_of(model)
    with vitkern.patched(model, backend="eager"):
        assert "forward" in model.blocks[1].__dict__
        model.extra = copy.deepcopy(model.blocks[1])
    assert "forward" not in model.extra.__dict__
    del model.extra
    assert zoo.state_of(model) == before


def test_parts_can_be_patched_and_unpatched() -> None:
    model, x = zoo.build("vit"), zoo.images("vit")
    wanted = model(x)
    vitkern.patch(model.blocks[1], backend="eager")
    assert "forward" not in model.blocks[0].__dict__
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)

    vitkern.patch(model, backend="eager")
    block = model.blocks[0]
    calls = []
    block.mlp.register_forward_hook(lambda *_: calls.append("mlp"))
    assert not block.forward._may_fuse()
    block.mlp._forward_hooks.clear()
    assert block.forward._may_fuse()

    vitkern.unpatch(block.attn)  # the block above must call it now, rather than fuse it away
    assert not block.forward._may_fuse()
    assert block.mlp.forward._may_fuse()
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)
    vitkern.patch(block.attn, backend="eager")
    assert block.forward._may_fuse()


def test_a_part_on_another_backend_is_honoured() -> None:
    model = zoo.build("vit", torch.float32)
    vitkern.patch(model, backend="eager")
    block = model.blocks[0]
    block.attn.forward.backend = "another"
    assert not block.forward._may_fuse()


@pytest.mark.parametrize("name", NAMES)
def test_deepcopy_is_patched_and_independent(name: str) -> None:
    model, x = zoo.build(name), zoo.images(name)
    wanted = model(x)
    vitkern.patch(model, backend="eager")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(other(x), wanted, rtol=0, atol=1e-10)
    for module in other.modules():
        if "forward" in module.__dict__:
            assert module.forward.owner() is module
            assert module.forward._may_fuse()
    vitkern.unpatch(other)
    assert all("forward" not in module.__dict__ for module in other.modules())
    assert "forward" in model.patch_embed.__dict__


@pytest.mark.parametrize("name", NAMES)
def test_pickle_and_torch_save(name: str) -> None:
    model, x = zoo.build(name), zoo.images(name)
    wanted = model(x)
    vitkern.patch(model, backend="eager")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(x), wanted, rtol=0, atol=1e-10)
        assert other.patch_embed.forward.owner() is other.patch_embed
        vitkern.unpatch(other)
        torch.testing.assert_close(other(x), wanted, rtol=0, atol=1e-10)


def test_unpickling_in_another_process(tmp_path: Path) -> None:
    model, x = zoo.build("vit-qk-norm"), zoo.images("vit-qk-norm")
    vitkern.patch(model, backend="eager")
    torch.save((model, x, model(x)), tmp_path / "model.pt")
    code = f"""
import torch
model, x, wanted = torch.load({str(tmp_path / "model.pt")!r}, weights_only=False)
torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)
assert model.blocks[0].forward._may_fuse()
import vitkern
vitkern.unpatch(model)
torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_swap_can_be_copied_and_pickled_by_itself() -> None:
    model = zoo.build("vit")
    vitkern.patch(model, backend="eager")
    kept = [copy.copy(model.norm.forward), model.norm.forward]
    assert all(swap.owner() is model.norm for swap in kept)
    pickle.loads(pickle.dumps(model.norm.forward))


def test_a_deleted_model_is_freed_at_once() -> None:
    model = zoo.build("vit")
    vitkern.patch(model, backend="eager")
    model(zoo.images("vit"))
    refs = [weakref.ref(module) for module in model.modules()]
    forward = model.norm.forward
    gc.collect()
    gc.disable()
    try:
        del model
        alive = [ref() for ref in refs if ref() is not None]
    finally:
        gc.enable()
    assert not alive
    with pytest.raises(ReferenceError, match="norm"):
        forward(torch.zeros(1, 1, 48))


def test_shallow_copies_can_be_patched_anew() -> None:
    block = zoo.build("vit").blocks[0]
    vitkern.patch(block, backend="eager")
    other = copy.copy(block)
    assert other.forward.owner() is block  # which is why the documentation says to patch it
    vitkern.patch(other, backend="eager")
    assert other.forward.owner() is other
    assert block.forward.owner() is block


@pytest.mark.parametrize("value", [None, 3, "model", torch.zeros(2), nn.Module])
def test_only_modules_are_taken(value: object) -> None:
    for function in (vitkern.patch, vitkern.unpatch, lambda m: vitkern.patched(m).__enter__()):
        with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
            function(value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "cpuu"}, vitkern.UnknownBackend, "did you mean 'cpu'"),
        ({"backend": ""}, vitkern.UnknownBackend, "unknown"),
        ({"backend": 3}, TypeError, "string or None"),
        ({"strict": True}, CannotPatch, "model is unchanged"),
    ],
)
def test_errors_leave_the_model_untouched(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    model = zoo.build("vit")  # float64, which only `eager` takes
    before = zoo.state_of(model)
    with pytest.raises(error, match=message):
        vitkern.patch(model, **options)
    with pytest.raises(error, match=message), vitkern.patched(model, **options):
        pytest.fail("entered")
    assert zoo.state_of(model) == before

    vitkern.patch(model, backend="eager")
    before = zoo.state_of(model)
    with pytest.raises(error, match=message):
        vitkern.patch(model, **options)
    assert zoo.state_of(model) == before


@needs.library
def test_unpatch_frees_the_packed_weights() -> None:
    model, x = zoo.build("our-vit", torch.float32).eval(), zoo.images("our-vit").float()
    vitkern.patch(model)
    before = packed_bytes()
    with torch.inference_mode():
        model(x)
    assert packed_bytes() > before
    vitkern.unpatch(model)
    assert packed_bytes() == before
