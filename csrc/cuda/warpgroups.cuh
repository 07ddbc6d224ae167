// Products by the tensor cores of Hopper: four warps multiply tiles where they are in shared memory,
// and go on while that is under way.
#pragma once

#include "gemm.cuh"
#include "wgmma.cuh"

namespace vitkern {

// A warp's 16 rows of the 64 that four warps multiply together, as an mma of 16 rows leaves them.
template <class Tiles>
struct WarpgroupTile : TensorCoreTile<Tiles> {
  __device__ __forceinline__ void add(Shared<uint4> a, Shared<uint4> b) {
    const int group = static_cast<int>(threadIdx.x) / WARPGROUP;
    const uint64_t rows = tile_descriptor(a + group * WARPGROUP_ROWS * Tiles::CHUNKS);
    const uint64_t columns = tile_descriptor(b);
    auto& sums = this->sum[0];
    before_warpgroup_products(sums);
#pragma unroll
    for (int slice = 0; slice < Tiles::CHUNKS / 2; ++slice) {
      warpgroup_multiply<typename Tiles::M>(sums, rows + slice * DESCRIPTOR_SLICE,
                                            columns + slice * DESCRIPTOR_SLICE);
    }
    commit_warpgroup_products();
    wait_for_warpgroup_products(sums);
  }
};

// 128 x 128 by two groups of four warps. Tiles are swizzled as wgmma wants them: of 128 bytes of a
// row, chunks are exchanged by all three bits of the row.
template <class T_>
struct WarpgroupTiling {
  using T = T_;
  using M = T_;
  static constexpr int ROWS = 2 * WARPGROUP_ROWS, COLUMNS = WARPGROUP_COLUMNS;
  static constexpr int WARP_ROWS = 16, WARP_COLUMNS = COLUMNS, WARPS_ACROSS = 1;
  static constexpr int THREADS = 2 * WARPGROUP, STAGES = 3;
  static constexpr bool ALIGNED = true;
  static constexpr int CHUNKS = 8, IN_CHUNK = CHUNK / sizeof(T), STEP = CHUNKS * IN_CHUNK;
  static constexpr int STAGE_BYTES = (ROWS + COLUMNS) * CHUNKS * CHUNK;
  static constexpr int FIRST_ALIGNED = SWIZZLE_BYTES;
  // The dynamic shared memory need not begin at a multiple of SWIZZLE_BYTES.
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + SWIZZLE_BYTES;
  static_assert(STAGE_BYTES % SWIZZLE_BYTES == 0);
  using Result = WarpgroupTile<WarpgroupTiling>;

  __device__ static __forceinline__ int place(int row, int chunk) {
    return row * CHUNKS + (chunk ^ (row & 7));
  }
  __device__ static __forceinline__ void publish() { publish_to_async_proxy(); }
};

}  // namespace vitkern
