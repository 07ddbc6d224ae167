// The B side of a product.
#pragma once
#include "pack.h"

namespace vitkern::VITKERN_ISA {

// The range of an int8 product's activations: calibrated, or each row's own.
struct Range {
  bool dynamic;
  float low, high;
};
constexpr float kLevels = 255;  // steps that it is cut into

// B: panels, for int8 products the scale of each column and the sum of its integers, and what parts need.
struct Operand {
  const float* panels;
  const float* scale = nullptr;
  const int32_t* sums = nullptr;
  Range range = {};  // of the activations
  const float* reach = nullptr;  // of floats in parts: each column's largest magnitude
  Operand(const float* panels_) : panels(panels_) {}
};

}  // namespace vitkern::VITKERN_ISA
