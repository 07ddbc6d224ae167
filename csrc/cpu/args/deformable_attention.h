// Arguments of deformable_attention. All tensors are contiguous.
#pragma once
#include "../runtime.h"

namespace vitkern {

// A map in the list of all pixels: height * width of them from `first`, row by row.
struct DeformableLevel {
  int64_t height, width, first;
};

struct DeformableAttentionArgs {
  Type type, location_type, weight_type;
  int64_t batch, pixels, queries, heads, head_dim, levels, points;
  const DeformableLevel* level;
  const void* value;      // (batch, pixels, heads, head_dim)
  const void* locations;  // (batch, queries, heads, levels, points, 2) of location_type: x, y
  const void* weights;    // (batch, queries, heads, levels, points) of weight_type
  void* out;              // (batch, queries, heads, head_dim)
};

// Gradients are laid out like what they are of; null = not wanted.
struct DeformableAttentionBackwardArgs {
  DeformableAttentionArgs forward;  // its `out` is not used
  const void* dout;
  void *dvalue, *dlocations, *dweights;
};

}  // namespace vitkern
