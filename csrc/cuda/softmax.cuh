// A tile of scores in the registers of a warp, and what attention does with it: softmax step by
// step, its weights a second time, its gradient.
//
// Scores are natural logarithms. Minus infinity is a key that is not there; a row that has none is
// zeros and passes no gradient.
#pragma once

#include <cmath>

#include "numeric.cuh"

namespace vitkern {

constexpr float LOG2E = 1.4426950408889634f;

__device__ __forceinline__ float exponential(float x) { return exp2f(x * LOG2E); }

__device__ __forceinline__ int lane_row() { return static_cast<int>(threadIdx.x) % WARP / 4; }
__device__ __forceinline__ int lane_pair() { return static_cast<int>(threadIdx.x) % 4 * 2; }

// 16 rows by COLUMNS: a thread has what an mma gives it. Rows are queries and columns keys, or the
// reverse where ROWS_ARE_KEYS; `first_row` and `first_column` are of the thread's first score.
template <int COLUMNS, bool ROWS_ARE_KEYS = false>
struct Scores {
  static constexpr int TILES = COLUMNS / 8;
  float of[TILES][4] = {};
  int first_row, first_column;

  __device__ __forceinline__ Scores(int row, int column)
      : first_row(row + lane_row()), first_column(column + lane_pair()) {}

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) of[n][e] = 0.0f;
    }
  }
  // Of a score, from the tile's first.
  __device__ static __forceinline__ int column(int tile, int element) {
    return 8 * tile + lane_pair() + element % 2;
  }

  // function(query, key, score) for each of the thread's scores.
  template <class Function>
  __device__ __forceinline__ void each(const Function& function) {
    each([](int place) { return place; }, function);
  }
  // The same with what `about` tells of query and key, which it is asked for once.
  template <class About, class Function>
  __device__ __forceinline__ void each(const About& about, const Function& function) {
    using Told = decltype(about(0));
    const Told rows[2] = {about(first_row), about(first_row + 8)};
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
      const int column = first_column + 8 * n;
      const Told columns[2] = {about(column), about(column + 1)};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if constexpr (ROWS_ARE_KEYS) {
          function(columns[e % 2], rows[e / 2], of[n][e]);
        } else {
          function(rows[e / 2], columns[e % 2], of[n][e]);
        }
      }
    }
  }
};

// Over the four lanes that share a row.
__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(ALL_LANES, value, 1);
  return value + __shfl_xor_sync(ALL_LANES, value, 2);
}
__device__ __forceinline__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
  return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// Softmax of the thread's two rows, whose keys come a tile at a time.
struct RunningSoftmax {
  float highest[2] = {-INFINITY, -INFINITY};
  float total[2] = {};  // of this thread's columns

  // Makes scores weights, before the division. What was summed with the weights so far is to be
  // multiplied with `correction`.
  template <int COLUMNS>
  __device__ __forceinline__ void step(Scores<COLUMNS>& scores, float (&correction)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float higher = highest[r];
#pragma unroll
      for (int n = 0; n < scores.TILES; ++n) {
        higher = fmaxf(higher, fmaxf(scores.of[n][2 * r], scores.of[n][2 * r + 1]));
      }
      higher = row_max(higher);
      const float base = higher == -INFINITY ? 0.0f : higher;
      correction[r] = exponential(highest[r] - base);
      highest[r] = higher;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < scores.TILES; ++n) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          scores.of[n][e] = exponential(scores.of[n][e] - base);
          sum += scores.of[n][e];
        }
      }
      total[r] = total[r] * correction[r] + sum;
    }
  }

  // After the last step: total becomes the rows'.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int r = 0; r < 2; ++r) total[r] = row_sum(total[r]);
  }
  // What sums of weighted values are divided by.
  __device__ __forceinline__ float divisor(int r) const {
    return total[r] == 0.0f ? 1.0f : total[r];
  }
  // The logarithm of the sum of exponentials, for `weight_again`; of a row without a key plus
  // infinity, from which its weights come out as zeros.
  __device__ __forceinline__ float log_sum(int r) const {
    return total[r] == 0.0f ? INFINITY : highest[r] + logf(total[r]);
  }
};

// A weight, divided. Products summed in another order than in forward can give a score beyond the
// sum of all: the limit keeps huge ones from becoming infinite.
__device__ __forceinline__ float weight_again(float score, float log_sum) {
  return exponential(fminf(score - log_sum, 0.0f));
}

// The gradient of a score; `delta` is its row's sum of dout times out.
__device__ __forceinline__ float score_gradient(float weight, float dweight, float delta) {
  return weight * (dweight - delta);
}

}  // namespace vitkern
