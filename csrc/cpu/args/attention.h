// Arguments of attention. Strides are in elements; the last dimension of q, k and v has stride 1.
#pragma once
#include "../runtime.h"

namespace vitkern {

struct Strides3 {
  int64_t batch, head, row;
};

struct AttentionArgs {
  Type type;
  int64_t batch, heads, queries, keys, head_dim;
  const void *q, *k, *v;
  Strides3 q_strides, k_strides, v_strides;
  const void* bias;  // of type `type`; null = none; broadcast dimensions have stride 0, the last one too
  int64_t bias_strides[4];
  const uint8_t* key_padding_mask;  // (batch, keys) contiguous, nonzero = ignore; null = none
  float scale;
  double dropout_p;  // double: its threshold is the one that vitkern/ops/attention/dropout.py computes
  uint64_t seed;
  void* out;   // (batch, queries, heads, head_dim), contiguous
  float* lse;  // (batch, heads, queries), natural logarithms, +inf for a row with no key; null = not wanted
};

struct AttentionBackwardArgs {
  AttentionArgs forward;  // with out and lse as the forward pass left them
  const void* dout;
  Strides3 dout_strides;
  void *dq, *dk, *dv;     // laid out like out; null = not wanted
  void* dbias;            // contiguous, of bias's own shape; null = not wanted
  int64_t bias_sizes[4];  // 1 in the dimensions that broadcast
};

}  // namespace vitkern
