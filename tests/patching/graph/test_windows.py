"""Attention in shifted windows: found however it is written, and only where it is Swin's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import needs
from tests.patching.graph.runs import in_float32, results, same, through_graph
from vitkern.bench.parity import compare
from vitkern.patching.graph import GraphReport, graph_backend

Tensor = torch.Tensor
DIM, HEADS = 12, 3


def positions(window: tuple[int, int]) -> Tensor:
    """Row of the bias table for each query and key, one at a time."""
    places = [(y, x) for y in range(window[0]) for x in range(window[1])]
    height, width = window
    return torch.tensor(
        [
            [(a - c + height - 1) * (2 * width - 1) + b - d + width - 1 for c, d in places]
            for a, b in places
        ]
    )


def regions(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """The mask of the shift, position by position."""
    masks = []
    for top in range(0, size[0], window[0]):
        for left in range(0, size[1], window[1]):
            region = [
                (y >= size[0] - shift[0], x >= size[1] - shift[1])
                for y in range(top, top + window[0])
                for x in range(left, left + window[1])
            ]
            masks.append([[0.0 if a == b else -100.0 for b in region] for a in region])
    return torch.tensor(masks)


class Plain(nn.Module):
    """A Swin block as somebody wrote it, on (B, H, W, C); methods are parts to write otherwise."""

    def __init__(
        self, size: tuple[int, int] = (8, 12), window: tuple[int, int] = (4, 3),
        shift: tuple[int, int] = (2, 1),
    ) -> None:  # fmt: skip
        super().__init__()
        self.window, self.shift = window, shift
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(DIM),
            nn.Linear(DIM, 3 * DIM),
            nn.Linear(DIM, DIM),
        )
        self.table = nn.Parameter(torch.randn((2 * window[0] - 1) * (2 * window[1] - 1), HEADS))
        self.register_buffer("index", positions(window))
        padded = tuple(-(-s // w) * w for s, w in zip(size, window, strict=True))
        mask = regions((padded[0], padded[1]), window, shift) if any(shift) else None
        self.register_buffer("mask", mask, persistent=False)

    def partition(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        (p, q) = self.window
        x = x.view(b, h // p, p, w // q, q, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, p * q, c)

    def together(self, x: Tensor, h: int, w: int) -> Tensor:
        (p, q) = self.window
        x = x.view(-1, h // p, w // q, p, q, x.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, x.shape[-1])

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, HEADS, DIM // HEADS)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def bias(self) -> Tensor:
        n = self.index.shape[0]
        return self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        scores = (q * (DIM // HEADS) ** -0.5) @ k.transpose(-2, -1) + self.bias()[None]
        if self.mask is not None:
            count, n = self.mask.shape[0], x.shape[1]
            scores = scores.view(-1, count, HEADS, n, n) + self.mask[:, None]
            scores = scores.view(-1, HEADS, n, n)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        return self.out(y)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, w) = self.norm(x), x.shape[1:3]
        if any(self.shift):
            y = torch.roll(y, (-self.shift[0], -self.shift[1]), (1, 2))
        y = self.together(self.attend(self.partition(y)), h, w)
        if any(self.shift):
            y = torch.roll(y, self.shift, (1, 2))
        return x + y


class Tokens(Plain):
    """(B, N, C) tokens, a roll for each axis, PyTorch's attention, three layers, no bias for k."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.q, self.k, self.v = (nn.Linear(DIM, DIM, bias=name != "k") for name in "qkv")
        del self.qkv

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        layers = (self.q, self.k, self.v)
        return tuple(f(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in layers)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        bias = self.bias().unsqueeze(0)
        if self.mask is not None:
            batch = x.shape[0] // self.mask.shape[0]
            mask = self.mask.unsqueeze(1).expand(-1, HEADS, -1, -1).unsqueeze(0)
            bias = bias + mask.expand(batch, -1, -1, -1, -1).flatten(0, 1)
        y = F.scaled_dot_product_attention(q, k, v, bias, scale=0.4)
        return self.out(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        tokens = x.reshape(b, h * w, c)
        y = self.norm(tokens).view(b, h, w, c)
        y = y.roll(-self.shift[0], 1).roll(shifts=-self.shift[1], dims=2)
        y = self.together(self.attend(self.partition(y)), h, w)
        y = y.roll(self.shift[1], dims=2).roll(self.shift[0], 1)
        return (tokens + y.reshape(b, h * w, c)).view_as(x)


class LayersOutside(Plain):
    """The layers act on the map; q, k and v are slices of it; the mask is made on each call."""

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        def heads(y: Tensor) -> Tensor:
            return y.view(y.shape[0], y.shape[1], HEADS, -1).permute(0, 2, 1, 3)

        return tuple(heads(y) for y in x.chunk(3, dim=-1))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        scores = q @ k.transpose(-2, -1)
        scores = scores / 2.0 + self.bias()
        n, y = x.shape[1], torch.zeros(1, 8, 12, 1, dtype=x.dtype)
        y[:, -self.shift[0] :] += 2
        y[:, :, -self.shift[1] :].add_(1)
        y = self.partition(y)[..., 0]
        mask = (y[:, None] != y[:, :, None]).to(x.dtype) * -100
        scores = scores.view(-1, mask.shape[0], HEADS, n, n) + mask[:, None]
        scores = scores.view(-1, HEADS, n, n)
        return (F.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, w) = self.qkv(self.norm(x)), x.shape[1:3]
        y = torch.roll(y, (-self.shift[0], -self.shift[1]), (1, 2))
        y = self.together(self.attend(self.partition(y)), h, w)
        return x + self.out(torch.roll(y, self.shift, (1, 2)))


class Padding(Plain):
    """A map that the window does not divide; padded before or after it is shifted."""

    def __init__(self, first: bool, outside: bool = False, **options: Any) -> None:
        super().__init__(size=(7, 10), **options)
        self.first, self.outside = first, outside

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        qkv = x if self.outside else self.qkv(x)
        return qkv.view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, x: Tensor) -> Tensor:
        return super().attend(x) if not self.outside else self.attend_to(x)

    def attend_to(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        y = F.scaled_dot_product_attention(q, k, v, self.bias()[None] + self.masks(x))
        return self.out(y.transpose(1, 2).flatten(2))

    def masks(self, x: Tensor) -> Tensor:
        mask, n = self.mask, x.shape[1]
        return mask[None, :, None].expand(x.shape[0] // len(mask), -1, 1, n, n).reshape(-1, 1, n, n)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.outside:
            y = self.qkv(y)
        back = (-self.shift[0], -self.shift[1])
        y = F.pad(y.roll(back, (1, 2)) if not self.first else y, (0, 0, 0, 2, 0, 1))
        y = y.roll(back, (1, 2)) if self.first else y
        y = self.together(self.attend(self.partition(y)), 8, 12)
        y = y[:, :7, :10] if not self.first else y.roll(self.shift, (1, 2))
        y = y.roll(self.shift, (1, 2)) if not self.first else y[:, :7, :10, :]
        return x + y


FOUND: dict[str, Callable[[], Plain]] = {
    "shifted": Plain,
    "not-shifted": lambda: Plain(shift=(0, 0)),
    "shifted-one-way": lambda: Plain(shift=(0, 2)),
    "one-window": lambda: Plain(window=(8, 12), shift=(0, 0)),
    "one-row-of-windows": lambda: Plain(window=(8, 4), shift=(3, 0)),
    "tokens": Tokens,
    "layers-outside": LayersOutside,
    "padded-first": lambda: Padding(True),
    "shifted-first": lambda: Padding(False),
    "padded-first-outside": lambda: Padding(True, True),
    "shifted-first-outside": lambda: Padding(False, True),
}


def image(block: Plain, batch: int = 2) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(batch, *((7, 10) if isinstance(block, Padding) else (8, 12)), DIM)


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("batch", [1, 2])
def test_found_in_many_spellings(name: str, batch: int) -> None:
    torch.manual_seed(0)
    block = FOUND[name]()
    run = same(block, image(block, batch))
    assert run.ops.count("window_attention") == 1, run.reasons
    assert "attention" not in run.ops and "window" not in run.reasons


class Twice(Plain):
    """The mask added twice, as in Hugging Face's Swinv2."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        count, n = self.mask.shape[0], x.shape[1]
        scores = q @ k.transpose(-2, -1) + self.bias()
        scores = scores.view(-1, count, HEADS, n, n) + self.mask[:, None] + self.mask[:, None]
        y = scores.view(-1, HEADS, n, n).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Unmasked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.mask = None


class OtherMask(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.mask[1, 2, 3] = -50.0


class OtherPlaces(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.index.copy_(self.index.t().clone())


class ScoresUsed(Plain):
    """Somebody looks at what is in between."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), self.partition(self.norm(x)).sum() + self.seen.sum()

    def attend(self, x: Tensor) -> Tensor:
        self.seen = x
        return super().attend(x)


class NotBack(Plain):
    """Shifted back by one more."""

    def forward(self, x: Tensor) -> Tensor:
        y, (h, w) = torch.roll(self.norm(x), (-2, -1), (1, 2)), x.shape[1:3]
        y = self.together(self.attend(self.partition(y)), h, w)
        return torch.roll(y, (2, 2), (1, 2))


class Turned(Plain):
    """Put together with rows and columns of windows in the other order."""

    def together(self, x: Tensor, h: int, w: int) -> Tensor:
        (p, q) = self.window
        x = x.view(-1, w // q, h // p, p, q, x.shape[-1])
        return x.permute(0, 2, 3, 1, 4, 5).reshape(-1, h, w, x.shape[-1])


class TooPadded(Plain):
    """By a whole window more than is needed."""

    def __init__(self) -> None:
        super().__init__(size=(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.norm(x), (0, 0, 0, 0, 0, 4)).roll((-2, -1), (1, 2))
        y = self.together(self.attend(self.partition(y)), 12, 12)
        return y.roll((2, 1), (1, 2))[:, :8]


class OneLayer(Tokens):
    """Queries are keys."""

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        _, k, v = super().split(x)
        return k, k, v


class BiasByImage(Plain):
    """A bias that is computed from the images."""

    def bias(self) -> Tensor:
        return super().bias() + self.level

    def attend(self, x: Tensor) -> Tensor:
        self.level = x.mean()
        return super().attend(x)


class Dropping(Plain):
    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        mask, n = self.mask, x.shape[1]
        scores = (q @ k.transpose(-2, -1) + self.bias()).view(-1, len(mask), HEADS, n, n)
        scores = (scores + mask[:, None]).view(-1, HEADS, n, n)
        y = F.dropout(scores.softmax(-1), 0.5) @ v
        return self.out(y.transpose(1, 2).flatten(2))


LEFT: dict[str, tuple[type[Plain], str]] = {
    "mask-twice": (Twice, "mask that is not Swin's"),
    "no-mask": (Unmasked, "is shifted, and has no mask"),
    "other-mask": (OtherMask, "mask that is not Swin's"),
    "other-places": (OtherPlaces, "not by Swin's relative positions"),
    "used": (ScoresUsed, "used elsewhere"),
    "not-back": (NotBack, "not put back"),
    "turned": (Turned, "not put back"),
    "padded-by-a-window": (TooPadded, "padded by more"),
    "bias-by-image": (BiasByImage, "neither Swin's position bias nor its mask"),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_as_it_is_where_it_is_not_swins(name: str) -> None:
    torch.manual_seed(0)
    kind, reason = LEFT[name]
    block = kind()
    run = same(block, image(block))
    assert "window_attention" not in run.ops
    assert "attention" in run.ops  # as without the pattern
    assert any(one.op == "window_attention" and reason in one.reason for one in run.left)


def test_other_attention_is_not_reported() -> None:
    """Queries that are keys; all positions of a map to all, with any bias."""
    torch.manual_seed(0)
    block = OneLayer()
    run = same(block, image(block))
    assert "window_attention" not in run.ops and "attention" in run.ops and not run.left

    def everywhere(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        qkv = F.linear(x, w).view(2, 16, 3, 2, 6).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], bias)
        return y.transpose(1, 2).reshape(x.shape)

    run = same(everywhere, torch.randn(2, 4, 4, DIM), torch.randn(36, DIM), torch.randn(2, 16, 16))
    assert run.ops == ["linear", "attention"] and not run.left


def test_attention_dropout_is_left() -> None:
    block = Dropping()
    run = through_graph(block, image(block))
    assert "window_attention" not in run.ops
    assert "drops weights" in run.reasons


def test_attention_that_is_in_no_windows_is_not_reported() -> None:
    """A vision transformer's, of all tokens to all."""
    heads = [torch.randn(2, 3, 16, 8) for _ in range(3)]
    run = same(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), *heads)
    assert run.ops == ["attention"] and not run.left


def test_dynamic_batch_is_one_graph() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    block, reports = Padding(True).double(), list[GraphReport]()
    compiled = torch.compile(
        block, backend=graph_backend(report=reports, rest="eager", backend="eager")
    )
    for batch in (3, 2, 5):
        x = image(block, batch).double()
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(compiled(x), block(x), rtol=0, atol=1e-11)
    assert len(reports) == 1
    assert [one.op for one in reports[0].replaced].count("window_attention") == 1


def test_a_dynamic_size_is_left() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    block, reports = Plain(), list[GraphReport]()
    compiled = torch.compile(
        block, backend=graph_backend(report=reports, rest="eager", backend="eager")
    )
    x = image(block)
    torch._dynamo.maybe_mark_dynamic(x, 1)
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-5, atol=1e-5)
    assert any("height or width is dynamic" in one.reason for one in reports[0].left)


def test_a_buffer_that_changes_is_noticed() -> None:
    """Values of buffers were read; where they are others, the graph runs as it was captured."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    block = Plain().double()
    x = image(block).double()
    compiled = torch.compile(block, backend=graph_backend(rest="eager", backend="eager"))
    torch.testing.assert_close(compiled(x), block(x), rtol=0, atol=1e-11)
    index = block.index.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block.index.copy_(index)  # written to, and the same
        torch.testing.assert_close(compiled(x), block(x), rtol=0, atol=1e-11)
    block.index.copy_(index.t())
    before = block(x)
    with pytest.warns(RuntimeWarning, match="index.*compiled for"):
        torch.testing.assert_close(compiled(x), before, rtol=0, atol=1e-11)
    torch.testing.assert_close(compiled(x), before, rtol=0, atol=1e-11)
    block.index.copy_(index)
    torch.testing.assert_close(compiled(x), block(x), rtol=0, atol=1e-11)


def test_code_that_several_modules_share() -> None:
    """Blocks that are compiled one by one share code; their buffers need not be the same."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    blocks = [kind().double() for kind in (Plain, OtherMask, Plain)]
    for block in blocks:
        block.__class__ = Plain
        block.compile(backend=graph_backend(rest="eager", backend="eager"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for block in blocks:
            x = image(block).double()
            torch.testing.assert_close(block(x), block.forward(x), rtol=0, atol=1e-11)


def small(library: str) -> tuple[nn.Module, Tensor, int]:
    """A Swin of a library, images, and the number of its blocks."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 56, 56)
    if library.startswith("timm"):
        timm = pytest.importorskip("timm")
        model = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=56, embed_dim=16, depths=(2, 2),
            num_heads=(2, 4), num_classes=3, drop_path_rate=0.0,
        )  # fmt: skip
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = library == "timm-fused"
    elif library == "torchvision":
        swin = pytest.importorskip("torchvision.models.swin_transformer")
        images = torch.randn(2, 3, 60, 52)
        model = swin.SwinTransformer(
            [4, 4], 16, [2, 1], [2, 4], [7, 7], stochastic_depth_prob=0.0, num_classes=3
        )
    else:
        transformers = pytest.importorskip("transformers")
        images = torch.randn(2, 3, 60, 60)
        config = transformers.SwinConfig(
            image_size=60, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=7,
            drop_path_rate=0.0, num_labels=3,
        )  # fmt: skip
        model = Logits(transformers.SwinForImageClassification(config))
    blocks = {"torchvision": 3, "transformers": 3}.get(library, 4)
    return model, images, blocks


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


LIBRARIES = ["timm", "timm-fused", "torchvision", "transformers"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_libraries(library: str, training: bool) -> None:
    model, images, blocks = small(library)
    run = same(model.train(training), images)
    assert run.ops.count("window_attention") == blocks, run.reasons
    assert "attention" not in run.ops


@needs.library
@pytest.mark.parametrize("library", LIBRARIES)
def test_on_the_cpu_backend(library: str) -> None:
    """In float32: at most twice as far from float64 as eager PyTorch is."""
    model, images, blocks = small(library)
    run = in_float32(model.eval(), images, backend="cpu", rest="aot_eager")
    found = [one for one in run.replaced if one.op == "window_attention"]
    assert [one.backend for one in found] == ["cpu"] * blocks


@needs.library
@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
@pytest.mark.parametrize("library", ["timm-fused", "torchvision"])
def test_in_bfloat16(library: str, autocast: bool) -> None:
    model, images, blocks = small(library)
    model.eval()
    if not autocast:
        model, images = model.bfloat16(), images.bfloat16()
    double = copy.deepcopy(model).double()
    truth = results(double, (images.double(),), double)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        eager = results(model, (images,), model)
        run = through_graph(model, images, backend="cpu", rest="aot_eager")
    assert run.ops.count("window_attention") == blocks, run.reasons
    check = compare("values", truth, eager, {name: run.values[name] for name in truth})
    assert check.passed, check


@pytest.mark.slow
@needs.library
@pytest.mark.usefixtures("inductor")
def test_inductor_compiles_the_rest_of_it() -> None:
    """With a batch that is dynamic."""
    model, _, blocks = small("torchvision")
    torch._dynamo.reset()
    reports: list[GraphReport] = []
    compiled = torch.compile(model, backend=graph_backend(report=reports, backend="cpu"))
    for batch in (2, 3, 5):
        images = torch.randn(batch, 3, 60, 52)
        torch._dynamo.maybe_mark_dynamic(images, 0)
        double = copy.deepcopy(model).double()
        truth = results(double, (images.double(),), double)
        eager, ours = results(model, (images,), model), results(compiled, (images,), model)
        check = compare("values", truth, eager, ours)
        assert check.passed, check
    for found in reports:  # Inductor asks for another graph where a batch is larger
        assert [one.op for one in found.replaced].count("window_attention") == blocks
