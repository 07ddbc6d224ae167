// Elements: their formats, and loading and storing them as float32, several at a time.
#pragma once

#include "platform.cuh"

namespace vitkern {

// The formats as Python numbers them.
enum class Format : int32_t { float32 = 0, float16 = 1, bfloat16 = 2 };

template <class T>
struct Type {
  using type = T;
};

// function(Type<T>()) for the format's T.
template <class Function>
void with_format(int32_t format, Function function) {
  switch (static_cast<Format>(format)) {
    case Format::float32: return function(Type<float>());
    case Format::float16: return function(Type<Half>());
    case Format::bfloat16: return function(Type<Bfloat>());
  }
  throw Error("format " + std::to_string(format));
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(Bfloat value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Half from_float<Half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ Bfloat from_float<Bfloat>(float value) {
  return __float2bfloat16_rn(value);
}

// A float32 as it comes back from memory of T.
template <class T>
__device__ __forceinline__ float rounded(float value) {
  return to_float(from_float<T>(value));
}

// N elements that move at once; 16 bytes at the most.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T element[N];
};

// Elements of T in 16 bytes.
template <class T>
constexpr int FULL_PACK = 16 / static_cast<int>(sizeof(T));

template <class P, class T>
__device__ __forceinline__ P load_pack(const T* from) {
#ifdef VITKERN_EMULATED
  if (reinterpret_cast<uintptr_t>(from) % sizeof(P) != 0) emulation::fail("a load not aligned");
#endif
  return *reinterpret_cast<const P*>(from);
}
template <class P, class T>
__device__ __forceinline__ void store_pack(T* to, const P& pack) {
#ifdef VITKERN_EMULATED
  if (reinterpret_cast<uintptr_t>(to) % sizeof(P) != 0) emulation::fail("a store not aligned");
#endif
  *reinterpret_cast<P*>(to) = pack;
}

// N elements as float32, in packs of at most 16 bytes; `from` is aligned to them.
template <int N, class T>
__device__ __forceinline__ void load(float (&values)[N], const T* from) {
  constexpr int EACH = N < FULL_PACK<T> ? N : FULL_PACK<T>;
  static_assert(N % EACH == 0);
#pragma unroll
  for (int first = 0; first < N; first += EACH) {
    const auto pack = load_pack<Pack<T, EACH>>(from + first);
#pragma unroll
    for (int i = 0; i < EACH; ++i) values[first + i] = to_float(pack.element[i]);
  }
}
template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&values)[N]) {
  constexpr int EACH = N < FULL_PACK<T> ? N : FULL_PACK<T>;
  static_assert(N % EACH == 0);
#pragma unroll
  for (int first = 0; first < N; first += EACH) {
    Pack<T, EACH> pack;
#pragma unroll
    for (int i = 0; i < EACH; ++i) pack.element[i] = from_float<T>(values[first + i]);
    store_pack(to + first, pack);
  }
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int with = WARP / 2; with > 0; with /= 2) value += __shfl_xor_sync(ALL_LANES, value, with);
  return value;
}

// Over all threads of a block; every thread gets it. `scratch` has an element a warp.
template <int THREADS>
__device__ __forceinline__ float block_sum(float value, Shared<float> scratch) {
  value = warp_sum(value);
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < THREADS / WARP; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace vitkern
