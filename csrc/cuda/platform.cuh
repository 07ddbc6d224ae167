// The ground that kernels stand on: types, shared memory and launches, on a GPU or in emulation.
//
// With VITKERN_EMULATED defined, a C++ compiler takes the same sources and tests/cuda_emulation
// runs them on the CPU. Kernels reach shared memory through Shared<T> only, which is a bare pointer
// on a GPU and lets the emulation see every access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef VITKERN_EMULATED
#include "emulation.hpp"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace vitkern {

using Half = __half;
using Bfloat = __nv_bfloat16;
using Stream = cudaStream_t;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// What an entry point reports to its caller.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

#ifdef VITKERN_EMULATED

using emulation::Shared;
using emulation::dynamic_shared;

template <int ALIGNMENT>
int shared_start() {
  return emulation::shared_start(ALIGNMENT);
}

#define VITKERN_SHARED(T, name, count)                               \
  struct name##_place {};                                            \
  const ::vitkern::Shared<T> name = ::emulation::static_shared<T, name##_place>(count)

inline void use_device(int) {}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, int threads, std::size_t shared, Stream,
            const A&... arguments) {
  emulation::launch(grid, threads, shared, [&] { kernel(arguments...); });
}

#else

// An array in shared memory.
template <class T>
struct Shared {
  T* data;

  __device__ __forceinline__ T& operator[](int i) const { return data[i]; }
  __device__ __forceinline__ Shared operator+(int n) const { return {data + n}; }
  // The same bytes as elements of another type; where they begin has to be aligned for it.
  template <class U>
  __device__ __forceinline__ Shared<U> as() const {
    return {reinterpret_cast<U*>(data)};
  }
  __device__ __forceinline__ unsigned address() const {
    return static_cast<unsigned>(__cvta_generic_to_shared(data));
  }
};

constexpr int DYNAMIC_SHARED_ALIGNED = 128;

// `count` elements of the launch's dynamic shared memory, from a byte on.
template <class T>
__device__ __forceinline__ Shared<T> dynamic_shared(int first_byte, int /*count*/) {
  extern __shared__ __align__(DYNAMIC_SHARED_ALIGNED) unsigned char vitkern_dynamic_shared[];
  return {reinterpret_cast<T*>(vitkern_dynamic_shared + first_byte)};
}

// The first byte of the launch's dynamic shared memory whose address is such a multiple.
template <int ALIGNMENT>
__device__ __forceinline__ int shared_start() {
  if (ALIGNMENT <= DYNAMIC_SHARED_ALIGNED) return 0;
  const unsigned address = dynamic_shared<uint4>(0, 0).address();
  return static_cast<int>(-address & (ALIGNMENT - 1));
}

#define VITKERN_SHARED(T, name, count)   \
  __shared__ __align__(16) T name##_[count]; \
  const ::vitkern::Shared<T> name { name##_ }

inline void check(cudaError_t status) {
  if (status != cudaSuccess) {
    throw Error(std::string("CUDA: ") + cudaGetErrorString(status));
  }
}

// torch has made it current already, but this library's copy of the runtime need not know.
inline void use_device(int device) { check(cudaSetDevice(device)); }

constexpr std::size_t SHARED_WITHOUT_ASKING = 48 * 1024;

// Launches on the stream, which is of the current device, and does not wait.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, int threads, std::size_t shared, Stream stream,
            const A&... arguments) {
  if (shared > SHARED_WITHOUT_ASKING) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)));
  }
  kernel<<<grid, threads, shared, stream>>>(arguments...);
  check(cudaGetLastError());
}

#endif

}  // namespace vitkern
