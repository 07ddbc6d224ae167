// Where the points of deformable attention are: the four pixels around each, and their shares.
#pragma once
#include "../args/deformable_attention.h"
#include "../simd/vec.h"

namespace vitkern::VITKERN_ISA {

// Buffers are padded to a multiple of every vector's width.
VK_INLINE int64_t padded_points(int64_t points) { return round_up(points, 16); }

// The maps that a run of points is on, an entry a point.
struct PointMaps {
  float *width, *height;
  int32_t *columns, *rows, *first;
};
VK_INLINE int64_t maps_bytes(int64_t points) { return 5 * padded_points(points) * 4; }
// No point behind the last one is inside its map.
VK_INLINE PointMaps no_maps(void* memory, int64_t points) {
  const int64_t n = padded_points(points);
  float* p = (float*)memset(memory, 0, maps_bytes(points));
  return {p, p + n, (int32_t*)(p + 2 * n), (int32_t*)(p + 3 * n), (int32_t*)(p + 4 * n)};
}
VK_INLINE void set_map(const PointMaps& maps, int64_t point, const DeformableLevel& level, int64_t first) {
  maps.width[point] = (float)level.width;
  maps.height[point] = (float)level.height;
  maps.columns[point] = (int32_t)level.width;
  maps.rows[point] = (int32_t)level.height;
  maps.first[point] = (int32_t)first;
}

// A run of points, an entry a point. Corners: upper left, upper right, lower left, lower right.
struct Points {
  float *x, *y, *weight;
  float *right, *below;  // how far it is from the upper left pixel, 0 to 1
  float* share[4];       // of its value, which each corner gives
  int32_t* pixel[4];     // where each corner is; -1 = outside, and gives nothing
};
VK_INLINE int64_t points_bytes(int64_t points) { return 13 * padded_points(points) * 4; }
VK_INLINE Points no_points(void* memory, int64_t points) {
  const int64_t n = padded_points(points);
  float* p = (float*)memset(memory, 0, points_bytes(points));
  Points r{p, p + n, p + 2 * n, p + 3 * n, p + 4 * n, {}, {}};
  for (int c = 0; c < 4; c++) r.share[c] = p + (5 + c) * n, r.pixel[c] = (int32_t*)(p + (9 + c) * n);
  return r;
}

// Reads `count` locations and weights, of points from `from` of the tensors, to `to` and after.
static void read_points(const DeformableAttentionArgs& a, int64_t from, int64_t count, const Points& p, int64_t to) {
  with_type(a.location_type, [&](auto t) {
    const auto* location = (const decltype(t)*)a.locations + 2 * from;
    for (int64_t i = 0; i < count; i++) {
      p.x[to + i] = to_float(location[2 * i]);
      p.y[to + i] = to_float(location[2 * i + 1]);
    }
  });
  with_type(a.weight_type, [&](auto t) {
    const auto* weight = (const decltype(t)*)a.weights + from;
    for (int64_t i = 0; i < count; i++) p.weight[to + i] = to_float(weight[i]);
  });
}

// Fills in the corners of `count` points that were read. A location that is not on the map or less than a
// pixel beside it, or is no number, has its corners outside; no comparison is true of a NaN.
static void find_corners(const PointMaps& maps, int64_t count, const Points& p) {
  auto ints = [](const int32_t* from) __attribute__((always_inline)) { return as_int(load((const float*)from)); };
  for (int64_t i = 0; i < count; i += W) {
    const vf width = load(maps.width + i), height = load(maps.height + i);
    vf x = load(p.x + i) * width - splat(0.5f), y = load(p.y + i) * height - splat(0.5f);
    const vi inside = (x >= splat(-1.f)) & (x < width) & (y >= splat(-1.f)) & (y < height);
    x = select(inside, x, vf{});
    y = select(inside, y, vf{});
    vi column = __builtin_convertvector(x, vi), row = __builtin_convertvector(y, vi);
    column += __builtin_convertvector(column, vf) > x;  // true is -1: down, not towards 0
    row += __builtin_convertvector(row, vf) > y;
    const vf right = x - __builtin_convertvector(column, vf), below = y - __builtin_convertvector(row, vf);
    const vf left = splat(1.f) - right, above = splat(1.f) - below;
    store(p.right + i, right);
    store(p.below + i, below);
    store(p.share[0] + i, above * left);
    store(p.share[1] + i, above * right);
    store(p.share[2] + i, below * left);
    store(p.share[3] + i, below * right);
    // Compared as unsigned, -1 is too large.
    const vi columns = ints(maps.columns + i), rows = ints(maps.rows + i);
    const vi left_is = (vi)((vu)column < (vu)columns) & inside, right_is = (vi)((vu)(column + 1) < (vu)columns) & inside;
    const vi above_is = (vi)((vu)row < (vu)rows), below_is = (vi)((vu)(row + 1) < (vu)rows);
    const vi pixel = ints(maps.first + i) + row * columns + column;
    auto put_pixels = [&](int c, vi at, vi is) __attribute__((always_inline)) {
      store((float*)(p.pixel[c] + i), as_float(at | ~is));
    };
    put_pixels(0, pixel, above_is & left_is);
    put_pixels(1, pixel + 1, above_is & right_is);
    put_pixels(2, pixel + columns, below_is & left_is);
    put_pixels(3, pixel + columns + 1, below_is & right_is);
  }
}

}  // namespace vitkern::VITKERN_ISA
