"""``patch_embed`` in Triton: products that read and write patches where they are in the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitkern.ops._products import matrix
from vitkern.ops._triton import availability, gemm, passes
from vitkern.ops._triton.gemm import Epilogue, Finish, Plan
from vitkern.ops._triton.kernel import Kernel
from vitkern.ops._triton.operator import TRITON
from vitkern.ops._triton.recorder import Work
from vitkern.ops.patch_embed import operators
from vitkern.ops.patch_embed.call import PatchEmbedCall

_MODULE = "vitkern.ops.patch_embed.triton_kernels"
_FORWARD, _WEIGHT_GRADIENT, _IMAGE_GRADIENT = (
    Kernel(_MODULE, name, gemm.space, gemm.model)
    for name in ("forward", "weight_gradient", "image_gradient")
)


def supports(call: PatchEmbedCall) -> list[str]:
    """Reasons to refuse: only those of every op."""
    return availability.refusals(call.images, call.weight, call.bias)


def _geometry(images: torch.Tensor, weight: torch.Tensor) -> tuple[dict[str, int], dict[str, int]]:
    """Arguments and constants that say where patches are in the images."""
    patch_h, patch_w = weight.shape[2:]
    of_image, of_channel, of_row, of_column = images.stride()
    arguments = {
        "grid_h": images.shape[2] // patch_h, "grid_w": images.shape[3] // patch_w,
        "of_image": of_image, "of_channel": of_channel, "of_row": of_row, "of_column": of_column,
    }  # fmt: skip
    aligned = patch_w % 4 == 0 and gemm.aligned(images, weight.reshape(weight.shape[0], -1))
    return arguments, {"PATCH_H": patch_h, "PATCH_W": patch_w, "ALIGNED": aligned}


def _patches(images: torch.Tensor, weight: torch.Tensor) -> int:
    patch_h, patch_w = weight.shape[2:]
    return images.shape[0] * (images.shape[2] // patch_h) * (images.shape[3] // patch_w)


def _multiply(
    kernel: Kernel, how: Plan, arguments: Mapping[str, Any], operand: torch.Tensor,
    traffic: tuple[float, float],
) -> None:  # fmt: skip
    def work(constants: Mapping[str, Any], _: tuple[int, ...]) -> Work:
        of = operand.element_size()
        return how.work(constants, (how.m * how.k * of, how.k * how.n * of), traffic)

    kernel(how.grid, {**arguments, **how.sizes()}, how.constants, work, operand=operand)


def _launch(
    outputs: tuple[torch.Tensor, ...],
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    (y,), b = outputs, weight.reshape(weight.shape[0], -1).t()
    arguments, constants = _geometry(images, weight)
    inputs, width = b.shape
    how = gemm.plan(_FORWARD, _patches(images, weight), width, inputs, b, constants)
    partial, finish = how.partial(y), Finish(how, y, Epilogue(bias))
    _multiply(
        _FORWARD, how,
        {
            "IMAGES": images, "B": b, "C": y, "PARTIAL": partial, **arguments,
            "BIAS": None if partial is not None else bias,
            "bias_step": 0 if partial is not None or bias is None else bias.stride(0),
            "b_step": b.stride(0), "b_column": b.stride(1),
        },
        b, finish.traffic(partial),
    )  # fmt: skip
    finish(partial)


def _launch_backward(
    outputs: tuple[torch.Tensor, ...],
    dy: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    need_images: bool,
    need_weight: bool,
    need_bias: bool,
) -> None:
    (dimages, dweight, dbias), patches = outputs, _patches(images, weight)
    dy, b = matrix(dy), weight.reshape(weight.shape[0], -1)
    width, inputs = b.shape
    if need_bias:
        passes.gradient(dy, None, None, 0, dpre=False, dbias=dbias, dgamma=None)
    if need_weight:
        arguments, constants = _geometry(images, weight)
        how = gemm.plan(_WEIGHT_GRADIENT, width, inputs, patches, images, constants)
        partial, finish = how.partial(dweight), Finish(how, dweight, Epilogue())
        _multiply(
            _WEIGHT_GRADIENT, how,
            {
                "A": dy, "IMAGES": images, "C": dweight, "PARTIAL": partial, **arguments,
                "a_row": dy.stride(1), "a_step": dy.stride(0),
            },
            images, finish.traffic(partial),
        )  # fmt: skip
        finish(partial)
    if need_images and patches:
        arguments, constants = _geometry(dimages, weight)
        how = gemm.plan(_IMAGE_GRADIENT, patches, inputs, width, b, constants, whole=True)
        _multiply(
            _IMAGE_GRADIENT, how,
            {
                "A": dy, "B": b, "IMAGES": dimages, **arguments,
                "a_row": dy.stride(0), "a_step": dy.stride(1),
                "b_step": b.stride(0), "b_column": b.stride(1),
            },
            b, (0.0, gemm.size(dimages)),
        )  # fmt: skip


BACKEND = operators.backend(TRITON, supports, _launch, _launch_backward)
