// Products of few tiles and a long k: several blocks share a tile, each has a part of k. Their sums are
// added afterwards, in a fixed order, and then the epilogue follows.
#pragma once

#include "gemm.cuh"

namespace vitkern {

// Instead of an epilogue: leaves the sums of a part of k.
struct PartialSums {
  float* data;
  int64_t m, n;

  __device__ __forceinline__ void operator()(int64_t row, int64_t column, float (&v)[QUAD],
                                             int64_t turn) const {
    if (row >= m || column >= n) return;
    float* to = data + (turn * m + row) * n + column;
    if (n % QUAD == 0) return store(to, v);
#pragma unroll
    for (int i = 0; i < QUAD; ++i) {
      if (column + i < n) to[i] = v[i];
    }
  }
};

constexpr int FINISH_THREADS = 128;

// A thread has QUAD neighbours of a row.
template <class T>
__global__ void __launch_bounds__(FINISH_THREADS)
    gemm_finish_kernel(const PartialSums sums, const Epilogue<T> epilogue, int64_t splits) {
  const int64_t across = ceil_div(sums.n, QUAD);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * FINISH_THREADS + threadIdx.x;
  const int64_t row = at / across, column = (at - row * across) * QUAD;
  if (row >= sums.m) return;
  float total[QUAD] = {};
  for (int64_t split = 0; split < splits; ++split) {
    const float* from = sums.data + (split * sums.m + row) * sums.n + column;
    float part[QUAD] = {};
    if (sums.n % QUAD == 0) {
      load(part, from);
    } else {
#pragma unroll
      for (int i = 0; i < QUAD; ++i) {
        if (column + i < sums.n) part[i] = from[i];
      }
    }
#pragma unroll
    for (int i = 0; i < QUAD; ++i) total[i] += part[i];
  }
  epilogue(row, column, total);
}

template <class Tiles, class Rows, class Columns, class T>
void launch_split_gemm(const Rows& rows, const Columns& columns, const Epilogue<T>& epilogue,
                       float* partial, int64_t splits, int64_t k, Stream stream) {
  const PartialSums sums{partial, epilogue.m, epilogue.n};
  launch_gemm<Tiles>(rows, columns, sums, k, stream, splits);
  const int64_t threads = epilogue.m * ceil_div(epilogue.n, QUAD);
  launch(gemm_finish_kernel<T>, dim3(static_cast<unsigned>(ceil_div(threads, FINISH_THREADS))),
         FINISH_THREADS, 0, stream, sums, epilogue, splits);
}

}  // namespace vitkern
