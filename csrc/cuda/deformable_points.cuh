// Deformable attention's points: who works at which, and where on a map they are.
#pragma once

#include "entry.cuh"
#include "numeric.cuh"

namespace vitkern {

constexpr int MOST_LEVELS = 8, DEFORMABLE_THREADS = 128;
// Channels of a head: those that a warp has in registers.
constexpr int MOST_CHANNELS = 256;
// What loads of N elements at a time need: how many of them a thread has at the most.
template <int N>
constexpr int CHUNKS = MOST_CHANNELS / (WARP * N);

// locations (batch, queries, heads, levels, points, 2) and weights without the 2, float32 where
// *_wide; maps are (batch, pixels, heads, width), the levels' h * w pixels one after the other. All
// is contiguous. A head of a query has `team` threads, a power of two and a warp at the most.
// `vector`: channels can be loaded and stored 16 bytes at a time.
#define DEFORMABLE_FIELDS(FIELD)                                                              \
  FIELD(const void*, locations) FIELD(const void*, weights) FIELD(int64_t, batch)             \
  FIELD(int64_t, pixels) FIELD(int64_t, queries) FIELD(int64_t, heads) FIELD(int32_t, width)  \
  FIELD(int32_t, levels) FIELD(int32_t, points) FIELD(int32_t, team) FIELD(int32_t, vector)   \
  FIELD(int32_t, locations_wide) FIELD(int32_t, weights_wide) FIELD(int32_t, format)          \
  FIELD(int32_t, h0) FIELD(int32_t, w0) FIELD(int32_t, h1) FIELD(int32_t, w1)                 \
  FIELD(int32_t, h2) FIELD(int32_t, w2) FIELD(int32_t, h3) FIELD(int32_t, w3)                 \
  FIELD(int32_t, h4) FIELD(int32_t, w4) FIELD(int32_t, h5) FIELD(int32_t, w5)                 \
  FIELD(int32_t, h6) FIELD(int32_t, w6) FIELD(int32_t, h7) FIELD(int32_t, w7)

// Kernels take it as a __grid_constant__: a copy of their own, to index, would be in local memory.
struct Levels {
  int32_t rows[MOST_LEVELS], columns[MOST_LEVELS];
};

template <class P>
Levels levels_of(const P& p) {
  return {{p.h0, p.h1, p.h2, p.h3, p.h4, p.h5, p.h6, p.h7},
          {p.w0, p.w1, p.w2, p.w3, p.w4, p.w5, p.w6, p.w7}};
}

// What a thread works at: a head of a query, and of its channels N from `first` on, again after
// every `stride`. The threads behind the last are not `known`; they do as the first row's, for a
// whole warp has to take part in sums, and write nothing.
struct Worker {
  int64_t row;  // of (batch, queries, heads)
  int64_t map;  // where the head's channels of the image's first pixel are
  int64_t step;  // from pixel to pixel
  int first, stride, rank;
  bool known;
};

template <int N, class P>
__device__ __forceinline__ Worker worker_of(const P& p) {
  const int team = static_cast<int>(threadIdx.x) / p.team;
  Worker w;
  w.rank = static_cast<int>(threadIdx.x) % p.team;
  w.row = static_cast<int64_t>(blockIdx.x) * (DEFORMABLE_THREADS / p.team) + team;
  w.known = w.row < p.batch * p.queries * p.heads;
  if (!w.known) w.row = 0;
  const int64_t head = w.row % p.heads, image = w.row / p.heads / p.queries;
  w.map = (image * p.pixels * p.heads + head) * p.width;
  w.step = p.heads * p.width;
  w.first = w.rank * N;
  w.stride = p.team * N;
  return w;
}

template <class P>
dim3 grid_of(const P& p) {
  return dim3(static_cast<unsigned>(
      ceil_div(p.batch * p.queries * p.heads, DEFORMABLE_THREADS / p.team)));
}

// Along one axis: the last pixel whose centre is not behind x, how far x is behind it, and whether
// it and the next one are on the map. No comparison is true of a NaN.
struct Beside {
  int pixel;
  float share;
  bool here, next;
};

__device__ __forceinline__ Beside beside(float x, int size) {
  const bool inside = x >= -1.0f && x < static_cast<float>(size);
  x = inside ? x : 0.0f;
  const float floor = floorf(x);
  const int pixel = static_cast<int>(floor);
  return {pixel, x - floor, inside && pixel >= 0, inside && pixel + 1 < size};
}

template <class T>
__device__ __forceinline__ float load_either(const void* from, int64_t at, bool wide) {
  return wide ? static_cast<const float*>(from)[at] : to_float(static_cast<const T*>(from)[at]);
}
template <class T>
__device__ __forceinline__ void store_either(void* to, int64_t at, bool wide, float value) {
  if (wide) {
    static_cast<float*>(to)[at] = value;
  } else {
    static_cast<T*>(to)[at] = from_float<T>(value);
  }
}

// A point of a row: its weight, and the four pixels around it, upper left, upper right, lower left
// and lower right.
struct Point {
  float weight;
  Beside x, y;
  int rows, columns;  // of the level

  __device__ __forceinline__ bool is(int corner) const {
    return (corner < 2 ? y.here : y.next) && (corner % 2 == 0 ? x.here : x.next);
  }
  __device__ __forceinline__ float across(int corner) const {
    return corner % 2 == 0 ? 1.0f - x.share : x.share;
  }
  __device__ __forceinline__ float down(int corner) const {
    return corner < 2 ? 1.0f - y.share : y.share;
  }
  // Within the level; only of corners that are on it.
  __device__ __forceinline__ int pixel(int corner) const {
    return (y.pixel + corner / 2) * columns + x.pixel + corner % 2;
  }
};

template <class T, class P>
__device__ __forceinline__ Point point_at(const P& p, int64_t at, int rows, int columns) {
  const float x = load_either<T>(p.locations, 2 * at, p.locations_wide != 0);
  const float y = load_either<T>(p.locations, 2 * at + 1, p.locations_wide != 0);
  return {load_either<T>(p.weights, at, p.weights_wide != 0),
          beside(x * static_cast<float>(columns) - 0.5f, columns),
          beside(y * static_cast<float>(rows) - 0.5f, rows), rows, columns};
}

// function(at, point, start) for each point of a row: its number, and the level's first pixel.
template <class T, class P, class Function>
__device__ __forceinline__ void for_each_point(const P& p, const Levels& levels, int64_t row,
                                               const Function& function) {
  int64_t at = row * p.levels * p.points, start = 0;
  for (int level = 0; level < p.levels; ++level) {
    const int rows = levels.rows[level], columns = levels.columns[level];
    for (int point = 0; point < p.points; ++point, ++at) {
      function(at, point_at<T>(p, at, rows, columns), start);
    }
    start += static_cast<int64_t>(rows) * columns;
  }
}

// function(Type<T>, std::integral_constant<int, N>) for a format, and loads of N elements.
template <class P, class Function>
void with_loads(const P& p, Function function) {
  if (p.levels > MOST_LEVELS || p.width > MOST_CHANNELS) {
    throw Error("deformable attention of " + std::to_string(p.levels) + " levels and " +
                std::to_string(p.width) + " channels a head");
  }
  with_format(p.format, [&](auto type) {
    using T = typename decltype(type)::type;
    if (p.vector != 0) {
      function(type, std::integral_constant<int, FULL_PACK<T>>());
    } else {
      function(type, std::integral_constant<int, 1>());
    }
  });
}

}  // namespace vitkern
