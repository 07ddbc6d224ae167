// Arguments of layer_norm. x, residual and results are contiguous (rows, columns).
#pragma once
#include "../runtime.h"

namespace vitkern {

struct LayerNormArgs {
  Type type, weight_type;
  int64_t rows, columns;
  const void* x;
  const void* residual;  // null = none
  const void* weight;
  const void* bias;
  float eps;
  void* y;
  void* sum;     // x + residual, where there is one
  float* stats;  // (rows, 2): mean, 1 / standard deviation
};

struct LayerNormBackwardArgs {
  Type type, weight_type;
  int64_t rows, columns;
  const void* dy;
  const void* dsum;  // null = none
  const void* x;     // what was normalised
  const void* weight;
  const float* stats;
  void* dx;
  void *dweight, *dbias;  // of weight_type
};

}  // namespace vitkern
