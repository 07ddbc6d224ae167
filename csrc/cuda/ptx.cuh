// Every instruction that C++ has no name for, and nothing else: PTX on a GPU, its twin in emulation.
#pragma once

#include "platform.cuh"

namespace vitkern {

// cp.async: 16 bytes from global to shared memory, both aligned to 16. With `wanted` false nothing
// is read and zeros are written.
//
// ldmatrix: four 8 x 8 matrices of 16-bit elements. Lane l has the address of row l % 8 of matrix
// l / 8, and gets elements (l / 4, 2 (l % 4)) and the next of each; transposed: (2 (l % 4), l / 4)
// and the one below. A row is 16 bytes, so that four 32-bit elements of a row load the same way.
//
// mma: c (16 x 8) += a (16 x 16) b (16 x 8) for 16-bit elements, k = 8 for tf32, sums in float32.
// With g = lane / 4 and t = lane % 4, in units of 32 bits (two 16-bit elements or one of 32 bits):
// a[0] is (g, t), a[1] (g + 8, t), a[2] (g, t + 4), a[3] (g + 8, t + 4); b[0] is (t, g), b[1]
// (t + 4, g); c[0], c[1] are (g, 2t) and (g, 2t + 1), c[2], c[3] the same of row g + 8.

// The kind of operand of an mma that a float32 becomes: 10 bits of mantissa.
struct Tf32 {};

#ifdef VITKERN_EMULATED

template <class T>
inline void copy_async(Shared<T> to, const void* from, bool wanted) {
  emulation::emulate_copy_async(to, from, wanted);
}
inline void commit_copies() { emulation::commit_copies(); }
template <int GROUPS>
inline void wait_for_copies() {
  emulation::wait_for_copies(GROUPS);
}

template <class T>
inline void load_matrices(unsigned (&r)[4], Shared<T> row) {
  emulation::emulate_load_matrices(r, row, false);
}
template <class T>
inline void load_matrices_transposed(unsigned (&r)[4], Shared<T> row) {
  emulation::emulate_load_matrices(r, row, true);
}

template <class T>
inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
inline void multiply<Half>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  emulation::multiply(c, a, b0, b1, emulation::Operand::half);
}
template <>
inline void multiply<Bfloat>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  emulation::multiply(c, a, b0, b1, emulation::Operand::bfloat);
}
template <>
inline void multiply<Tf32>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  emulation::multiply(c, a, b0, b1, emulation::Operand::tf32);
}

inline unsigned round_to_tf32(unsigned bits) { return emulation::round_to_tf32(bits); }
inline int hidden(int value) { return value; }

#else

template <class T>
__device__ __forceinline__ void copy_async(Shared<T> to, const void* from, bool wanted) {
  const int bytes = wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to.address()), "l"(from),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Until at most GROUPS of the groups that this thread committed are under way.
template <int GROUPS>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS) : "memory");
}

template <class T>
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address())
               : "memory");
}
template <class T>
__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address())
               : "memory");
}

#define VITKERN_MMA(T, shape, type)                                                            \
  template <>                                                                                  \
  __device__ __forceinline__ void multiply<T>(float (&c)[4], const unsigned (&a)[4],           \
                                              unsigned b0, unsigned b1) {                      \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                       \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"      \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));              \
  }

template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                         unsigned b1);
VITKERN_MMA(Half, "m16n8k16", "f16")
VITKERN_MMA(Bfloat, "m16n8k16", "bf16")
VITKERN_MMA(Tf32, "m16n8k8", "tf32")
#undef VITKERN_MMA

// A float32 with the bits that an mma ignores rounded away, not cut off.
__device__ __forceinline__ unsigned round_to_tf32(unsigned bits) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

// The value, which the compiler takes for another one each time.
__device__ __forceinline__ int hidden(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

#endif

}  // namespace vitkern
