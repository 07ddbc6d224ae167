// Which attention weights dropout keeps: the C++ twin of vitkern/ops/attention/dropout.py. The two
// agree bit for bit.
#pragma once
#include "../simd/vec.h"

namespace vitkern::VITKERN_ISA {

// A bijection of 32 bits that spreads every bit over all (Wellons' lowbias32).
VK_INLINE vu mix(vu x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

struct Dropout {
  bool on;
  uint32_t seed_low, seed_high;
  uint32_t last_dropped;  // a weight is kept if its 32 bits are above this
  float scale;            // of the weights that are kept

  Dropout(double p, uint64_t seed)
      : on(p > 0), seed_low((uint32_t)seed), seed_high((uint32_t)(seed >> 32)), last_dropped(0), scale(1.f) {
    if (!on) return;
    const double dropped = p * 4294967296.0;  // kept: bits >= ceil(dropped)
    const uint64_t whole = (uint64_t)dropped;
    last_dropped = (uint32_t)((double)whole < dropped ? whole : whole - 1);
    scale = (float)(1.0 / (1.0 - p));
  }

  // All bits set where the weight of columns [column, column + W) of a row is kept.
  vi keep(int64_t row, int64_t column) const {
    const uint32_t start = (uint32_t)row * 0x85ebca77u + (uint32_t)((uint64_t)row >> 32) * 0xc2b2ae3du + seed_low;
    vu x = ((vu)iota() + (uint32_t)column) * 0x9e3779b1u + start;
    x = mix(mix(x) + seed_high);
    return (vi)(x > last_dropped);
  }
};

// Zeroes the weights of columns [column, column + n) of a row that are dropped; the others still need
// `scale`.
static void drop(const Dropout& dropout, int64_t row, float* weights, int64_t n, int64_t column = 0) {
  for (int64_t j = 0; j < n; j += W)
    store(weights + j, select(dropout.keep(row, column + j), load(weights + j), vf{}));
}

}  // namespace vitkern::VITKERN_ISA
