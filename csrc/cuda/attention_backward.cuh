// Attention of any kind, backward, in kernels that write each result once: no atomics. Every kernel
// makes the scores it needs again, from what forward kept of each row.
//
// Beyond what attention_forward.cuh needs of a Space: `lse`, `delta`, `dscores` and the bias sums;
// and of its pairs
//   dout(i)                            HeadRow, not there where out(i) is null
//   store_dquery(i), store_dkey(j), store_dvalue(j)     where gradients go, or null
//   drop_gradient(scores)              what dropout makes of the gradients of weights
//   padded(j, part)                    where PADS: where the gradients of a padded position's key
//                                      (part 0) and value (1) go in float32, or null
#pragma once

#include "attention_forward.cuh"

namespace vitkern {

template <class H>
struct Backward {
  // Fewer rows than forward takes: more is in registers at a time.
  static constexpr int OTHERS = H::SIZE * static_cast<int>(sizeof(typename H::T)) > 256 ? 16 : 32;
  static constexpr int OWN_BYTES = OWN * H::ROW_BYTES, TILE_BYTES = OTHERS * H::ROW_BYTES;
  static constexpr int STATISTICS_BYTES = 2 * OTHERS * static_cast<int>(sizeof(float));
  using QueriesMemory = Stages<H, 2 * OWN_BYTES, 2 * TILE_BYTES>;
  using KeysMemory = Stages<H, 2 * OWN_BYTES, 2 * TILE_BYTES + STATISTICS_BYTES>;
  using BiasMemory = Stages<H, 0, 2 * OWN_BYTES + 2 * TILE_BYTES>;
};

// What forward kept of a row of queries. Rows that are not there have weights of zero.
template <class Space, class Pair>
__device__ __forceinline__ float log_sum_of(const Space& space, const Pair& pair, int i) {
  return i < space.queries ? space.lse[pair.statistic(i)] : INFINITY;
}
template <class Space, class Pair>
__device__ __forceinline__ float delta_of(const Space& space, const Pair& pair, int i) {
  return i < space.queries ? space.delta[pair.statistic(i)] : 0.0f;
}

// delta: each row's sum of dout times out. A thread sums in the order of a product of rows, so that
// a row with one key, whose out is its value, gets a gradient of exactly zero in float32.
template <class T, class Space>
__global__ void __launch_bounds__(OWN_THREADS) attention_delta_kernel(const Space space) {
  const int64_t blocks = ceil_div(space.queries, OWN_THREADS);
  const auto pair = space.pair(blockIdx.x / blocks);
  const int i = static_cast<int>(blockIdx.x % blocks) * OWN_THREADS + static_cast<int>(threadIdx.x);
  if (i >= space.queries) return;
  const HeadRow<T> dout = pair.dout(i);
  const T* out = pair.out(i);
  float sum = 0.0f;
  if (dout.there && space.aligned) {
    for (int at = 0; at < space.head_dim; at += FULL_PACK<T>) {
      float left[FULL_PACK<T>], right[FULL_PACK<T>];
      load(left, dout.data + at);
      load(right, out + at);
#pragma unroll
      for (int e = 0; e < FULL_PACK<T>; ++e) sum = fmaf(left[e], right[e], sum);
    }
  } else if (dout.there) {
    for (int at = 0; at < space.head_dim; ++at) {
      sum = fmaf(to_float(dout.data[at]), to_float(out[at]), sum);
    }
  }
  space.delta[pair.statistic(i)] = sum;
}

// The gradients of scores (in `scores`) of own queries, from tiles of the four.
template <class H, int OTHERS, class Space, class Pair>
__device__ __forceinline__ void query_score_gradients(
    Scores<OTHERS>& scores, const Space& space, const Pair& pair, Shared<uint4> query,
    Shared<uint4> dout, Shared<uint4> key, Shared<uint4> value, const float (&log_sum)[2],
    const float (&delta)[2]) {
  add_row_products<H>(scores, query, key);
  finish_scores(scores, space.scale, pair);
  Scores<OTHERS> dweights = scores;
  dweights.clear();
  add_row_products<H>(dweights, dout, value);
  pair.drop_gradient(dweights);
#pragma unroll
  for (int n = 0; n < scores.TILES; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float weight = weight_again(scores.of[n][e], log_sum[e / 2]);
      scores.of[n][e] = score_gradient(weight, dweights.of[n][e], delta[e / 2]);
    }
  }
}

// dq of OWN queries, over the keys.
template <class H, class Space>
__global__ void __launch_bounds__(OWN_THREADS, 2) attention_queries_kernel(const Space space) {
  using On = Backward<H>;
  using Memory = typename On::QueriesMemory;
  constexpr int OTHERS = On::OTHERS;
  const int64_t blocks = ceil_div(space.queries, OWN);
  const int first = static_cast<int>(blockIdx.x % blocks) * OWN;
  const auto pair = space.pair(blockIdx.x / blocks);
  const int size = space.head_dim;
  const bool aligned = space.aligned;
  const auto tile_of = [](int step, int number) {
    return H::tile(Memory::stage(step) + number * On::TILE_BYTES, OTHERS);
  };

  load_rows<H, OWN>(Memory::fixed(0), first, size, aligned, [&](int i) { return pair.query(i); });
  load_rows<H, OWN>(Memory::fixed(1), first, size, aligned, [&](int i) { return pair.dout(i); });
  float log_sum[2], delta[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int i = first + warp_row() + lane_row() + 8 * r;
    log_sum[r] = log_sum_of(space, pair, i);
    delta[r] = delta_of(space, pair, i);
  }
  float sums[H::TILES][4] = {};
  Memory::run(
      static_cast<int>(ceil_div(space.keys, OTHERS)),
      [&](int step) {
        const int start = step * OTHERS;
        load_rows<H, OTHERS>(tile_of(step, 0), start, size, aligned,
                             [&](int j) { return pair.key(j); });
        load_rows<H, OTHERS>(tile_of(step, 1), start, size, aligned,
                             [&](int j) { return pair.value(j); });
      },
      [&](int step) {
        Scores<OTHERS> dscores(first + warp_row(), step * OTHERS);
        query_score_gradients<H>(dscores, space, pair, Memory::fixed(0), Memory::fixed(1),
                                 tile_of(step, 0), tile_of(step, 1), log_sum, delta);
        add_weighted_rows<H>(sums, dscores, tile_of(step, 0));
      });
  const float factor[2] = {space.scale, space.scale};
  store_rows<H>(sums, first, size, factor, [&](int i) { return pair.store_dquery(i); });
}

// dk and dv of OWN keys, over the queries: tiles of scores have keys as rows.
template <class H, class Space>
__global__ void __launch_bounds__(OWN_THREADS, 2) attention_keys_kernel(const Space space) {
  using On = Backward<H>;
  using Memory = typename On::KeysMemory;
  constexpr int OTHERS = On::OTHERS;
  const int64_t blocks = ceil_div(space.keys, OWN);
  const int first = static_cast<int>(blockIdx.x % blocks) * OWN;
  const auto pair = space.pair(blockIdx.x / blocks);
  const int size = space.head_dim;
  const bool aligned = space.aligned;
  const auto tile_of = [](int step, int number) {
    return H::tile(Memory::stage(step) + number * On::TILE_BYTES, OTHERS);
  };
  // Of each row of queries: its log_sum, and after all of these its delta.
  const auto statistics_of = [](int step) {
    return dynamic_shared<float>(Memory::stage(step) + 2 * On::TILE_BYTES, 2 * OTHERS);
  };

  load_rows<H, OWN>(Memory::fixed(0), first, size, aligned, [&](int j) { return pair.key(j); });
  load_rows<H, OWN>(Memory::fixed(1), first, size, aligned, [&](int j) { return pair.value(j); });
  float dkeys[H::TILES][4] = {}, dvalues[H::TILES][4] = {};
  Memory::run(
      static_cast<int>(ceil_div(space.queries, OTHERS)),
      [&](int step) {
        const int start = step * OTHERS;
        load_rows<H, OTHERS>(tile_of(step, 0), start, size, aligned,
                             [&](int i) { return pair.query(i); });
        load_rows<H, OTHERS>(tile_of(step, 1), start, size, aligned,
                             [&](int i) { return pair.dout(i); });
        const int at = static_cast<int>(threadIdx.x);
        if (at < OTHERS) {
          statistics_of(step)[at] = log_sum_of(space, pair, start + at);
          statistics_of(step)[OTHERS + at] = delta_of(space, pair, start + at);
        }
      },
      [&](int step) {
        Scores<OTHERS, true> weights(first + warp_row(), step * OTHERS);
        add_row_products<H>(weights, Memory::fixed(0), tile_of(step, 0));
        finish_scores(weights, space.scale, pair);
        const auto statistics = statistics_of(step);
#pragma unroll
        for (int n = 0; n < weights.TILES; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float log_sum = statistics[weights.column(n, e)];
            weights.of[n][e] = weight_again(weights.of[n][e], log_sum);
          }
        }
        Scores<OTHERS, true> other = weights;
        pair.drop(other);
        add_weighted_rows<H>(dvalues, other, tile_of(step, 1));
        other.clear();
        add_row_products<H>(other, Memory::fixed(1), tile_of(step, 1));
        pair.drop_gradient(other);
#pragma unroll
        for (int n = 0; n < weights.TILES; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float delta = statistics[OTHERS + weights.column(n, e)];
            weights.of[n][e] = score_gradient(weights.of[n][e], other.of[n][e], delta);
          }
        }
        add_weighted_rows<H>(dkeys, weights, tile_of(step, 0));
      });
  const float key_factor[2] = {space.scale, space.scale};
  const float value_factor[2] = {pair.enlarge(), pair.enlarge()};
  store_rows<H>(dkeys, first, size, key_factor, [&](int j) { return pair.store_dkey(j); });
  store_rows<H>(dvalues, first, size, value_factor, [&](int j) { return pair.store_dvalue(j); });
  if constexpr (Space::PADS) {
    store_rows<H>(dkeys, first, size, key_factor, [&](int j) { return pair.padded(j, 0); });
    store_rows<H>(dvalues, first, size, value_factor, [&](int j) { return pair.padded(j, 1); });
  }
}

// Which pairs of image and head share a plane of the bias. Plane n is of image n / plane_heads and
// head n % plane_heads, where it is not shared; the s-th of `shared` pairs then is s / heads_each
// images and s % heads_each heads on. A split sums over `each` of them.
struct BiasSums {
  int64_t heads, planes, plane_heads, heads_each, shared, each, splits;

  __device__ __forceinline__ int64_t pair(int64_t plane, int64_t s) const {
    const int64_t image = plane / plane_heads + s / heads_each;
    return image * heads + plane % plane_heads + s % heads_each;
  }
};

// dscores (splits, planes, queries, keys): sums of the scores' gradients over the pairs of a split.
template <class H, class Space>
__global__ void __launch_bounds__(OWN_THREADS, 2)
    attention_bias_kernel(const Space space, const BiasSums sums) {
  using On = Backward<H>;
  using Memory = typename On::BiasMemory;
  constexpr int OTHERS = On::OTHERS;
  const int64_t down = ceil_div(space.queries, OWN), across = ceil_div(space.keys, OTHERS);
  const int64_t tile = blockIdx.x % (down * across), left = blockIdx.x / (down * across);
  const int64_t plane = left % sums.planes, split = left / sums.planes;
  const int first = static_cast<int>(tile / across) * OWN;
  const int start = static_cast<int>(tile % across) * OTHERS;
  const int64_t begin = split * sums.each;
  const int64_t end = min(begin + sums.each, sums.shared);
  const int size = space.head_dim;
  const bool aligned = space.aligned;
  const auto own_of = [](int step, int number) {
    return H::tile(Memory::stage(step) + number * On::OWN_BYTES, OWN);
  };
  const auto other_of = [](int step, int number) {
    return H::tile(Memory::stage(step) + 2 * On::OWN_BYTES + number * On::TILE_BYTES, OTHERS);
  };

  Scores<OTHERS> total(first + warp_row(), start);
  Memory::run(
      end > begin ? static_cast<int>(end - begin) : 0,
      [&](int step) {
        const auto pair = space.pair(sums.pair(plane, begin + step));
        load_rows<H, OWN>(own_of(step, 0), first, size, aligned,
                          [&](int i) { return pair.query(i); });
        load_rows<H, OWN>(own_of(step, 1), first, size, aligned,
                          [&](int i) { return pair.dout(i); });
        load_rows<H, OTHERS>(other_of(step, 0), start, size, aligned,
                             [&](int j) { return pair.key(j); });
        load_rows<H, OTHERS>(other_of(step, 1), start, size, aligned,
                             [&](int j) { return pair.value(j); });
      },
      [&](int step) {
        const auto pair = space.pair(sums.pair(plane, begin + step));
        float log_sum[2], delta[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          log_sum[r] = log_sum_of(space, pair, total.first_row + 8 * r);
          delta[r] = delta_of(space, pair, total.first_row + 8 * r);
        }
        // What depends on places alone is made again at each step, not kept in registers.
        Scores<OTHERS> dscores(hidden(first) + warp_row(), hidden(start));
        query_score_gradients<H>(dscores, space, pair, own_of(step, 0), own_of(step, 1),
                                 other_of(step, 0), other_of(step, 1), log_sum, delta);
#pragma unroll
        for (int n = 0; n < total.TILES; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) total.of[n][e] += dscores.of[n][e];
        }
      });
  float* to = space.dscores + left * space.queries * static_cast<int64_t>(space.keys);
  total.each([&](int i, int j, float& sum) {
    if (i < space.queries && j < space.keys) to[static_cast<int64_t>(i) * space.keys + j] = sum;
  });
}

// Blocks that have `each` of these rows.
template <class Space>
dim3 blocks_of(const Space& space, int64_t rows, int each = OWN) {
  return grid_of(space.pairs * ceil_div(rows, each));
}

template <class H, class Space>
void launch_delta(const Space& space, Stream stream) {
  launch(attention_delta_kernel<typename H::T, Space>,
         blocks_of(space, space.queries, OWN_THREADS), OWN_THREADS, 0, stream, space);
}

template <class H, class Space>
void launch_backward_queries(const Space& space, Stream stream) {
  using On = Backward<H>;
  launch(attention_queries_kernel<H, Space>, blocks_of(space, space.queries), OWN_THREADS,
         On::QueriesMemory::bytes(ceil_div(space.keys, On::OTHERS)), stream, space);
}

template <class H, class Space>
void launch_backward_keys(const Space& space, Stream stream) {
  using On = Backward<H>;
  launch(attention_keys_kernel<H, Space>, blocks_of(space, space.keys), OWN_THREADS,
         On::KeysMemory::bytes(ceil_div(space.queries, On::OTHERS)), stream, space);
}

template <class H, class Space>
void launch_backward_bias(const Space& space, const BiasSums& sums, Stream stream) {
  using On = Backward<H>;
  const int64_t tiles = ceil_div(space.queries, OWN) * ceil_div(space.keys, On::OTHERS);
  launch(attention_bias_kernel<H, Space>, grid_of(tiles * sums.planes * sums.splits), OWN_THREADS,
         On::BiasMemory::bytes(sums.each), stream, space, sums);
}

}  // namespace vitkern
