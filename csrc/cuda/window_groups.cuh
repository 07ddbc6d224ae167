// Windows that fit a tile: a block has `each` of a head, one after another.
//
// While one is computed the next is on its way. What the table adds to scores is gathered once a
// block. Backward reads a window once and gives all its gradients: with all keys at hand, a row's
// delta is a sum over its weights.
//
// Rows of several windows are not put into one tile: the warps that had rows of two would have to
// multiply with the keys of both, which costs as much as the empty rows do.
#pragma once

#include "attention_backward.cuh"
#include "window_space.cuh"

namespace vitkern {

// A place in shared memory for each of a thread's scores of a tile, which no other thread sees.
template <class T>
struct OwnScores {
  using Four = Pack<T, 4>;
  static constexpr int TILES = OWN / 8, BYTES = OWN * OWN * static_cast<int>(sizeof(T));
  Shared<Four> of;

  __device__ __forceinline__ explicit OwnScores(int first_byte)
      : of(dynamic_shared<Four>(first_byte, TILES * OWN_THREADS) + static_cast<int>(threadIdx.x)) {}

  // function(score, what is kept for it) for each.
  template <bool KEYS, class Function>
  __device__ __forceinline__ void each(Scores<OWN, KEYS>& scores, const Function& function) const {
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
      const Four kept = of[n * OWN_THREADS];
#pragma unroll
      for (int e = 0; e < 4; ++e) function(scores.of[n][e], to_float(kept.element[e]));
    }
  }
  template <bool KEYS>
  __device__ __forceinline__ void keep(const Scores<OWN, KEYS>& scores) const {
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
      Four kept;
#pragma unroll
      for (int e = 0; e < 4; ++e) kept.element[e] = from_float<T>(scores.of[n][e]);
      of[n * OWN_THREADS] = kept;
    }
  }
};

// Shared memory. A stage is a window: tiles of q, k, v and, in backward, dout and what forward kept
// of each row. First of all: what the table adds; in backward also that of the transposed tile, the
// sum of dscores, and the rows' deltas.
template <class H>
struct Groups {
  using Bias = OwnScores<typename H::T>;
  using Total = OwnScores<float>;
  static constexpr int TILE_BYTES = OWN * H::ROW_BYTES;
  static constexpr int ROW_FLOATS_BYTES = OWN * static_cast<int>(sizeof(float));
  static constexpr int TOTAL = 2 * Bias::BYTES, DELTAS = TOTAL + Total::BYTES;
  static constexpr int BACKWARD_FIXED = DELTAS + ROW_FLOATS_BYTES;
  static constexpr int FORWARD_STAGE = 3 * TILE_BYTES;
  static constexpr int BACKWARD_STAGE = 4 * TILE_BYTES + ROW_FLOATS_BYTES;
  static constexpr bool FORWARD_FITS = Bias::BYTES + FORWARD_STAGE <= LEAST_SHARED;
  static constexpr bool BACKWARD_FITS = BACKWARD_FIXED + BACKWARD_STAGE <= LEAST_SHARED;
};

// The head and the windows of a block.
struct Group {
  int64_t heads, split, head, begin, end;

  __device__ __forceinline__ explicit Group(const Window& p)
      : heads(p.heads),
        split(blockIdx.x / p.heads),
        head(blockIdx.x - split * p.heads),
        begin(split * p.each),
        end(min(begin + p.each, p.batch * p.down * p.across)) {}
  __device__ __forceinline__ int steps() const { return static_cast<int>(end - begin); }
  __device__ __forceinline__ int64_t pair(int step) const { return (begin + step) * heads + head; }
};

// q, k, v and, if `with_dout`, dout: where a position is is found once.
template <class H, class TileOf, class Space, class Pair>
__device__ __forceinline__ void load_window(const TileOf& tile_of, const Space& space,
                                            const Pair& pair, bool with_dout) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < OWN * H::CHUNKS; i += OWN_THREADS) {
    const int row = i / H::CHUNKS, chunk = i % H::CHUNKS;
    const auto place = pair.place(row);
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      load_chunk<H>(tile_of(part), row, chunk, space.head_dim, space.aligned,
                    pair.row(row, place, part));
    }
    if (with_dout) {
      load_chunk<H>(tile_of(3), row, chunk, space.head_dim, space.aligned, pair.dout(row, place));
    }
  }
}

template <class T, bool KEYS, class Pair>
__device__ __forceinline__ void keep_table(const OwnScores<T>& kept, const Pair& pair) {
  Scores<OWN, KEYS> bias(warp_row(), 0);
  pair.add_table(bias);
  kept.keep(bias);
}

// Scores from products.
template <class T, bool KEYS, class Pair>
__device__ __forceinline__ void finish_scores(Scores<OWN, KEYS>& scores, float scale,
                                              const OwnScores<T>& bias, const Pair& pair) {
  bias.each(scores, [&](float& score, float added) { score = score * scale + added; });
  pair.set_apart(scores);
}

template <class H, class Space>
__global__ void __launch_bounds__(OWN_THREADS, sizeof(typename H::T) == 2 ? 3 : 2)
    window_forward_kernel(const Space space) {
  using On = Groups<H>;
  using Memory = Stages<H, On::Bias::BYTES, On::FORWARD_STAGE>;
  const Group group(space.p);
  const auto tile_of = [](int step, int number) {
    return H::tile(Memory::stage(step) + number * On::TILE_BYTES, OWN);
  };
  const bool has_rows = warp_row() < space.queries;
  const typename On::Bias bias(0);
  keep_table<typename H::T, false>(bias, space.pair(group.pair(0)));
  Memory::run(
      group.steps(),
      [&](int step) {
        load_window<H>([&](int number) { return tile_of(step, number); }, space,
                       space.pair(group.pair(step)), false);
      },
      [&](int step) {
        if (!has_rows) return;
        const auto pair = space.pair(group.pair(step));
        Scores<OWN> scores(warp_row(), 0);
        add_row_products<H>(scores, tile_of(step, 0), tile_of(step, 1));
        finish_scores(scores, space.scale, bias, pair);
        RunningSoftmax softmax;
        float correction[2];
        softmax.step(scores, correction);
        softmax.finish();
        float sums[H::TILES][4] = {};
        add_weighted_rows<H>(sums, scores, tile_of(step, 2));
        const float factor[2] = {1.0f / softmax.divisor(0), 1.0f / softmax.divisor(1)};
        store_rows<H>(sums, 0, space.head_dim, factor, [&](int i) { return pair.out(i); });
        if (space.lse == nullptr || lane_pair() != 0) return;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int i = warp_row() + lane_row() + 8 * r;
          if (i < space.queries) space.lse[pair.statistic(i)] = softmax.log_sum(r);
        }
      });
}

template <class H, class Space>
__global__ void __launch_bounds__(OWN_THREADS, 2) window_backward_kernel(const Space space) {
  using On = Groups<H>;
  using Memory = Stages<H, On::BACKWARD_FIXED, On::BACKWARD_STAGE>;
  const Group group(space.p);
  const auto tile_of = [](int step, int number) {
    return H::tile(Memory::stage(step) + number * On::TILE_BYTES, OWN);
  };
  const auto log_sums_of = [](int step) {
    return dynamic_shared<float>(Memory::stage(step) + 4 * On::TILE_BYTES, OWN);
  };
  const auto deltas = dynamic_shared<float>(On::DELTAS, OWN);
  const bool has_rows = warp_row() < space.queries, sums = space.dscores != nullptr;
  const int size = space.head_dim;
  const typename On::Bias bias(0), transposed(On::Bias::BYTES);
  const typename On::Total total(On::TOTAL);
  {
    const auto pair = space.pair(group.pair(0));
    keep_table<typename H::T, false>(bias, pair);
    keep_table<typename H::T, true>(transposed, pair);
    total.keep(Scores<OWN>(0, 0));
  }
  const float plain[2] = {1.0f, 1.0f}, scaled[2] = {space.scale, space.scale};
  Memory::run(
      group.steps(),
      [&](int step) {
        const auto pair = space.pair(group.pair(step));
        load_window<H>([&](int number) { return tile_of(step, number); }, space, pair, true);
        const int at = static_cast<int>(threadIdx.x);
        if (at < OWN) log_sums_of(step)[at] = log_sum_of(space, pair, at);
      },
      [&](int step) {
        const auto pair = space.pair(group.pair(step));
        const auto query = tile_of(step, 0), key = tile_of(step, 1), value = tile_of(step, 2);
        const auto dout = tile_of(step, 3);
        const auto log_sums = log_sums_of(step);
        if (has_rows) {  // rows are queries
          Scores<OWN> dscores(warp_row(), 0), dweights(warp_row(), 0);
          add_row_products<H>(dscores, query, key);
          finish_scores(dscores, space.scale, bias, pair);
          add_row_products<H>(dweights, dout, value);
          float delta[2] = {};
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int row = warp_row() + lane_row() + 8 * r;
            const float log_sum = log_sums[row];
#pragma unroll
            for (int n = 0; n < dscores.TILES; ++n) {
#pragma unroll
              for (int e = 2 * r; e < 2 * r + 2; ++e) {
                dscores.of[n][e] = weight_again(dscores.of[n][e], log_sum);
                delta[r] = fmaf(dscores.of[n][e], dweights.of[n][e], delta[r]);
              }
            }
            delta[r] = row_sum(delta[r]);
            if (lane_pair() == 0) deltas[row] = delta[r];
#pragma unroll
            for (int n = 0; n < dscores.TILES; ++n) {
#pragma unroll
              for (int e = 2 * r; e < 2 * r + 2; ++e) {
                dscores.of[n][e] = score_gradient(dscores.of[n][e], dweights.of[n][e], delta[r]);
              }
            }
          }
          if (sums) {
            Scores<OWN> sum = dscores;
            total.each(sum, [](float& dscore, float before) { dscore += before; });
            total.keep(sum);
          }
          float dqueries[H::TILES][4] = {};
          add_weighted_rows<H>(dqueries, dscores, key);
          store_rows<H>(dqueries, 0, size, scaled, [&](int i) { return pair.store_dquery(i); });
        } else if (lane_pair() == 0) {
          // Keys go over all columns; a weight of zero makes zero of any number, but not of all bits.
          deltas[warp_row() + lane_row()] = deltas[warp_row() + lane_row() + 8] = 0.0f;
        }
        __syncthreads();  // all deltas are there
        if (has_rows) {  // rows are keys
          Scores<OWN, true> weights(warp_row(), 0), dweights(warp_row(), 0);
          add_row_products<H>(weights, key, query);
          finish_scores(weights, space.scale, transposed, pair);
#pragma unroll
          for (int n = 0; n < weights.TILES; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float log_sum = log_sums[weights.column(n, e)];
              weights.of[n][e] = weight_again(weights.of[n][e], log_sum);
            }
          }
          float gradients[H::TILES][4] = {};
          add_weighted_rows<H>(gradients, weights, dout);
          store_rows<H>(gradients, 0, size, plain, [&](int j) { return pair.store_dvalue(j); });
          store_rows<H>(gradients, 0, size, plain, [&](int j) { return pair.padded(j, 1); });
          add_row_products<H>(dweights, value, dout);
#pragma unroll
          for (int n = 0; n < weights.TILES; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float delta = deltas[weights.column(n, e)];
              weights.of[n][e] = score_gradient(weights.of[n][e], dweights.of[n][e], delta);
            }
          }
#pragma unroll
          for (int d = 0; d < H::TILES; ++d) {
#pragma unroll
            for (int e = 0; e < 4; ++e) gradients[d][e] = 0.0f;
          }
          add_weighted_rows<H>(gradients, weights, query);
          store_rows<H>(gradients, 0, size, scaled, [&](int j) { return pair.store_dkey(j); });
          store_rows<H>(gradients, 0, size, scaled, [&](int j) { return pair.padded(j, 0); });
        }
      });
  if (!sums) return;
  float* to = space.dscores + (group.split * group.heads + group.head) * space.queries *
                                  static_cast<int64_t>(space.keys);
  Scores<OWN> sum(warp_row(), 0);
  total.each(sum, [](float& dscore, float before) { dscore = before; });
  sum.each([&](int i, int j, float& dscore) {
    if (i < space.queries && j < space.keys) to[i * space.keys + j] = dscore;
  });
}

}  // namespace vitkern
