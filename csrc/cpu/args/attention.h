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
  const void* bias;  // null = none; broadcast dimensions have stride 0, the last one too
  int64_t bias_strides[4];
  const uint8_t* key_padding_mask;  // (batch, keys) contiguous, nonzero = ignore; null = none
  float scale;
  float dropout_p;
  uint64_t seed;
  void* out;   // (batch, queries, heads, head_dim), contiguous
  float* lse;  // (batch, heads, queries); null = not wanted
};

struct AttentionBackwardArgs {
  AttentionArgs forward;  // with out and lse as the forward pass left them
  const void* dout;
  Strides3 dout_strides;
  void *dq, *dk, *dv;  // laid out like out; null = not wanted
  float* dbias;        // float32, of bias's own (unbroadcast) shape; null = not wanted
};

}  // namespace vitkern
