// The instructions of Hopper's tensor cores (sm_90a): PTX on a GPU, its twin in emulation.
//
// wgmma: c (64 x 128) += a (64 x 16) b (128 x 16)^T for 16-bit elements, by 128 threads: the warp
// that is its group's w-th has rows 16 w to 16 w + 15 of c, as 16 products of mma (ptx.cuh) side by
// side. Operands are where descriptors say, in shared memory that the asynchronous proxy reads: what
// threads wrote has to be published to it. The products are under way until they are waited for;
// before that sums must not be touched, nor operands written.
//
// A descriptor of a tile whose rows are 128 bytes of k, "128-byte swizzle", in units of 16 bytes: the
// address (bits 0 to 13); the distance of eight rows and the next eight (32 to 45); kind 1 (62, 63).
// The distance in bits 16 to 29 means nothing for rows of one swizzle's width and is 1 by custom. Of
// an address in such a tile bits 4 to 6 are exchanged with bits 7 to 9, so the tile begins at a
// multiple of 1024 bytes; a step of 32 bytes of k is one of the descriptor's address.
#pragma once

#include "ptx.cuh"

namespace vitkern {

constexpr int WARPGROUP = 4 * WARP, WARPGROUP_ROWS = 64, WARPGROUP_COLUMNS = 128;
constexpr int SWIZZLE_BYTES = 1024;
constexpr uint64_t DESCRIPTOR_SLICE = 32 / 16;

using WarpgroupSums = float[WARPGROUP_COLUMNS / 8][4];

__device__ __forceinline__ uint64_t tile_descriptor(Shared<uint4> tile) {
  return static_cast<uint64_t>((tile.address() & 0x3ffff) >> 4) | uint64_t{1} << 16 |
         static_cast<uint64_t>(SWIZZLE_BYTES >> 4) << 32 | uint64_t{1} << 62;
}

#ifdef VITKERN_EMULATED

inline void publish_to_async_proxy() { emulation::publish(); }
inline void before_warpgroup_products(WarpgroupSums&) { emulation::warpgroup_fence(); }
inline void commit_warpgroup_products() { emulation::commit_products(); }
inline void wait_for_warpgroup_products(WarpgroupSums&) { emulation::wait_for_products(0); }
template <class T>
inline void warpgroup_multiply(WarpgroupSums& c, uint64_t a, uint64_t b) {
  constexpr auto kind =
      std::is_same_v<T, Half> ? emulation::Operand::half : emulation::Operand::bfloat;
  emulation::warpgroup_multiply(&c[0][0], WARPGROUP_COLUMNS, a, b, kind);
}

#else

// What this thread wrote to shared memory, copies that it waited for too.
__device__ __forceinline__ void publish_to_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// The compiler must not move the sums' registers across this.
__device__ __forceinline__ void hold(WarpgroupSums& sums) {
#pragma unroll
  for (auto& four : sums) {
#pragma unroll
    for (float& sum : four) asm volatile("" : "+f"(sum)::"memory");
  }
}
__device__ __forceinline__ void before_warpgroup_products(WarpgroupSums& sums) {
  hold(sums);
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void commit_warpgroup_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void wait_for_warpgroup_products(WarpgroupSums& sums) {
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
  hold(sums);
}

#define VITKERN_FOUR(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define VITKERN_WGMMA(T, type)                                                                   \
  template <>                                                                                    \
  __device__ __forceinline__ void warpgroup_multiply<T>(WarpgroupSums & c, uint64_t a,           \
                                                        uint64_t b) {                            \
    asm volatile(                                                                                \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " "                         \
        "{%0, %1, %2, %3, %4, %5, %6, %7, "  \
        " %8, %9, %10, %11, %12, %13, %14, %15, "  \
        " %16, %17, %18, %19, %20, %21, %22, %23, "  \
        " %24, %25, %26, %27, %28, %29, %30, %31, "  \
        " %32, %33, %34, %35, %36, %37, %38, %39, "  \
        " %40, %41, %42, %43, %44, %45, %46, %47, "  \
        " %48, %49, %50, %51, %52, %53, %54, %55, "  \
        " %56, %57, %58, %59, %60, %61, %62, %63}, "  \
        "%64, %65, 1, 1, 1, 0, 0;\n"                                                             \
        : VITKERN_FOUR(0), VITKERN_FOUR(1), VITKERN_FOUR(2), VITKERN_FOUR(3),                        \
          VITKERN_FOUR(4), VITKERN_FOUR(5), VITKERN_FOUR(6), VITKERN_FOUR(7),                        \
          VITKERN_FOUR(8), VITKERN_FOUR(9), VITKERN_FOUR(10), VITKERN_FOUR(11),                        \
          VITKERN_FOUR(12), VITKERN_FOUR(13), VITKERN_FOUR(14), VITKERN_FOUR(15)                         \
        : "l"(a), "l"(b)                                                                         \
        : "memory");                                                                             \
  }

template <class T>
__device__ __forceinline__ void warpgroup_multiply(WarpgroupSums& c, uint64_t a, uint64_t b);
VITKERN_WGMMA(Half, "f16")
VITKERN_WGMMA(Bfloat, "bf16")
#undef VITKERN_WGMMA
#undef VITKERN_FOUR

#endif

}  // namespace vitkern
