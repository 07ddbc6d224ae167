// Arguments of the fused attention blocks: norm, qkv, attention, projection and residual.
#pragma once
#include "attention.h"
#include "linear.h"
#include "window_attention.h"

namespace vitkern {

// y = x + gamma * (attention(norm(x) qkv^T + qkv_bias) proj^T + proj_bias)
struct AttentionBlockArgs {
  Type type;
  int64_t batch, tokens, heads, head_dim;
  const void* x;  // (batch, tokens, channels), contiguous
  Norm norm;
  Weight qkv;
  const void* qkv_bias;
  Weight proj;
  const void* proj_bias;
  const void* gamma;
  float scale;
  void* y;
};

// The same on a feature map, with shifted windows.
struct WindowBlockArgs {
  WindowAttentionArgs window;  // type, sizes, table, pad; its qkv, out and lse are not used
  const void* x;               // (batch, height, width, channels), contiguous
  Norm norm;
  Weight qkv;
  const void* qkv_bias;
  Weight proj;
  const void* proj_bias;
  const void* gamma;
  void* y;
};

}  // namespace vitkern
