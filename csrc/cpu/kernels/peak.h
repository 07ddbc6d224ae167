// The machine's own peak: nothing but fused multiply-adds on independent accumulators.
#pragma once
#include "../simd/vec.h"

namespace vitkern::VITKERN_ISA {

static double fma_flops(int64_t rounds) {
  // Separate variables: the compiler keeps an array in memory. Twelve chains hide the latency.
  vf a = splat(1.f), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
  vf scale = splat(0.9999f), shift = splat(1e-4f);
#if defined(__x86_64__) && (VITKERN_WIDTH <= 4 || (VITKERN_WIDTH == 8 && __AVX__) || __AVX512F__)
#define VK_CHAIN(x) x = x * scale + shift, ({ asm volatile("" : "+x"(x)); });
#else
#define VK_CHAIN(x) x = x * scale + shift;
#endif
  for (int64_t r = 0; r < rounds; r++) {
    VK_CHAIN(a) VK_CHAIN(b) VK_CHAIN(c) VK_CHAIN(d) VK_CHAIN(e) VK_CHAIN(f)
    VK_CHAIN(g) VK_CHAIN(h) VK_CHAIN(i) VK_CHAIN(j) VK_CHAIN(k) VK_CHAIN(l)
  }
#undef VK_CHAIN
  volatile float sink = sum(a + b + c + d + e + f + g + h + i + j + k + l);
  (void)sink;
  return (double)rounds * 12 * W * 2;
}

}  // namespace vitkern::VITKERN_ISA
