// The space of Swin's shifted windows: rows are positions of a window, straight from the map.
//
// Shift, padding (in both orders), partition, relative position bias and the mask of what only the
// shift brought together are all in where a position is and in what is added to a pair's score.
#pragma once

#include "attention_tiles.cuh"
#include "entry.cuh"

namespace vitkern {

// qkv (B, height, width, 3, heads, head_dim), dout (B, height, width, heads, head_dim), channels
// side by side; pad (3, heads, head_dim) or null for zeros: what padded positions have. table
// (heads, rows) or null. The map has `down` by `across` windows. out and dqkv contiguous, as dout
// and qkv; lse and delta (windows, heads, positions) float32; dpad (B, padded positions, 2, heads,
// head_dim) float32 or null. dtable (rows, heads). Windows are taken, and dscores summed over them,
// in `splits` of `each`. What an entry point does not use may be null.
#define WINDOW_FIELDS(FIELD)                                                                  \
  FIELD(const void*, qkv) FIELD(const void*, table) FIELD(const void*, pad) FIELD(void*, out) \
  FIELD(void*, lse) FIELD(const void*, dout) FIELD(void*, delta) FIELD(void*, dqkv)           \
  FIELD(void*, dpad) FIELD(void*, dscores) FIELD(void*, dtable) FIELD(int64_t, batch)         \
  FIELD(int64_t, heads) FIELD(int64_t, head_dim) FIELD(int64_t, height) FIELD(int64_t, width) \
  FIELD(int64_t, down) FIELD(int64_t, across) FIELD(int64_t, window_h)                        \
  FIELD(int64_t, window_w) FIELD(int64_t, shift_y) FIELD(int64_t, shift_x)                    \
  FIELD(int64_t, qkv_image) FIELD(int64_t, qkv_y) FIELD(int64_t, qkv_x)                       \
  FIELD(int64_t, dout_image) FIELD(int64_t, dout_y) FIELD(int64_t, dout_x)                    \
  FIELD(int64_t, each) FIELD(int64_t, splits) FIELD(float, scale) FIELD(int32_t, pad_first)   \
  FIELD(int32_t, format) FIELD(int32_t, aligned) FIELD(int32_t, tf32)
VITKERN_PARAMS(Window, WINDOW_FIELDS)

// What Swin adds to the score of two positions that only the cyclic shift brought together.
constexpr float APART = -100.0f;

// Division of numbers below 2^16 or so by the width of a window: n d < 2^32.
struct Divider {
  uint64_t magic;

  explicit Divider(int64_t d) : magic(((uint64_t{1} << 32) + d - 1) / d) {}
  __device__ __forceinline__ int operator()(int n) const {
    return static_cast<int>(static_cast<uint64_t>(n) * magic >> 32);
  }
};

// An axis of the map: its size, that of the padded map, the shift.
struct Axis {
  int size, padded, shift;
  bool pad_first;

  // Place i of the shifted and padded map in the map, or in the padding where `inside` is false:
  // then it is its place in the padded map.
  __device__ __forceinline__ int source(int i, bool& inside) const {
    if (pad_first) {
      i += shift;
      i = i >= padded ? i - padded : i;
      inside = i < size;
      return i;
    }
    inside = i < size;
    if (!inside) return i;
    i += shift;
    return i >= size ? i - size : i;
  }
};

template <class T>
struct WindowSpace {
  static constexpr bool PADS = true;
  Window p;
  int queries, keys, head_dim, window_h, window_w;
  bool aligned;
  float scale;
  int64_t pairs;
  float *lse, *delta, *dscores;
  Axis y, x;
  Divider by_width;

  explicit WindowSpace(const Window& p)
      : p(p),
        queries(static_cast<int>(p.window_h * p.window_w)),
        keys(queries),
        head_dim(static_cast<int>(p.head_dim)),
        window_h(static_cast<int>(p.window_h)),
        window_w(static_cast<int>(p.window_w)),
        aligned(p.aligned != 0),
        scale(p.scale),
        pairs(p.batch * p.down * p.across * p.heads),
        lse(static_cast<float*>(p.lse)),
        delta(static_cast<float*>(p.delta)),
        dscores(static_cast<float*>(p.dscores)),
        y{static_cast<int>(p.height), static_cast<int>(p.down * p.window_h),
          static_cast<int>(p.shift_y), p.pad_first != 0},
        x{static_cast<int>(p.width), static_cast<int>(p.across * p.window_w),
          static_cast<int>(p.shift_x), p.pad_first != 0},
        by_width(p.window_w) {}

  // A place in the map; `inside` is false in the padding, where y and x are of the padded map.
  struct Place {
    int y, x;
    bool inside;
  };

  // A window and a head.
  struct Pair {
    const WindowSpace& space;
    int64_t number, image, head;
    int top, left;       // of the window in the shifted map
    bool last_y, last_x;  // the window is the last of its column, of its row

    __device__ __forceinline__ Place place(int i) const {
      const int row = space.by_width(i);
      bool y_inside, x_inside;
      int y = top + row, x = left + i - row * space.window_w;
      const int map_y = space.y.source(y, y_inside), map_x = space.x.source(x, x_inside);
      if (y_inside && x_inside) return {map_y, map_x, true};
      if (space.y.pad_first) return {map_y, map_x, false};
      return {y, x, false};
    }
    // Channels of a position's q, k or v.
    __device__ __forceinline__ HeadRow<T> row(int i, int part) const {
      return row(i, place(i), part);
    }
    __device__ __forceinline__ HeadRow<T> row(int i, const Place& at, int part) const {
      const Window& p = space.p;
      const int64_t channel = (part * p.heads + head) * p.head_dim;
      const T* start = static_cast<const T*>(p.qkv) + channel;
      if (i >= space.queries) return {start, false};
      if (at.inside) return {start + image * p.qkv_image + at.y * p.qkv_y + at.x * p.qkv_x, true};
      if (p.pad == nullptr) return {start, false};
      return {static_cast<const T*>(p.pad) + channel, true};
    }
    __device__ __forceinline__ HeadRow<T> query(int i) const { return row(i, 0); }
    __device__ __forceinline__ HeadRow<T> key(int j) const { return row(j, 1); }
    __device__ __forceinline__ HeadRow<T> value(int j) const { return row(j, 2); }
    __device__ __forceinline__ HeadRow<T> dout(int i) const { return dout(i, place(i)); }
    __device__ __forceinline__ HeadRow<T> dout(int i, const Place& at) const {
      const Window& p = space.p;
      const T* start = static_cast<const T*>(p.dout) + head * p.head_dim;
      if (i >= space.queries || !at.inside) return {start, false};
      return {start + image * p.dout_image + at.y * p.dout_y + at.x * p.dout_x, true};
    }
    // Of a contiguous map of `parts` by heads by head_dim channels; null in the padding.
    __device__ __forceinline__ T* result(void* data, int i, int parts, int part) const {
      if (data == nullptr || i >= space.queries) return nullptr;
      const Window& p = space.p;
      const Place at = place(i);
      if (!at.inside) return nullptr;
      const int64_t position = (image * p.height + at.y) * p.width + at.x;
      return static_cast<T*>(data) + ((position * parts + part) * p.heads + head) * p.head_dim;
    }
    __device__ __forceinline__ T* out(int i) const { return result(space.p.out, i, 1, 0); }
    __device__ __forceinline__ T* store_dquery(int i) const {
      return result(space.p.dqkv, i, 3, 0);
    }
    __device__ __forceinline__ T* store_dkey(int j) const { return result(space.p.dqkv, j, 3, 1); }
    __device__ __forceinline__ T* store_dvalue(int j) const {
      return result(space.p.dqkv, j, 3, 2);
    }
    // Where the gradient of a padded position goes, part 0 of keys and 1 of values; null elsewhere.
    __device__ __forceinline__ float* padded(int j, int part) const {
      const Window& p = space.p;
      if (p.dpad == nullptr || j >= space.queries) return nullptr;
      const Place at = place(j);
      if (at.inside) return nullptr;
      // Right of the map the padding is narrow, below it as wide as the padded map.
      const int64_t narrow = space.x.padded - p.width, all = space.x.padded;
      const int64_t count = p.height * narrow + (space.y.padded - p.height) * all;
      const int64_t index = at.y < p.height ? at.y * narrow + at.x - p.width
                                            : p.height * narrow + (at.y - p.height) * all + at.x;
      return static_cast<float*>(p.dpad) +
             (((image * count + index) * 2 + part) * p.heads + head) * p.head_dim;
    }
    __device__ __forceinline__ int64_t statistic(int i) const {
      return number * space.queries + i;
    }

    // What scores need to know of a position. `from` differs by a row of the table for each step of
    // a pair; `region` tells where it came around from the other side: bit 1 by its row, bit 0 by
    // its column.
    struct Position {
      int from, region;
      bool there;
    };
    __device__ __forceinline__ Position position(int i) const {
      const Window& p = space.p;
      const int row = space.by_width(i), column = i - row * space.window_w;
      const int region = (last_y && row >= space.window_h - p.shift_y ? 2 : 0) |
                         (last_x && column >= space.window_w - p.shift_x ? 1 : 0);
      return {i + row * (space.window_w - 1), region, i < space.queries};
    }
    template <class Tile>
    __device__ __forceinline__ void adjust(Tile& scores) const {
      add_table(scores);
      set_apart(scores);
    }
    // What is the same for all windows of a head: the table's entries, and keys that are not there.
    template <class Tile>
    __device__ __forceinline__ void add_table(Tile& scores) const {
      const int span = 2 * space.window_w - 1;
      const T* table = static_cast<const T*>(space.p.table);
      if (table != nullptr) {
        // Of this head, at the row for a position and itself.
        table += head * (2 * space.window_h - 1) * span + (space.window_h - 1) * span +
                 space.window_w - 1;
        scores.each([&](int i) { return position(i); },
                    [&](const Position& query, const Position& key, float& score) {
                      if (query.there && key.there) score += to_float(table[query.from - key.from]);
                    });
      }
      scores.each([&](int, int j, float& score) {
        if (j >= space.keys) score = -INFINITY;
      });
    }
    // What only windows at the end of a column or row have.
    template <class Tile>
    __device__ __forceinline__ void set_apart(Tile& scores) const {
      if ((!last_y || space.p.shift_y == 0) && (!last_x || space.p.shift_x == 0)) return;
      scores.each([&](int i) { return position(i); },
                  [](const Position& query, const Position& key, float& score) {
                    if (query.region != key.region) score += APART;
                  });
    }
    // Windows know no dropout.
    __device__ __forceinline__ float enlarge() const { return 1.0f; }
    template <class Tile>
    __device__ __forceinline__ void drop(Tile&) const {}
    template <class Tile>
    __device__ __forceinline__ void drop_gradient(Tile&) const {}
  };

  __device__ __forceinline__ Pair pair(int64_t number) const {
    const int64_t window = number / p.heads, in_image = p.down * p.across;
    const auto within = static_cast<int>(window % in_image);
    const auto across = static_cast<int>(p.across), row = within / across;
    const int column = within - row * across;
    return {*this, number, window / in_image, number - window * p.heads, row * window_h,
            column * window_w, row == p.down - 1, column == p.across - 1};
  }
};

template <class Function>
void with_window(const Window& p, Function function) {
  with_head<32, 64>(p.format, p.tf32 != 0, p.head_dim, [&](auto head) {
    using H = typename decltype(head)::type;
    function(head, WindowSpace<typename H::T>(p));
  });
}

}  // namespace vitkern
