"""Recorded launches: what is written down, and that nothing runs."""

from __future__ import annotations

import importlib
import threading

import pytest
import torch

from vitkern import ops
from vitkern.bench.gpu.launches import of_models
from vitkern.bench.gpu.launches import ops as triton_ops
from vitkern.dispatch import OPERATORS, UnsupportedInput
from vitkern.ops._triton import availability
from vitkern.ops._triton.kernel import Config, Kernel, Resources, cdiv, config, fits, pow2
from vitkern.ops._triton.recorder import Launch, record, recording
from vitkern.ops._triton.targets import TARGETS

X = torch.empty(4, 197, 768, device="meta", dtype=torch.bfloat16)


def _norm_launches(name: str = "h100") -> list[Launch]:
    with record(TARGETS[name]) as launches:
        y = ops.layer_norm(X, backend="triton")
    assert isinstance(y, torch.Tensor)
    assert (y.shape, y.dtype, y.device.type) == (X.shape, X.dtype, "meta")
    return launches


def test_a_launch_is_written_down() -> None:
    (launch,) = _norm_launches()
    assert launch.kernel.name == "layer_norm.forward"
    assert launch.arguments["rows"] == 4 * 197
    assert launch.grid == (cdiv(4 * 197, dict(launch.config.constants)["BLOCK_R"]),)
    assert launch.work.written == X.numel() * 2
    assert launch.config == launch.candidates[0]


def test_outside_of_a_block_meta_tensors_are_refused() -> None:
    with record(TARGETS["h100"]):
        assert recording() is not None
    assert recording() is None
    with pytest.raises(UnsupportedInput):
        ops.layer_norm(X, backend="triton")


def test_other_threads_do_not_record() -> None:
    seen = []
    with record(TARGETS["h100"]):
        thread = threading.Thread(target=lambda: seen.append(recording()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_backward_is_recorded_through_autograd() -> None:
    weight = torch.nn.Parameter(torch.empty(768, device="meta", dtype=torch.bfloat16))
    with record(TARGETS["h100"]) as launches:
        y = ops.layer_norm(X, weight, backend="triton")
        assert isinstance(y, torch.Tensor)
        y.sum().backward()
    names = [launch.kernel.name for launch in launches]
    assert names == ["layer_norm.forward", "layer_norm.backward", "triton.column_sums"]
    assert weight.grad is not None


def _kernel(*configs: Config) -> Kernel:
    return Kernel(
        "vitkern.ops._triton.shared_kernels", "column_sums",
        space=lambda constants, itemsize: configs,
        model=lambda c, itemsize: Resources(c["BLOCK"] * itemsize, c["BLOCK"] * c["BLOCK"]),
    )  # fmt: skip


def test_configurations_that_do_not_fit_are_pruned() -> None:
    small, large = config(4, 2, BLOCK=64), config(4, 2, BLOCK=256)
    kernel = _kernel(large, small)
    assert kernel.fitting(TARGETS["h100"], {}, 2) == (small,)  # 512 registers a thread
    assert kernel.fitting(TARGETS["h100"], {}, 2) is kernel.fitting(TARGETS["h100"], {}, 2)
    shared = config(8, 2, BLOCK=128)
    assert _kernel(shared).fitting(TARGETS["a100"], {}, 4) == (shared,)
    with pytest.raises(ValueError, match="fits NVIDIA A100 80 GB SXM with"):
        _kernel(large).fitting(TARGETS["a100"], {}, 4)


def test_shared_memory_of_the_card_counts() -> None:
    needs = Resources(200_000, 0)
    assert fits(TARGETS["h100"], config(), needs)
    assert not fits(TARGETS["a100"], config(), needs)


@pytest.mark.parametrize(
    "n, least, expected", [(0, 1, 1), (1, 16, 16), (197, 16, 256), (64, 1, 64)]
)
def test_pow2(n: int, least: int, expected: int) -> None:
    assert pow2(n, least) == expected


def test_names_of_configurations_tell_them_apart() -> None:
    names = {config(4, 2, BLOCK_M=64).name, config(4, 3, BLOCK_M=64).name, config(4, 2).name}
    assert names == {"block_m64-warps4-stages2", "block_m64-warps4-stages3", "warps4-stages2"}


def test_every_triton_kernel_has_few_configurations() -> None:
    """Each is compiled and timed at the first call that is tuned."""
    for source in of_models(TARGETS["h100"], [torch.bfloat16]):
        assert 1 <= len(source.launch.candidates) <= 12, source.launch.kernel.name
        names = [one.name for one in source.launch.candidates]
        assert len(set(names)) == len(names), source.launch.kernel.name


@pytest.mark.parametrize("op", triton_ops())
def test_a_machine_without_triton_is_told_so(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "missing", lambda: "Triton cannot be imported: no")
    backend = OPERATORS[op].backends["triton"]
    cases = importlib.import_module(f"vitkern.ops.{op}.cases")
    call = cases.make(cases.CASES[0], torch.float32, "meta")
    assert backend.supports(call) == ["Triton cannot be imported: no"]
