// Vectors of VITKERN_WIDTH floats, in the compiler's own vector types, so that one source serves
// every instruction set. A translation unit defines VITKERN_ISA (its namespace: no symbol may be
// shared between instruction sets) and VITKERN_WIDTH before it includes anything.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "../runtime.h"

#if !defined(VITKERN_ISA) || !defined(VITKERN_WIDTH)
#error "define VITKERN_ISA and VITKERN_WIDTH first"
#endif

#define VK_INLINE static inline __attribute__((always_inline))
#define VK_ALWAYS __attribute__((always_inline))  // of lambdas
#define VK_UNROLL _Pragma("GCC unroll 16")

namespace vitkern::VITKERN_ISA {

constexpr int W = VITKERN_WIDTH;

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef uint8_t vb __attribute__((vector_size(W)));
// Of 2, not 4: words may be pairs of bfloat16, which lie anywhere.
typedef float vf_unaligned __attribute__((vector_size(W * 4), aligned(2), may_alias));
typedef uint16_t vh_unaligned __attribute__((vector_size(W * 2), aligned(2), may_alias));

struct bf16 {
  uint16_t bits;
};

VK_INLINE vf splat(float x) { return x - vf{}; }
VK_INLINE vi splat_int(int32_t x) { return x - vi{}; }
VK_INLINE vf as_float(vi x) { return (vf)x; }
VK_INLINE vi as_int(vf x) { return (vi)x; }
VK_INLINE vf select(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
// a > b ? a : b and a < b ? a : b, so b where one is a NaN. By name: gcc makes two instructions of that.
#if VITKERN_WIDTH == 8 && defined(__AVX__)
VK_INLINE vf max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
VK_INLINE vf min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#elif VITKERN_WIDTH == 16 && defined(__AVX512F__)
VK_INLINE vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
VK_INLINE vf min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#else
VK_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
VK_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
#endif
VK_INLINE vf abs(vf x) { return (vf)((vi)x & splat_int(0x7fffffff)); }
VK_INLINE vi iota() {
  vi r = {};
  for (int i = 0; i < W; i++) r[i] = i;
  return r;
}

VK_INLINE float to_float(float x) { return x; }
VK_INLINE float to_float(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float r;
  memcpy(&r, &bits, 4);
  return r;
}
// A number in memory; a float may be a pair of bfloat16, at an address that floats cannot have.
VK_INLINE float read(const float* p) {
  float r;
  memcpy(&r, p, 4);
  return r;
}
VK_INLINE float read(const bf16* p) { return to_float(*p); }
VK_INLINE void put(float* p, float x) { *p = x; }
VK_INLINE void put(bf16* p, float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  p->bits = (u & 0x7fffffff) > 0x7f800000 ? (uint16_t)((u >> 16) | 0x40)
                                          : (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

VK_INLINE vf load(const float* p) { return *(const vf_unaligned*)p; }
VK_INLINE vf load(const bf16* p) {
  return (vf)(__builtin_convertvector(*(const vh_unaligned*)p, vu) << 16);
}
VK_INLINE void store(float* p, vf x) { *(vf_unaligned*)p = x; }
VK_INLINE void store(bf16* p, vf x) {
#if VITKERN_WIDTH == 16 && defined(__AVX512BF16__)
  *(vh_unaligned*)p = (vh)_mm512_cvtneps_pbh((__m512)x);  // makes zeros of denormals
  return;
#endif
  vu u = (vu)x;
  // Round to nearest even; a NaN stays one.
  vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, quiet = (u >> 16) | 0x40;
  vu nan = (vu)((u & 0x7fffffff) > 0x7f800000);
  *(vh_unaligned*)p = __builtin_convertvector((nan & quiet) | (~nan & rounded), vh);
}
// The first n < W elements; the rest of a loaded vector is zero.
template <class T>
VK_INLINE vf load_n(const T* p, int n) {
  alignas(W * 4) float t[W] = {};
  for (int i = 0; i < n; i++) t[i] = to_float(p[i]);
  return *(const vf*)t;
}
template <class T>
VK_INLINE void store_n(T* p, vf x, int n) {
  alignas(W * 4) float t[W];
  *(vf*)t = x;
  for (int i = 0; i < n; i++) put(p + i, t[i]);
}

// Lane i gets lane i ^ N.
template <int N>
VK_INLINE vf swap_lanes(vf x) {
#define VK_SWAP(i) ((i) ^ N)
#if VITKERN_WIDTH == 4
  return __builtin_shufflevector(x, x, VK_SWAP(0), VK_SWAP(1), VK_SWAP(2), VK_SWAP(3));
#elif VITKERN_WIDTH == 8
  return __builtin_shufflevector(x, x, VK_SWAP(0), VK_SWAP(1), VK_SWAP(2), VK_SWAP(3), VK_SWAP(4), VK_SWAP(5),
                                 VK_SWAP(6), VK_SWAP(7));
#else
  return __builtin_shufflevector(x, x, VK_SWAP(0), VK_SWAP(1), VK_SWAP(2), VK_SWAP(3), VK_SWAP(4), VK_SWAP(5),
                                 VK_SWAP(6), VK_SWAP(7), VK_SWAP(8), VK_SWAP(9), VK_SWAP(10), VK_SWAP(11),
                                 VK_SWAP(12), VK_SWAP(13), VK_SWAP(14), VK_SWAP(15));
#endif
#undef VK_SWAP
}
// The sum of all lanes, in every lane.
VK_INLINE vf sum_everywhere(vf x) {
  if constexpr (W > 8) x = x + swap_lanes<8 % W>(x);
  if constexpr (W > 4) x = x + swap_lanes<4 % W>(x);
  x = x + swap_lanes<2>(x);
  return x + swap_lanes<1>(x);
}
VK_INLINE float sum(vf x) { return sum_everywhere(x)[0]; }
VK_INLINE float max_of(vf x) {
  if constexpr (W > 8) x = max(x, swap_lanes<8 % W>(x));
  if constexpr (W > 4) x = max(x, swap_lanes<4 % W>(x));
  x = max(x, swap_lanes<2>(x));
  return max(x, swap_lanes<1>(x))[0];
}

// Interleaves of two vectors: a0 b0 a1 b1 ... (low half), and of their high halves.
#if VITKERN_WIDTH == 4
VK_INLINE vf zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
VK_INLINE vf zip_high(vf a, vf b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#elif VITKERN_WIDTH == 8
VK_INLINE vf zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
VK_INLINE vf zip_high(vf a, vf b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#elif VITKERN_WIDTH == 16
VK_INLINE vf zip_low(vf a, vf b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
VK_INLINE vf zip_high(vf a, vf b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#else
#error "VITKERN_WIDTH must be 4, 8 or 16"
#endif

// In-place transpose of W vectors: log2(W) rounds of perfect shuffles.
VK_INLINE void transpose(vf (&r)[W]) {
  vf t[W];
  for (int round = 1; round < W; round *= 2) {
    VK_UNROLL
    for (int i = 0; i < W / 2; i++) {
      t[2 * i] = zip_low(r[i], r[i + W / 2]);
      t[2 * i + 1] = zip_high(r[i], r[i + W / 2]);
    }
    VK_UNROLL
    for (int i = 0; i < W; i++) r[i] = t[i];
  }
}

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
template <class N>
VK_INLINE N smaller(N a, N b) { return a < b ? a : b; }
template <class N>
VK_INLINE N larger(N a, N b) { return a > b ? a : b; }

// std::conditional: the standard library's inline code must not be compiled per instruction set.
template <bool Yes, class A, class B>
struct choose {
  using type = A;
};
template <class A, class B>
struct choose<false, A, B> {
  using type = B;
};

// Runs f(task) for every task on the runtime's threads.
template <class F>
VK_INLINE void for_tasks(const Runtime& rt, int64_t tasks, const F& f) {
  if (tasks <= 0) return;
  rt.parallel(tasks, [](void* context, int64_t task) { (*(const F*)context)(task); }, (void*)&f);
}

// Calls f with the element type's zero: f(float{}) or f(bf16{}).
template <class F>
VK_INLINE void with_type(Type type, const F& f) {
  if (type == Type::f32) f(float{});
  else f(bf16{});
}

}  // namespace vitkern::VITKERN_ISA
