// Where the positions of a window lie in the map, and the bias of its pairs of positions.
#pragma once
#include "../args/window_attention.h"
#include "attention_rows.h"
#include "attention_tiles.h"

namespace vitkern::VITKERN_ISA {

struct Windows {
  int64_t height, width, wh, ww, sh, sw, down, across;  // down x across windows in an image
  bool pad_first;

  explicit Windows(const WindowAttentionArgs& a)
      : height(a.height), width(a.width), wh(a.window_height), ww(a.window_width), sh(a.shift_height),
        sw(a.shift_width), down((height + wh - 1) / wh), across((width + ww - 1) / ww), pad_first(a.pad_first) {}

  int64_t positions() const { return wh * ww; }
  int64_t per_image() const { return down * across; }

  // Row or column of the map that row or column i of the shifted, padded map shows; -1 = padding.
  VK_INLINE int64_t source(int64_t i, int64_t shift, int64_t size, int64_t padded, bool pad_first) {
    if (pad_first) {
      i += shift;
      if (i >= padded) i -= padded;
      return i < size ? i : -1;
    }
    if (i >= size) return -1;
    i += shift;
    return i < size ? i : i - size;
  }
  // at[i] = position i of the window as an index into the (batch * height * width) positions of the
  // map, -1 = padding.
  void positions_of(int64_t window, int64_t* at) const {
    const int64_t image = window / per_image(), y0 = window % per_image() / across * wh, x0 = window % across * ww;
    for (int64_t i = 0; i < wh; i++) {
      const int64_t y = source(y0 + i, sh, height, down * wh, pad_first);
      for (int64_t j = 0; j < ww; j++) {
        const int64_t x = source(x0 + j, sw, width, across * ww, pad_first);
        at[i * ww + j] = y < 0 || x < 0 ? -1 : (image * height + y) * width + x;
      }
    }
  }

  // Windows of one kind have the same mask: only those at the end of a shifted axis have any.
  int64_t kinds() const { return (sh > 0 ? 2 : 1) * (sw > 0 ? 2 : 1); }
  int64_t kind_of(int64_t window) const {
    const bool bottom = window % per_image() / across == down - 1, right = window % across == across - 1;
    return (sh > 0 && bottom) * (sw > 0 ? 2 : 1) + (sw > 0 && right);
  }
  bool bottom(int64_t kind) const { return kind / (sw > 0 ? 2 : 1) != 0; }
  bool right(int64_t kind) const { return sw > 0 && kind % 2 != 0; }

  // The table's row for query (yi, xi) and key (yj, 0); for key (yj, xj) it is xj less.
  int64_t table_row(int64_t yi, int64_t xi, int64_t yj) const {
    return (yi - yj + wh - 1) * (2 * ww - 1) + xi + ww - 1;
  }
  int64_t table_rows() const { return (2 * wh - 1) * (2 * ww - 1); }
};

// What Swin adds to the score of positions that only the shift brought together.
constexpr float kApart = -100.f;

// The bias of every pair of positions, by kind of window and head, in exponents of 2. Columns behind
// the last position, up to whole vectors, are -inf.
struct PairBias {
  const float* data;
  int64_t stride, head_floats, heads;  // heads: 1 where there is no table

  static int64_t row_stride(int64_t n) { return round_up(n, W); }
  const float* of(int64_t kind, int64_t head) const {
    return data + (kind * heads + (heads > 1 ? head : 0)) * head_floats;
  }
};

// What the mask adds to the scores of a query, by whether its row and its column of the window came
// around from the other side; -inf behind the last key.
VK_INLINE void mask_rows(const Windows& w, int64_t kind, float* rows, int64_t stride) {
  const int64_t bottom = w.bottom(kind) ? w.wh - w.sh : w.wh, right = w.right(kind) ? w.ww - w.sw : w.ww;
  for (int state = 0; state < 4; state++) {
    if ((state / 2 && bottom == w.wh) || (state % 2 && right == w.ww)) continue;
    float* row = rows + state * stride;
    for (int64_t y = 0; y < w.wh; y++)
      for (int64_t x = 0; x < w.ww; x++)
        *row++ = (y >= bottom) != (state / 2) || (x >= right) != (state % 2) ? kApart * kLog2e : 0.f;
    for (; row < rows + (state + 1) * stride; row++) *row = -kInfinity;
  }
}

// The bias depends on the query's row yi and the key's row yj by yi - yj alone. So the queries of one
// column of the window find theirs in one strip, a piece for every yi - yj from the largest to the
// smallest: that of row yi begins wh - 1 - yi pieces on.
template <class T>
static void expand_bias(const Windows& w, const T* table, int64_t heads, int64_t head, int64_t kind, float* memory,
                        float* out, int64_t stride) {
  const int64_t length = w.table_rows(), pieces = 2 * w.wh - 1;
  float *masks = memory, *reversed = masks + 4 * stride, *strip = reversed + length + W;
  mask_rows(w, kind, masks, stride);
  // Backwards, so that the keys of one row of the window find their entries in order.
  for (int64_t i = 0; i < length; i++)
    reversed[length - 1 - i] = table ? to_float(table[i * heads + head]) * kLog2e : 0.f;
  for (int64_t i = length; i < length + W; i++) reversed[i] = 0.f;
  for (int64_t i = pieces * w.ww; i < pieces * w.ww + 2 * W; i++) strip[i] = 0.f;
  for (int64_t xi = 0; xi < w.ww; xi++) {
    const float* entries = reversed + w.ww - 1 - xi;
    float* piece = strip;
    for (int64_t k = 0; k < pieces; k++, piece += w.ww, entries += 2 * w.ww - 1)
      for (int64_t x = 0; x < w.ww; x += W) store(piece + x, load(entries + x));  // the next covers what is too much
    const bool wrapped_column = w.right(kind) && xi >= w.ww - w.sw;
    for (int64_t yi = 0; yi < w.wh; yi++) {
      const bool wrapped_row = w.bottom(kind) && yi >= w.wh - w.sh;
      const float *from = strip + (w.wh - 1 - yi) * w.ww, *mask = masks + (2 * wrapped_row + wrapped_column) * stride;
      float* row = out + (yi * w.ww + xi) * stride;
      // Behind the last key `from` has another query's entries, which may be NaN.
      for (int64_t j = 0; j < stride; j += W) {
        const vf m = load(mask + j);
        store(row + j, select(m == splat(-kInfinity), m, load(from + j) + m));
      }
    }
  }
}
// Floats of `memory` above.
VK_INLINE int64_t expand_floats(const Windows& w, int64_t stride) {
  return 4 * stride + w.table_rows() + W + (2 * w.wh - 1) * w.ww + 2 * W;
}

template <class T>
static PairBias pair_bias(const Runtime& rt, const Windows& w, const T* table, int64_t all_heads) {
  const int64_t n = w.positions(), heads = table ? all_heads : 1, stride = PairBias::row_stride(n);
  const int64_t head_floats = round_up(n * stride + W, 16);
  float* data = (float*)rt.scratch(kShared, w.kinds() * heads * head_floats * 4);
  for_tasks(rt, w.kinds() * heads, [&](int64_t task) {
    float* memory = (float*)rt.scratch(kVectors2, expand_floats(w, stride) * 4);
    expand_bias(w, table, all_heads, task % heads, task / heads, memory, data + task * head_floats, stride);
  });
  return {data, stride, head_floats, heads};
}

// Pointers to what positions of a window have in a map with `channels` per position; `padding` for
// those in the padding.
template <class T>
static void rows_of(const int64_t* at, int64_t n, T* map, int64_t channels, T* padding, T** rows) {
  for (int64_t i = 0; i < n; i++) rows[i] = at[i] < 0 ? padding : map + at[i] * channels;
}

}  // namespace vitkern::VITKERN_ISA
