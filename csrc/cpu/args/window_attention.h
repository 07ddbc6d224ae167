// Arguments of window_attention. Maps are contiguous (batch, height, width, channels).
#pragma once
#include "../runtime.h"

namespace vitkern {

struct WindowAttentionArgs {
  Type type;
  int64_t batch, height, width, heads, head_dim;
  int64_t window_height, window_width, shift_height, shift_width;
  bool pad_first;
  float scale;
  const void* qkv;         // (batch, height, width, 3, heads, head_dim)
  const void* bias_table;  // ((2 wh - 1) (2 ww - 1), heads); null = none
  const void* pad;         // (3, heads, head_dim); null = zeros
  void* out;               // (batch, height, width, heads, head_dim)
  float* lse;              // (batch, windows, heads, wh * ww); null = not wanted
};

struct WindowAttentionBackwardArgs {
  WindowAttentionArgs forward;
  const void* dout;
  void *dqkv, *dbias_table, *dpad;  // null = not wanted
};

}  // namespace vitkern
