// Tiles of rows of heads in shared memory: loading them, and the two products that attention is
// made of. A block has OWN rows, 16 a warp, and goes over other rows in tiles.
#pragma once

#include "ptx.cuh"
#include "softmax.cuh"

namespace vitkern {

constexpr int OWN = 64;  // rows of a block
constexpr int OWN_THREADS = OWN / 16 * WARP;
constexpr int HEAD_CHUNK = 16;          // bytes
constexpr int LEAST_SHARED = 99 * 1024;  // bytes that a block may have on every architecture

// A row of a head in memory; where it is not there it counts as zeros, and `data` is any address
// that is aligned as rows are.
template <class T>
struct HeadRow {
  const T* data;
  bool there;
};

// How heads are computed with: T in memory; M is what an mma takes, or void for float32 without;
// SIZE elements, of which those beyond the head's are zeros.
template <class T_, class M_, int SIZE_>
struct Head {
  using T = T_;
  using M = M_;
  static constexpr int SIZE = SIZE_;
  static constexpr int IN_CHUNK = HEAD_CHUNK / sizeof(T);
  static constexpr int CHUNKS = SIZE / IN_CHUNK;
  // Eight rows of one chunk lie in different banks, and so do eight chunks that are copied together:
  // chunks are exchanged according to the row or, where eight fit, rows are an odd number apart.
  static constexpr bool EXCHANGED = CHUNKS % 8 == 4;
  static constexpr int PITCH = EXCHANGED ? CHUNKS : CHUNKS + 1;
  static_assert(EXCHANGED ? sizeof(T) == 2 : CHUNKS % 8 == 0);
  static constexpr int ROW_BYTES = PITCH * HEAD_CHUNK;
  static constexpr int TILES = SIZE / 8;  // of an mma's columns

  // The place of a chunk in a tile, in chunks. In float32 those of a row are side by side.
  __device__ static __forceinline__ int place(int row, int chunk) {
    return row * PITCH + (EXCHANGED ? chunk ^ (row >> 1 & 3) : chunk);
  }
  __device__ static __forceinline__ Shared<uint4> tile(int byte, int rows) {
    return dynamic_shared<uint4>(byte, rows * PITCH);
  }
};

__device__ __forceinline__ int warp_row() { return static_cast<int>(threadIdx.x) / WARP * 16; }

// A chunk of a row of a tile. `aligned`: rows and the head's `size` are of whole chunks, which are
// copied asynchronously.
template <class H>
__device__ __forceinline__ void load_chunk(Shared<uint4> tile, int row, int chunk, int size,
                                           bool aligned, const HeadRow<typename H::T>& from) {
  using T = typename H::T;
  const int at = chunk * H::IN_CHUNK;
  const bool there = from.there && at < size;
  if (aligned) {
    copy_async(tile + H::place(row, chunk), there ? from.data + at : from.data, there);
    return;
  }
  Pack<T, H::IN_CHUNK> values;
#pragma unroll
  for (int e = 0; e < H::IN_CHUNK; ++e) {
    values.element[e] = there && at + e < size ? from.data[at + e] : from_float<T>(0.0f);
  }
  tile.as<Pack<T, H::IN_CHUNK>>()[H::place(row, chunk)] = values;
}

// ROWS rows from `first` on; row_of(i) is a HeadRow.
template <class H, int ROWS, class RowOf>
__device__ __forceinline__ void load_rows(Shared<uint4> tile, int first, int size, bool aligned,
                                          const RowOf& row_of) {
  static_assert(ROWS * H::CHUNKS % OWN_THREADS == 0);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < ROWS * H::CHUNKS; i += OWN_THREADS) {
    const int row = i / H::CHUNKS;
    load_chunk<H>(tile, row, i % H::CHUNKS, size, aligned, row_of(first + row));
  }
}

// Two adjacent elements of an mma's operand.
template <class T>
__device__ __forceinline__ unsigned pair_of(float first, float second) {
#ifdef VITKERN_EMULATED
  return from_float<T>(first).bits | static_cast<unsigned>(from_float<T>(second).bits) << 16;
#else
  if constexpr (std::is_same_v<T, Half>) {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const unsigned*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
#endif
}

template <class M>
__device__ __forceinline__ void as_operand(unsigned (&r)[4]) {
  if constexpr (std::is_same_v<M, Tf32>) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = round_to_tf32(r[i]);
  }
}

// scores += own rows . other rows, for the warp's own rows and all of the other tile.
template <class H, int OTHERS, bool KEYS>
__device__ __forceinline__ void add_row_products(Scores<OTHERS, KEYS>& scores, Shared<uint4> own,
                                                 Shared<uint4> other) {
  using M = typename H::M;
  const int lane = static_cast<int>(threadIdx.x) % WARP;
  if constexpr (!std::is_void_v<M>) {
#pragma unroll
    for (int slice = 0; slice < H::CHUNKS / 2; ++slice) {
      unsigned left[4];
      load_matrices(left, own + H::place(warp_row() + lane % 16, 2 * slice + lane / 16));
      as_operand<M>(left);
#pragma unroll
      for (int n = 0; n < OTHERS / 16; ++n) {
        unsigned right[4];
        const int row = 16 * n + lane % 8 + lane / 16 * 8;
        load_matrices(right, other + H::place(row, 2 * slice + lane / 8 % 2));
        as_operand<M>(right);
        multiply<M>(scores.of[2 * n], left, right[0], right[1]);
        multiply<M>(scores.of[2 * n + 1], left, right[2], right[3]);
      }
    }
  } else {
    const auto rows = own.template as<float4>(), columns = other.template as<float4>();
    const int row = warp_row() + lane_row();
#pragma unroll 1
    for (int chunk = 0; chunk < H::CHUNKS; ++chunk) {
      const float4 a[2] = {rows[H::place(row, chunk)], rows[H::place(row + 8, chunk)]};
#pragma unroll
      for (int n = 0; n < scores.TILES; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float4 b = columns[H::place(scores.column(n, e), chunk)];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float& sum = scores.of[n][2 * r + e];
            sum = fmaf(a[r].x, b.x, sum);
            sum = fmaf(a[r].y, b.y, sum);
            sum = fmaf(a[r].z, b.z, sum);
            sum = fmaf(a[r].w, b.w, sum);
          }
        }
      }
    }
  }
}

// sums += weights other rows: 16 rows of SIZE elements a warp, as an mma gives them.
template <class H, int OTHERS, bool KEYS>
__device__ __forceinline__ void add_weighted_rows(float (&sums)[H::TILES][4],
                                                  const Scores<OTHERS, KEYS>& weights,
                                                  Shared<uint4> other) {
  using M = typename H::M;
  const int lane = static_cast<int>(threadIdx.x) % WARP;
  const auto& w = weights.of;
  if constexpr (std::is_void_v<M>) {
    const auto pairs = other.template as<float2>();
#pragma unroll 1
    for (int owner = 0; owner < 4; ++owner) {  // the lane, of four, that has the weights
      const int from = lane - lane % 4 + owner;
#pragma unroll
      for (int n = 0; n < weights.TILES; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float upper = __shfl_sync(ALL_LANES, w[n][e], from);
          const float lower = __shfl_sync(ALL_LANES, w[n][2 + e], from);
          const int row = 8 * n + 2 * owner + e;
#pragma unroll
          for (int d = 0; d < H::TILES; ++d) {
            const float2 value = pairs[H::place(row, 2 * d) * 2 + lane % 4];
            sums[d][0] = fmaf(upper, value.x, sums[d][0]);
            sums[d][1] = fmaf(upper, value.y, sums[d][1]);
            sums[d][2] = fmaf(lower, value.x, sums[d][2]);
            sums[d][3] = fmaf(lower, value.y, sums[d][3]);
          }
        }
      }
    }
  } else if constexpr (std::is_same_v<M, Tf32>) {
    // Column 2t of the weights is the mma's t, 2t + 1 its t + 4: where the thread has them. Which
    // row of `other` stands where follows from that.
    const auto elements = other.template as<unsigned>();
#pragma unroll
    for (int n = 0; n < weights.TILES; ++n) {
      unsigned left[4] = {__float_as_uint(w[n][0]), __float_as_uint(w[n][2]),
                          __float_as_uint(w[n][1]), __float_as_uint(w[n][3])};
      as_operand<M>(left);
      const int row = 8 * n + lane_pair();
#pragma unroll
      for (int d = 0; d < H::TILES; ++d) {
        const int column = 8 * d + lane_row();
        const unsigned b0 = elements[H::place(row, 0) * 4 + column];
        const unsigned b1 = elements[H::place(row + 1, 0) * 4 + column];
        multiply<M>(sums[d], left, round_to_tf32(b0), round_to_tf32(b1));
      }
    }
  } else {
#pragma unroll
    for (int n = 0; n < weights.TILES / 2; ++n) {
      const auto &a = w[2 * n], &b = w[2 * n + 1];
      const unsigned left[4] = {pair_of<M>(a[0], a[1]), pair_of<M>(a[2], a[3]),
                                pair_of<M>(b[0], b[1]), pair_of<M>(b[2], b[3])};
#pragma unroll
      for (int d = 0; d < H::TILES / 2; ++d) {
        unsigned right[4];
        load_matrices_transposed(right, other + H::place(16 * n + lane % 16, 2 * d + lane / 16));
        multiply<M>(sums[2 * d], left, right[0], right[1]);
        multiply<M>(sums[2 * d + 1], left, right[2], right[3]);
      }
    }
  }
}

// Stores the thread's part of 16 rows, times a factor a row; row_of(i) is where one goes, or null.
template <class H, class RowOf>
__device__ __forceinline__ void store_rows(const float (&sums)[H::TILES][4], int first, int size,
                                           const float (&factor)[2], const RowOf& row_of) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    auto* to = row_of(first + warp_row() + lane_row() + 8 * r);
    using To = std::remove_pointer_t<decltype(to)>;
    if (to == nullptr) continue;
#pragma unroll
    for (int d = 0; d < H::TILES; ++d) {
      const int at = 8 * d + lane_pair();
      const float pair[2] = {sums[d][2 * r] * factor[r], sums[d][2 * r + 1] * factor[r]};
      if (size % 2 == 0) {
        if (at < size) store(to + at, pair);
      } else {
        if (at < size) to[at] = from_float<To>(pair[0]);
        if (at + 1 < size) to[at + 1] = from_float<To>(pair[1]);
      }
    }
  }
}

// Shared memory of a block: what is there all the time, such as tiles of OWN rows, then stages of
// STAGE_BYTES that tiles of other rows go through: two, if they fit.
template <class H, int FIXED_BYTES_, int STAGE_BYTES_>
struct Stages {
  static constexpr int FIXED_BYTES = FIXED_BYTES_, STAGE_BYTES = STAGE_BYTES_;
  static constexpr int COUNT = FIXED_BYTES + 2 * STAGE_BYTES <= LEAST_SHARED ? 2 : 1;
  static_assert(FIXED_BYTES + COUNT * STAGE_BYTES <= LEAST_SHARED);

  static int bytes(int64_t steps) {
    return FIXED_BYTES + static_cast<int>(steps < COUNT ? steps : COUNT) * STAGE_BYTES;
  }
  __device__ static __forceinline__ Shared<uint4> fixed(int number) {
    return H::tile(number * OWN * H::ROW_BYTES, OWN);
  }
  // The first byte of the stage of a step.
  __device__ static __forceinline__ int stage(int step) {
    return FIXED_BYTES + step % COUNT * STAGE_BYTES;
  }

  // load(step) of every step and then use(step), with the next step's load under way; copies that
  // were begun before are waited for too.
  template <class Load, class Use>
  __device__ static __forceinline__ void run(int steps, const Load& load, const Use& use) {
    if (steps > 0) load(0);
    commit_copies();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      wait_for_copies<0>();
      __syncthreads();  // all see this stage, and have read the one that is loaded next
      if (COUNT > 1 && step + 1 < steps) load(step + 1);
      commit_copies();
      use(step);
      if (COUNT == 1 && step + 1 < steps) {
        __syncthreads();
        load(step + 1);
        commit_copies();
      }
    }
    wait_for_copies<0>();
  }
};

// One block after another.
inline dim3 grid_of(int64_t blocks) {
  if (blocks > 0x7fffffff) throw Error("a grid of " + std::to_string(blocks) + " blocks");
  return dim3(static_cast<unsigned>(blocks));
}

// function(Type<Head<T, M, SIZE>>()), if the head fits and nothing `found` one yet. In float32 only
// powers of two are sizes, to have fewer kernels.
template <class T, class M, int SIZE, class Function>
void try_head(int64_t head_dim, bool& found, const Function& function) {
  if constexpr (sizeof(T) == 2 || (SIZE & (SIZE - 1)) == 0) {
    if (found || head_dim > SIZE) return;
    found = true;
    function(Type<Head<T, M, SIZE>>());
  }
}

// function(Type<Head>()) for the format, whether products may be in tf32, and the smallest of SIZES
// that the head fits.
template <int... SIZES, class Function>
void with_head(int32_t format, bool tf32, int64_t head_dim, const Function& function) {
  bool found = false;
  with_format(format, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (!std::is_same_v<T, float>) {
      (try_head<T, T, SIZES>(head_dim, found, function), ...);
    } else if (tf32) {
      (try_head<T, Tf32, SIZES>(head_dim, found, function), ...);
    } else {
      (try_head<T, void, SIZES>(head_dim, found, function), ...);
    }
  });
  if (!found) throw Error("a head of " + std::to_string(head_dim) + " elements");
}

}  // namespace vitkern
