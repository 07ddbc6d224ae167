// The machine's own peak: nothing but fused multiply-adds on independent accumulators.
#pragma once
#include "../simd/vec.h"

namespace vitkern::VITKERN_ISA {

static double fma_flops(int64_t rounds) {
  constexpr int kChains = 12;
  vf acc[kChains];
  VK_UNROLL
  for (int i = 0; i < kChains; i++) acc[i] = splat(1.f + (float)i);
  vf scale = splat(0.9999f), shift = splat(1e-4f);
  for (int64_t r = 0; r < rounds; r++) {
    VK_UNROLL
    for (int i = 0; i < kChains; i++) acc[i] = acc[i] * scale + shift;
#if defined(__x86_64__) && (VITKERN_WIDTH <= 4 || (VITKERN_WIDTH == 8 && __AVX__) || __AVX512F__)
    // Keeps the chains in registers and the loop as written.
    VK_UNROLL
    for (int i = 0; i < kChains; i++) asm volatile("" : "+x"(acc[i]));
#endif
  }
  vf total = {};
  for (int i = 0; i < kChains; i++) total = total + acc[i];
  volatile float sink = sum(total);
  (void)sink;
  return (double)rounds * kChains * W * 2;
}

}  // namespace vitkern::VITKERN_ISA
