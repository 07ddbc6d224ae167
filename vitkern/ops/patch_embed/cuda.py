"""``patch_embed`` in CUDA: a product whose rows are patches, read where they are in the images."""

from __future__ import annotations

import torch

from vitkern.dispatch import Backend
from vitkern.ops._cuda import gemm
from vitkern.ops._cuda.device import DEVICE
from vitkern.ops._cuda.kernels import CudaKernels
from vitkern.ops._cuda.shapes import VECTOR, loads_vectors
from vitkern.ops._family import Outputs
from vitkern.ops._products import Epilogue, matrix, plain
from vitkern.ops.patch_embed import operators
from vitkern.ops.patch_embed.call import PatchEmbedCall


def _launch(
    kernels: CudaKernels,
    outputs: Outputs,
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    (y,), b = outputs, weight.reshape(weight.shape[0], -1)
    patch_h, patch_w = weight.shape[2:]
    of_image, of_channel, of_row, of_column = images.stride()
    aligned = (
        of_column == b.stride(1) == 1
        and patch_w * images.element_size() % VECTOR == 0
        and loads_vectors(images, b)
    )
    kernels.run(
        "patch_embed", y,
        images=images, of_image=of_image, of_channel=of_channel, of_row=of_row,
        of_column=of_column, grid_h=images.shape[2] // patch_h,
        grid_w=images.shape[3] // patch_w, patch_h=patch_h, patch_w=patch_w,
        m=y.shape[0] * y.shape[1], **gemm.of_columns(kernels, b, aligned),
        **gemm.fields(Epilogue(bias), y),
    )  # fmt: skip


def _patches(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Patches of images as a view: (batch, grid_h, grid_w, channels, patch_h, patch_w)."""
    patch_h, patch_w = weight.shape[2:]
    cut = images.unflatten(3, (-1, patch_w)).unflatten(2, (-1, patch_h))
    return cut.permute(0, 2, 4, 1, 3, 5)


def _launch_backward(
    kernels: CudaKernels,
    outputs: Outputs,
    dy: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    need_images: bool,
    need_weight: bool,
    need_bias: bool,
) -> None:
    (dimages, dweight, dbias), dy = outputs, matrix(dy)
    if need_bias:
        gemm.gradient(kernels, dy, None, None, 0, dpre=False, dbias=dbias, dgamma=None)
    b = weight.reshape(weight.shape[0], -1)
    if need_weight:
        plain(dy.t(), _patches(images, weight).reshape(dy.shape[0], b.shape[1]), dweight)
    if need_images and images.numel():
        places, pixels = _patches(dimages, weight), dy.new_empty((dy.shape[0], b.shape[1]))
        plain(dy, b, pixels)
        places.copy_(pixels.view(places.shape))


def backend(kernels: CudaKernels) -> Backend:
    """The backend on these kernels."""

    def supports(call: PatchEmbedCall) -> list[str]:
        """Reasons to refuse: only those of every op."""
        return kernels.refusals(call.images, call.weight, call.bias)

    return operators.backend(kernels, supports, _launch, _launch_backward)


BACKEND = backend(DEVICE)
