"""``attention`` in plain PyTorch: the oracle, and the ``eager`` backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vitkern.dispatch import Backend
from vitkern.ops.attention.call import AttentionCall
from vitkern.ops.attention.dropout import keep_mask


def reference(call: AttentionCall) -> torch.Tensor:
    """``dropout(softmax(q @ k.T * scale + bias)) @ v``."""
    plain = call.bias is None and call.key_padding_mask is None and call.seed is None
    if plain and call.k.numel() > 0 and call.q.numel() > 0:
        # Every row has a key, so what PyTorch has fused means the same. (Of no images it gives None
        # in half precision on a GPU: PyTorch 2.11.)
        return F.scaled_dot_product_attention(call.q, call.k, call.v, scale=call.scale)
    scores = call.q * call.scale @ call.k.transpose(-2, -1)
    if call.bias is not None:
        scores = scores + call.bias
    if call.key_padding_mask is not None:
        scores = scores.masked_fill(call.key_padding_mask[:, None, None, :], float("-inf"))
    # Softmax of a row with no key is 0 / 0: such a row is zeros, and passes no gradient.
    no_key = (scores == float("-inf")).all(-1, keepdim=True)
    weights = scores.masked_fill(no_key, 0.0).softmax(-1).masked_fill(no_key, 0.0)
    if call.seed is not None:
        kept = keep_mask(call.seed, *scores.shape, call.dropout_p)  # type: ignore[call-arg]
        weights = torch.where(kept, weights / (1.0 - call.dropout_p), 0.0)
    return weights @ call.v


BACKEND = Backend(
    name="eager",
    supports=lambda call: [],
    forward=lambda call, needs_grad: (reference(call), ()),
)
