// The space of plain attention: tensors (B, heads, N, head_dim) of any strides but the last, which
// is one; additive bias, key padding mask and dropout.
#pragma once

#include "attention_tiles.cuh"
#include "dropout.cuh"
#include "entry.cuh"

namespace vitkern {

// The sums that a bias's gradient is made of; see backward_bias in attention_backward.cuh.
#define BIAS_SUM_FIELDS(FIELD)                                                              \
  FIELD(void*, dscores) FIELD(int64_t, planes) FIELD(int64_t, plane_heads)                  \
  FIELD(int64_t, heads_each) FIELD(int64_t, shared) FIELD(int64_t, each) FIELD(int64_t, splits)

// bias (B, heads, queries, keys) with the strides that it broadcasts by, mask (B, keys), or null;
// seed: int64, or null for no dropout. out, dq, dk, dv (B, N, heads, head_dim) contiguous; lse and
// delta (B, heads, queries) float32. What an entry point does not use may be null.
#define ATTENTION_FIELDS(FIELD)                                                              \
  FIELD(const void*, q) FIELD(const void*, k) FIELD(const void*, v) FIELD(const void*, bias) \
  FIELD(const void*, mask) FIELD(const void*, seed) FIELD(void*, out) FIELD(void*, lse)      \
  FIELD(const void*, dout) FIELD(void*, delta) FIELD(void*, dq) FIELD(void*, dk)             \
  FIELD(void*, dv) FIELD(int64_t, batch) FIELD(int64_t, heads) FIELD(int64_t, queries)       \
  FIELD(int64_t, keys) FIELD(int64_t, head_dim) FIELD(int64_t, threshold)                    \
  FIELD(int64_t, q_image) FIELD(int64_t, q_head) FIELD(int64_t, q_row)                       \
  FIELD(int64_t, k_image) FIELD(int64_t, k_head) FIELD(int64_t, k_row)                       \
  FIELD(int64_t, v_image) FIELD(int64_t, v_head) FIELD(int64_t, v_row)                       \
  FIELD(int64_t, dout_image) FIELD(int64_t, dout_head) FIELD(int64_t, dout_row)              \
  FIELD(int64_t, bias_image) FIELD(int64_t, bias_head) FIELD(int64_t, bias_row)              \
  FIELD(int64_t, bias_column) FIELD(int64_t, mask_image) FIELD(int64_t, mask_key)            \
  FIELD(float, scale) FIELD(float, enlarge) FIELD(int32_t, format) FIELD(int32_t, aligned)   \
  FIELD(int32_t, tf32) BIAS_SUM_FIELDS(FIELD)
VITKERN_PARAMS(Attention, ATTENTION_FIELDS)

template <class T>
struct AttentionSpace {
  static constexpr bool PADS = false;
  Attention p;
  int queries, keys, head_dim;
  bool aligned;
  float scale;
  int64_t pairs;
  float *lse, *delta, *dscores;

  explicit AttentionSpace(const Attention& p)
      : p(p),
        queries(static_cast<int>(p.queries)),
        keys(static_cast<int>(p.keys)),
        head_dim(static_cast<int>(p.head_dim)),
        aligned(p.aligned != 0),
        scale(p.scale),
        pairs(p.batch * p.heads),
        lse(static_cast<float*>(p.lse)),
        delta(static_cast<float*>(p.delta)),
        dscores(static_cast<float*>(p.dscores)) {}

  // An image and a head.
  struct Pair {
    const Attention& p;
    int64_t number, image, head;

    __device__ __forceinline__ HeadRow<T> row(const void* data, int64_t offset, int i, int64_t step,
                                              int64_t count) const {
      const T* start = static_cast<const T*>(data) + offset;
      return i < count ? HeadRow<T>{start + i * step, true} : HeadRow<T>{start, false};
    }
    __device__ __forceinline__ HeadRow<T> query(int i) const {
      return row(p.q, image * p.q_image + head * p.q_head, i, p.q_row, p.queries);
    }
    __device__ __forceinline__ HeadRow<T> key(int j) const {
      return row(p.k, image * p.k_image + head * p.k_head, j, p.k_row, p.keys);
    }
    __device__ __forceinline__ HeadRow<T> value(int j) const {
      return row(p.v, image * p.v_image + head * p.v_head, j, p.v_row, p.keys);
    }
    __device__ __forceinline__ HeadRow<T> dout(int i) const {
      return row(p.dout, image * p.dout_image + head * p.dout_head, i, p.dout_row, p.queries);
    }
    // Row i of a contiguous (B, count, heads, head_dim).
    __device__ __forceinline__ T* joined(void* data, int i, int64_t count) const {
      if (data == nullptr || i >= count) return nullptr;
      return static_cast<T*>(data) + ((image * count + i) * p.heads + head) * p.head_dim;
    }
    __device__ __forceinline__ T* out(int i) const { return joined(p.out, i, p.queries); }
    __device__ __forceinline__ T* store_dquery(int i) const { return joined(p.dq, i, p.queries); }
    __device__ __forceinline__ T* store_dkey(int j) const { return joined(p.dk, j, p.keys); }
    __device__ __forceinline__ T* store_dvalue(int j) const { return joined(p.dv, j, p.keys); }
    __device__ __forceinline__ int64_t statistic(int i) const { return number * p.queries + i; }
    __device__ __forceinline__ float enlarge() const { return p.enlarge; }

    template <class Tile>
    __device__ __forceinline__ void adjust(Tile& scores) const {
      if (p.bias != nullptr) {
        const T* bias = static_cast<const T*>(p.bias) + image * p.bias_image + head * p.bias_head;
        scores.each([&](int i, int j, float& score) {
          if (i < p.queries && j < p.keys) {
            score += to_float(bias[i * p.bias_row + j * p.bias_column]);
          }
        });
      }
      if (p.mask != nullptr) {
        const auto* mask = static_cast<const uint8_t*>(p.mask) + image * p.mask_image;
        scores.each([&](int, int j, float& score) {
          if (j < p.keys && mask[j * p.mask_key] != 0) score = -INFINITY;
        });
      }
      scores.each([&](int, int j, float& score) {
        if (j >= p.keys) score = -INFINITY;
      });
    }

    // function(whether the weight is kept, weight), if any can be dropped.
    template <class Tile, class Function>
    __device__ __forceinline__ void with_kept(Tile& weights, const Function& function) const {
      if (p.seed == nullptr) return;
      const int64_t seed = *static_cast<const int64_t*>(p.seed);
      const Dropout dropout{static_cast<unsigned>(seed), static_cast<unsigned>(seed >> 32),
                            p.threshold};
      weights.each([&](int i, int j, float& weight) {
        function(dropout.keeps(statistic(i), j), weight);
      });
    }
    template <class Tile>
    __device__ __forceinline__ void drop(Tile& weights) const {
      with_kept(weights, [](bool kept, float& weight) { weight = kept ? weight : 0.0f; });
    }
    // Of weights that were dropped and enlarged, back to those of before.
    template <class Tile>
    __device__ __forceinline__ void drop_gradient(Tile& dweights) const {
      const float enlarge = p.enlarge;
      with_kept(dweights, [&](bool kept, float& dweight) {
        dweight = kept ? dweight * enlarge : 0.0f;
      });
    }
  };

  __device__ __forceinline__ Pair pair(int64_t number) const {
    return {p, number, number / p.heads, number % p.heads};
  }
};

template <class Function>
void with_attention(const Attention& p, Function function) {
  with_head<32, 64, 96, 128>(p.format, p.tf32 != 0, p.head_dim, [&](auto head) {
    using H = typename decltype(head)::type;
    function(head, AttentionSpace<typename H::T>(p));
  });
}

}  // namespace vitkern
