// The product of two matrices whose rows are along k, tile by tile, with an epilogue.
//
// A tile's operands go through a ring of stages in shared memory, each 64 bytes of k deep: while one
// is multiplied, the next are on their way. A row's four chunks of 16 bytes are exchanged according
// to the row, so that eight rows of one chunk lie in different banks. warpgroups.cuh has the tiles of
// Hopper, whose stages are 128 bytes of k deep.
#pragma once

#include "entry.cuh"
#include "epilogue.cuh"
#include "ptx.cuh"

namespace vitkern {

constexpr int CHUNK = 16;                  // bytes
constexpr int CHUNKS = 4;                  // of a row in a stage
constexpr int SLICES = CHUNKS / 2;         // an mma takes 32 bytes of k
constexpr int STEP_BYTES = CHUNK * CHUNKS;

// The place of a chunk in a tile, in chunks.
__device__ __forceinline__ int place_of(int row, int chunk) {
  return row * CHUNKS + (chunk ^ (row >> 1 & 3));
}

// The place of an element of the result in shared memory: fours of columns are exchanged according
// to the row, so that what the lanes of an mma have of some rows lies in different banks.
template <int COLUMNS>
__device__ __forceinline__ int sum_place(int row, int column) {
  return row * COLUMNS + ((column / QUAD ^ (row % 4 * 2)) * QUAD + column % QUAD);
}

template <class Tiles>
struct TensorCoreTile;
template <class Tiles>
struct FmaTile;

// How a product is computed: T in memory; M is what an mma takes, or void for float32 without.
// Warps of (ROWS_ x COLUMNS_) / (WARP_ROWS_ x WARP_COLUMNS_). ALIGNED_: chunks can be copied whole.
template <class T_, class M_, int ROWS_, int COLUMNS_, int WARP_ROWS_, int WARP_COLUMNS_,
          int STAGES_, bool ALIGNED_>
struct Tiling {
  using T = T_;
  using M = M_;
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_;
  static constexpr int WARP_ROWS = WARP_ROWS_, WARP_COLUMNS = WARP_COLUMNS_;
  static constexpr int STAGES = STAGES_;
  static constexpr bool ALIGNED = ALIGNED_;
  static constexpr int CHUNKS = vitkern::CHUNKS, FIRST_ALIGNED = 128;
  static constexpr int WARPS_DOWN = ROWS / WARP_ROWS, WARPS_ACROSS = COLUMNS / WARP_COLUMNS;
  static constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * WARP;
  static constexpr int IN_CHUNK = CHUNK / sizeof(T);
  static constexpr int STEP = STEP_BYTES / sizeof(T);  // elements of k in a stage
  static constexpr int STAGE_BYTES = (ROWS + COLUMNS) * STEP_BYTES;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  static_assert(ROWS * COLUMNS * static_cast<int>(sizeof(float)) <= SHARED_BYTES);
  using Result =
      std::conditional_t<std::is_void_v<M>, FmaTile<Tiling>, TensorCoreTile<Tiling>>;

  __device__ static __forceinline__ int place(int row, int chunk) { return place_of(row, chunk); }
  // After the wait for a stage and before the barrier.
  __device__ static __forceinline__ void publish() {}
};

// A source of rows tells where element (row, k) is: data[row_offset(row) + step_offset(k)].
template <class T>
struct MatrixRows {
  const T* data;
  int64_t row, step;  // between rows, and between elements of a row

  __device__ __forceinline__ int64_t row_offset(int64_t r) const { return r * row; }
  __device__ __forceinline__ int64_t step_offset(int64_t k) const { return k * step; }
};

// A tile's rows on their way from global memory to a stage.
template <class Tiles, class Source, int ROWS>
struct Loader {
  using T = typename Tiles::T;
  // Chunks or, where these cannot be copied whole, elements: of the tile, and of one thread.
  static constexpr int IN_ROW = Tiles::ALIGNED ? Tiles::CHUNKS : Tiles::STEP;
  static constexpr int EACH = ROWS * IN_ROW / Tiles::THREADS;
  static constexpr int APART = Tiles::THREADS / IN_ROW;  // rows from one to the thread's next
  static_assert(ROWS * IN_ROW % Tiles::THREADS == 0 && Tiles::THREADS % IN_ROW == 0);

  const Source& source;
  int first_row, in_row;
  int64_t k, offsets[EACH];  // -1 beyond the last row

  __device__ __forceinline__ Loader(const Source& source, int64_t begin, int64_t rows, int64_t k)
      : source(source),
        first_row(static_cast<int>(threadIdx.x) / IN_ROW),
        in_row(static_cast<int>(threadIdx.x) % IN_ROW),
        k(k) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int64_t row = begin + first_row + i * APART;
      offsets[i] = row < rows ? source.row_offset(row) : -1;
    }
  }

  // The rows of k from `start` on, zeros beyond what there is.
  __device__ __forceinline__ void operator()(Shared<uint4> tile, int64_t start) const {
    const int64_t at = start + in_row * (Tiles::ALIGNED ? Tiles::IN_CHUNK : 1);
    const int64_t step = source.step_offset(at < k ? at : 0);
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int row = first_row + i * APART;
      const bool there = offsets[i] >= 0 && at < k;
      const T* from = source.data + (there ? offsets[i] + step : 0);
      if constexpr (Tiles::ALIGNED) {
        copy_async(tile + Tiles::place(row, in_row), from, there);
      } else {
        const int within = in_row % Tiles::IN_CHUNK;
        const int to = Tiles::place(row, in_row / Tiles::IN_CHUNK) * Tiles::IN_CHUNK + within;
        tile.template as<T>()[to] = there ? *from : from_float<T>(0.0f);
      }
    }
  }
};

// A warp's part of a tile in registers, by tensor cores.
template <class Tiles>
struct TensorCoreTile {
  using M = typename Tiles::M;
  static constexpr int DOWN = Tiles::WARP_ROWS / 16, ACROSS = Tiles::WARP_COLUMNS / 8;
  float sum[DOWN][ACROSS][4] = {};

  __device__ static int first_row() {
    return static_cast<int>(threadIdx.x) / WARP / Tiles::WARPS_ACROSS * Tiles::WARP_ROWS;
  }
  __device__ static int first_column() {
    return static_cast<int>(threadIdx.x) / WARP % Tiles::WARPS_ACROSS * Tiles::WARP_COLUMNS;
  }

  __device__ __forceinline__ static void fetch(unsigned (&r)[4], Shared<uint4> tile, int row,
                                               int chunk) {
    load_matrices(r, tile + place_of(row, chunk));
    if constexpr (std::is_same_v<M, Tf32>) {
#pragma unroll
      for (int i = 0; i < 4; ++i) r[i] = round_to_tf32(r[i]);
    }
  }

  __device__ __forceinline__ void add(Shared<uint4> a, Shared<uint4> b) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll
    for (int slice = 0; slice < SLICES; ++slice) {
      unsigned left[DOWN][4], right[ACROSS / 2][4];
#pragma unroll
      for (int i = 0; i < DOWN; ++i) {
        fetch(left[i], a, first_row() + 16 * i + lane % 16, 2 * slice + lane / 16);
      }
#pragma unroll
      for (int j = 0; j < ACROSS / 2; ++j) {  // two columns of 8 in one load
        const int column = first_column() + 16 * j + lane % 8 + lane / 16 * 8;
        fetch(right[j], b, column, 2 * slice + lane / 8 % 2);
      }
#pragma unroll
      for (int i = 0; i < DOWN; ++i) {
#pragma unroll
        for (int j = 0; j < ACROSS; ++j) {
          const unsigned* pair = &right[j / 2][j % 2 * 2];
          multiply<M>(sum[i][j], left[i], pair[0], pair[1]);
        }
      }
    }
  }

  // Leaves the sums in shared memory.
  __device__ __forceinline__ void leave(Shared<float> tile) const {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const Shared<float2> pairs = tile.template as<float2>();
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) {
        const int row = first_row() + 16 * i + lane / 4;
        const int column = first_column() + 8 * j + lane % 4 * 2;
        const float(&of)[4] = sum[i][j];
        pairs[sum_place<Tiles::COLUMNS>(row, column) / 2] = make_float2(of[0], of[1]);
        pairs[sum_place<Tiles::COLUMNS>(row + 8, column) / 2] = make_float2(of[2], of[3]);
      }
    }
  }
};

// A thread's part of a tile in registers, in float32 throughout. It is summed in blocks of k, whose
// sums are added: errors grow with the length of a sum.
template <class Tiles>
struct FmaTile {
  static constexpr int LANES_ACROSS = 16;
  static constexpr int LANES_DOWN = Tiles::THREADS / LANES_ACROSS;
  static constexpr int DOWN = Tiles::ROWS / LANES_DOWN;
  static constexpr int ACROSS = Tiles::COLUMNS / LANES_ACROSS;
  static constexpr int STEPS_IN_BLOCK = 16;
  float sum[DOWN][ACROSS] = {}, blocks[DOWN][ACROSS] = {};
  int steps = 0;

  __device__ static int row_of(int i) {
    return static_cast<int>(threadIdx.x) / LANES_ACROSS + i * LANES_DOWN;
  }
  __device__ static int column_of(int j) {
    return static_cast<int>(threadIdx.x) % LANES_ACROSS + j * LANES_ACROSS;
  }

  __device__ __forceinline__ void add(Shared<uint4> a, Shared<uint4> b) {
    const Shared<float4> left = a.template as<float4>(), right = b.template as<float4>();
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      float4 columns[ACROSS];
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) columns[j] = right[place_of(column_of(j), chunk)];
#pragma unroll
      for (int i = 0; i < DOWN; ++i) {
        const float4 row = left[place_of(row_of(i), chunk)];
#pragma unroll
        for (int j = 0; j < ACROSS; ++j) {
          sum[i][j] = fmaf(row.x, columns[j].x, sum[i][j]);
          sum[i][j] = fmaf(row.y, columns[j].y, sum[i][j]);
          sum[i][j] = fmaf(row.z, columns[j].z, sum[i][j]);
          sum[i][j] = fmaf(row.w, columns[j].w, sum[i][j]);
        }
      }
    }
    if (++steps % STEPS_IN_BLOCK != 0) return;
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) {
        blocks[i][j] += sum[i][j];
        sum[i][j] = 0.0f;
      }
    }
  }

  __device__ __forceinline__ void leave(Shared<float> tile) const {
#pragma unroll
    for (int i = 0; i < DOWN; ++i) {
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) {
        tile[sum_place<Tiles::COLUMNS>(row_of(i), column_of(j))] = blocks[i][j] + sum[i][j];
      }
    }
  }
};

// The tile of a block: eight rows of tiles share their columns' operands in the cache.
struct TilePlace {
  static constexpr int TOGETHER = 8;
  int64_t row, column;

  __device__ __forceinline__ TilePlace(int64_t number, int64_t down, int64_t across) {
    const int64_t group = number / (TOGETHER * across);
    const int64_t first = group * TOGETHER;
    const int64_t height = down - first < TOGETHER ? down - first : TOGETHER;
    const int64_t within = number - group * TOGETHER * across;
    row = first + within % height;
    column = within / height;
  }
};

// `steps_each` of k are of a block, in turns of all tiles: one turn, or what follows is told which.
template <class Tiles, class Rows, class Columns, class After>
__global__ void __launch_bounds__(Tiles::THREADS)
    gemm_kernel(const Rows rows, const Columns columns, const After epilogue, int64_t k,
                int steps_each) {
  const int64_t down = ceil_div(epilogue.m, Tiles::ROWS);
  const int64_t across = ceil_div(epilogue.n, Tiles::COLUMNS);
  const int64_t turn = blockIdx.x / (down * across);
  const TilePlace tile(blockIdx.x - turn * (down * across), down, across);
  const int64_t first_row = tile.row * Tiles::ROWS, first_column = tile.column * Tiles::COLUMNS;
  constexpr int A_BYTES = Tiles::ROWS * Tiles::CHUNKS * CHUNK;
  const int start = shared_start<Tiles::FIRST_ALIGNED>();
  const auto a_of = [=](int stage) {
    return dynamic_shared<uint4>(start + stage * Tiles::STAGE_BYTES, Tiles::ROWS * Tiles::CHUNKS);
  };
  const auto b_of = [=](int stage) {
    return dynamic_shared<uint4>(start + stage * Tiles::STAGE_BYTES + A_BYTES,
                                 Tiles::COLUMNS * Tiles::CHUNKS);
  };
  const Loader<Tiles, Rows, Tiles::ROWS> load_a(rows, first_row, epilogue.m, k);
  const Loader<Tiles, Columns, Tiles::COLUMNS> load_b(columns, first_column, epilogue.n, k);
  const int first_step = static_cast<int>(turn) * steps_each;
  const int steps = min(static_cast<int>(ceil_div(k, Tiles::STEP)) - first_step, steps_each);
  const auto load_stage = [&](int step) {
    if (step < steps) {
      const int64_t start = static_cast<int64_t>(first_step + step) * Tiles::STEP;
      load_a(a_of(step % Tiles::STAGES), start);
      load_b(b_of(step % Tiles::STAGES), start);
    }
    commit_copies();  // an empty group too: groups are counted
  };

  typename Tiles::Result result;
  for (int step = 0; step < Tiles::STAGES - 1; ++step) load_stage(step);
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<Tiles::STAGES - 2>();
    Tiles::publish();
    __syncthreads();  // all see this stage, and have read the one that is loaded next
    load_stage(step + Tiles::STAGES - 1);
    result.add(a_of(step % Tiles::STAGES), b_of(step % Tiles::STAGES));
  }
  wait_for_copies<0>();
  __syncthreads();  // all have read the last stage, which the sums take the place of
  const auto sums = dynamic_shared<float>(0, Tiles::ROWS * Tiles::COLUMNS);
  result.leave(sums);
  __syncthreads();
  constexpr int ACROSS = Tiles::COLUMNS / QUAD;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Tiles::ROWS * ACROSS; i += Tiles::THREADS) {
    const int row = i / ACROSS, column = i % ACROSS * QUAD;
    const float4 sum = sums.template as<float4>()[sum_place<Tiles::COLUMNS>(row, column) / QUAD];
    float values[QUAD] = {sum.x, sum.y, sum.z, sum.w};
    epilogue(first_row + row, first_column + column, values, turn);
  }
}

// The tilings of a float32, half or bfloat16 product. Wide ones where they fill the card.
template <class T, class M>
struct Tilings {
  using Large = Tiling<T, M, 128, 128, 64, 32, 4, true>;
  using Medium = Tiling<T, M, 128, 64, 64, 32, 4, true>;
  using Small = Tiling<T, M, 64, 64, 32, 32, 4, true>;
  using Scattered = Tiling<T, M, 64, 64, 32, 32, 2, false>;
};

// `splits`: blocks that share a tile's k.
template <class Tiles, class Rows, class Columns, class After>
void launch_gemm(const Rows& rows, const Columns& columns, const After& epilogue, int64_t k,
                 Stream stream, int64_t splits = 1) {
  const int64_t tiles = ceil_div(epilogue.m, Tiles::ROWS) * ceil_div(epilogue.n, Tiles::COLUMNS);
  const int64_t each = ceil_div(ceil_div(k, Tiles::STEP), splits);
  launch(gemm_kernel<Tiles, Rows, Columns, After>, dim3(static_cast<unsigned>(tiles * splits)),
         Tiles::THREADS, Tiles::SHARED_BYTES, stream, rows, columns, epilogue, k,
         static_cast<int>(each));
}

// Fields of every product: b (n, k), its rows b_row elements apart. `aligned`: chunks of both
// operands can be copied whole; `processors`: of the card; `tf32`: float32 may become that.
#define GEMM_FIELDS(FIELD)                                                                  \
  FIELD(const void*, b) FIELD(int64_t, b_row) FIELD(int64_t, b_step) FIELD(int64_t, m)      \
  FIELD(int64_t, n) FIELD(int64_t, k) FIELD(int32_t, format) FIELD(int32_t, aligned)        \
  FIELD(int32_t, processors) FIELD(int32_t, tf32) EPILOGUE_FIELDS(FIELD)

// The product of two matrices: a (m, k), rows a_row and columns a_step elements apart. `warpgroups`:
// the card is a Hopper. `splits`: of k, whose sums go to partial (splits, m, n) float32 if there are
// more than one.
#define MATRIX_GEMM_FIELDS(FIELD)                                                           \
  FIELD(const void*, a) FIELD(int64_t, a_row) FIELD(int64_t, a_step) FIELD(void*, partial)  \
  FIELD(int64_t, splits) FIELD(int32_t, warpgroups) GEMM_FIELDS(FIELD)
VITKERN_PARAMS(Gemm, MATRIX_GEMM_FIELDS)

// Calls function(type, type of operand) for the format and the kind of product.
template <class Params, class Function>
void with_product(const Params& p, Function function) {
  switch (static_cast<Format>(p.format)) {
    case Format::float16: return function(Type<Half>(), Type<Half>());
    case Format::bfloat16: return function(Type<Bfloat>(), Type<Bfloat>());
    case Format::float32:
      return p.tf32 != 0 ? function(Type<float>(), Type<Tf32>())
                         : function(Type<float>(), Type<void>());
  }
  throw Error("format " + std::to_string(p.format));
}

// Whether tiles of that size are enough for every processor.
template <class Tiles, class Params>
bool fills(const Params& p) {
  return ceil_div(p.m, Tiles::ROWS) * ceil_div(p.n, Tiles::COLUMNS) >= p.processors;
}

}  // namespace vitkern
