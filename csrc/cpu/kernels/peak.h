// The machine's own peak: nothing but multiply-adds on independent accumulators, in each form of products.
#pragma once
#include "../args/linear.h"
#include "../gemm/tiles.h"

namespace vitkern::VITKERN_ISA {

template <Dot D>
static double chain_flops(int64_t rounds) {
  // Separate variables: the compiler keeps an array in memory. Twelve chains hide the latency.
  vf a = splat(1.f), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
  vf scale = splat(0.9999f), shift = splat(1e-4f);
#if defined(__x86_64__) && (VITKERN_WIDTH <= 4 || (VITKERN_WIDTH == 8 && __AVX__) || __AVX512F__)
#define VK_KEEP(x) ({ asm volatile("" : "+x"(x)); });
#else  // where no register holds it: that is slower, but never faster than the machine
#define VK_KEEP(x) ({ asm volatile("" : "+m"(x)); });
#endif
  // The same product each time, which the compiler must not take out of the loop.
#define VK_CHAIN(x)                                             \
  if constexpr (D == Dot::f32) x = x * scale + shift;           \
  else x = multiply_add<D>(scale, shift, x);                    \
  VK_KEEP(x) VK_KEEP(scale)
  for (int64_t r = 0; r < rounds; r++) {
    VK_CHAIN(a) VK_CHAIN(b) VK_CHAIN(c) VK_CHAIN(d) VK_CHAIN(e) VK_CHAIN(f)
    VK_CHAIN(g) VK_CHAIN(h) VK_CHAIN(i) VK_CHAIN(j) VK_CHAIN(k) VK_CHAIN(l)
  }
#undef VK_CHAIN
#undef VK_KEEP
  volatile float sink = sum(a + b + c + d + e + f + g + h + i + j + k + l);
  (void)sink;
  constexpr int per_word = D == Dot::u8_s8 ? 4 : D == Dot::bf16_pairs ? 2 : 1;
  return (double)rounds * 12 * W * per_word * 2;
}

template <Dot D>
static double dot_flops(int64_t rounds) {
#if VITKERN_AMX
  if constexpr (kOnTiles<D>) return tile_flops<D>(rounds / 8 + 1);  // which take that much longer
#endif
  return chain_flops<D>(rounds);
}

// Of products in this form; without an instruction for bfloat16 these are products of floats.
static double peak_flops(Form form, int64_t rounds) {
  if (form == Form::int8) return dot_flops<Dot::u8_s8>(rounds);
#if VITKERN_BF16_DOT
  if (form == Form::bf16) return dot_flops<Dot::bf16_pairs>(rounds);
#endif
  return dot_flops<Dot::f32>(rounds);
}

}  // namespace vitkern::VITKERN_ISA
