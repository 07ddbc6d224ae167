// Which attention weights dropout keeps: bit for bit as vitkern/ops/attention/dropout.py.
#pragma once

#include "platform.cuh"

namespace vitkern {

// A bijection of 32 bits that spreads every bit over all (Wellons' lowbias32).
__device__ __forceinline__ unsigned mix(unsigned x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

struct Dropout {
  unsigned seed_low, seed_high;
  int64_t threshold;  // a weight is kept where its bits are at least that

  // `row` counts queries over all images and heads.
  __device__ __forceinline__ bool keeps(int64_t row, int column) const {
    const auto low = static_cast<unsigned>(row), high = static_cast<unsigned>(row >> 32);
    const unsigned x = static_cast<unsigned>(column) * 0x9e3779b1u + low * 0x85ebca77u +
                       high * 0xc2b2ae3du + seed_low;
    return static_cast<int64_t>(mix(mix(x) + seed_high)) >= threshold;
  }
};

}  // namespace vitkern
