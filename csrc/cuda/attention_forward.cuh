// Attention of any kind, forward: a block has OWN queries and goes over the keys.
//
// A Space says what attends to what. It has `queries` and `keys` (rows of a pair of an image and a
// head), `head_dim`, `aligned`, `scale`, `pairs`, and pair(number), which has
//   query(i), key(j), value(j)  HeadRows          out(i)      where a result goes, or null
//   statistic(i)                its place in lse  adjust(scores)  adds biases; -inf: no such key
//   drop(scores), enlarge()     dropout of weights, and what makes up for it
#pragma once

#include "attention_tiles.cuh"

namespace vitkern {

template <class H>
struct Forward {
  static constexpr int OTHERS = sizeof(typename H::T) == 2 ? 64 : 32;
  static constexpr int TILE_BYTES = OTHERS * H::ROW_BYTES;
  using Memory = Stages<H, OWN * H::ROW_BYTES, 2 * TILE_BYTES>;
};

// Scores from products.
template <class Pair, int OTHERS, bool KEYS>
__device__ __forceinline__ void finish_scores(Scores<OTHERS, KEYS>& scores, float scale,
                                              const Pair& pair) {
  scores.each([&](int, int, float& score) { score *= scale; });
  pair.adjust(scores);
}

template <class H, class Space>
__global__ void __launch_bounds__(OWN_THREADS, 2) attention_forward_kernel(const Space space) {
  using On = Forward<H>;
  using Memory = typename On::Memory;
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
  float sums[H::TILES][4] = {};
  RunningSoftmax softmax;
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
        Scores<OTHERS> scores(first + warp_row(), step * OTHERS);
        add_row_products<H>(scores, Memory::fixed(0), tile_of(step, 0));
        finish_scores(scores, space.scale, pair);
        float correction[2];
        softmax.step(scores, correction);
        pair.drop(scores);
#pragma unroll
        for (int d = 0; d < H::TILES; ++d) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[d][e] *= correction[e / 2];
        }
        add_weighted_rows<H>(sums, scores, tile_of(step, 1));
      });
  softmax.finish();
  const float factor[2] = {pair.enlarge() / softmax.divisor(0),
                           pair.enlarge() / softmax.divisor(1)};
  store_rows<H>(sums, first, size, factor, [&](int i) { return pair.out(i); });
  if (space.lse == nullptr || lane_pair() != 0) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int i = first + warp_row() + lane_row() + 8 * r;
    if (i < space.queries) space.lse[pair.statistic(i)] = softmax.log_sum(r);
  }
}

template <class H, class Space>
void launch_forward(const Space& space, Stream stream) {
  const int64_t blocks = space.pairs * ceil_div(space.queries, OWN);
  const int shared = Forward<H>::Memory::bytes(ceil_div(space.keys, Forward<H>::OTHERS));
  launch(attention_forward_kernel<H, Space>, grid_of(blocks), OWN_THREADS, shared, stream, space);
}

}  // namespace vitkern
