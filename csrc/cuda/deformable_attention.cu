// Deformable attention: sums of maps' values at a query's points, and the gradients of locations
// and weights, which are each query's own.
#include "deformable_points.cuh"

namespace vitkern {

// value: maps. out (batch, queries, heads, width).
#define DEFORMABLE_FORWARD_FIELDS(FIELD) \
  DEFORMABLE_FIELDS(FIELD) FIELD(const void*, value) FIELD(void*, out)
VITKERN_PARAMS(DeformableForward, DEFORMABLE_FORWARD_FIELDS)

// dout as out; dlocations and dweights, or null, as locations and weights.
#define DEFORMABLE_POINTS_FIELDS(FIELD)                                           \
  DEFORMABLE_FIELDS(FIELD) FIELD(const void*, value) FIELD(const void*, dout)     \
  FIELD(void*, dlocations) FIELD(void*, dweights)
VITKERN_PARAMS(DeformablePoints, DEFORMABLE_POINTS_FIELDS)

template <class T, int N>
__global__ void __launch_bounds__(DEFORMABLE_THREADS, 1)
    deformable_forward_kernel(const DeformableForward p, const __grid_constant__ Levels levels) {
  const Worker w = worker_of<N>(p);
  if (!w.known) return;
  const T* value = static_cast<const T*>(p.value) + w.map;
  float sums[CHUNKS<N>][N] = {};
  for_each_point<T>(p, levels, w.row, [&](int64_t, const Point& point, int64_t start) {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const float share = point.weight * point.down(corner) * point.across(corner);
      const bool is = point.is(corner);
      const T* from = value + (start + (is ? point.pixel(corner) : 0)) * w.step;
#pragma unroll
      for (int c = 0; c < CHUNKS<N>; ++c) {
        const int column = w.first + c * w.stride;
        float values[N] = {};
        if (is && column < p.width) load(values, from + column);
#pragma unroll
        for (int i = 0; i < N; ++i) sums[c][i] += share * values[i];
      }
    }
  });
  T* out = static_cast<T*>(p.out) + w.row * p.width;
#pragma unroll
  for (int c = 0; c < CHUNKS<N>; ++c) {
    const int column = w.first + c * w.stride;
    if (column < p.width) store(out + column, sums[c]);
  }
}

// Over the threads of a team; every one of them gets it.
__device__ __forceinline__ float team_sum(float value, int team) {
  for (int with = team / 2; with > 0; with /= 2) {
    value += __shfl_xor_sync(ALL_LANES, value, with);
  }
  return value;
}

template <class T, int N>
__global__ void __launch_bounds__(DEFORMABLE_THREADS, 1)
    deformable_points_kernel(const DeformablePoints p, const __grid_constant__ Levels levels) {
  const Worker w = worker_of<N>(p);
  const T* value = static_cast<const T*>(p.value) + w.map;
  const T* from = static_cast<const T*>(p.dout) + w.row * p.width;
  float dout[CHUNKS<N>][N] = {};
#pragma unroll
  for (int c = 0; c < CHUNKS<N>; ++c) {
    const int column = w.first + c * w.stride;
    if (column < p.width) load(dout[c], from + column);
  }
  for_each_point<T>(p, levels, w.row, [&](int64_t at, const Point& point, int64_t start) {
    float products[4] = {};
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const bool is = point.is(corner);
      const T* pixel = value + (start + (is ? point.pixel(corner) : 0)) * w.step;
#pragma unroll
      for (int c = 0; c < CHUNKS<N>; ++c) {
        const int column = w.first + c * w.stride;
        float values[N] = {};
        if (is && column < p.width) load(values, pixel + column);
#pragma unroll
        for (int i = 0; i < N; ++i) products[corner] += dout[c][i] * values[i];
      }
    }
    float sample = 0.0f, across = 0.0f, down = 0.0f;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      sample += point.down(corner) * point.across(corner) * products[corner];
      across += (corner % 2 == 0 ? -1.0f : 1.0f) * point.down(corner) * products[corner];
      down += (corner < 2 ? -1.0f : 1.0f) * point.across(corner) * products[corner];
    }
    sample = team_sum(sample, p.team);
    if (p.dlocations != nullptr) {
      across = team_sum(across, p.team);
      down = team_sum(down, p.team);
    }
    if (!w.known || w.rank != 0) return;
    if (p.dweights != nullptr) store_either<T>(p.dweights, at, p.weights_wide != 0, sample);
    if (p.dlocations != nullptr) {
      const bool wide = p.locations_wide != 0;
      const auto columns = static_cast<float>(point.columns), rows = static_cast<float>(point.rows);
      store_either<T>(p.dlocations, 2 * at, wide, point.weight * columns * across);
      store_either<T>(p.dlocations, 2 * at + 1, wide, point.weight * rows * down);
    }
  });
}

void deformable_forward(const DeformableForward& p, Stream stream) {
  with_loads(p, [&](auto type, auto loads) {
    using T = typename decltype(type)::type;
    launch(deformable_forward_kernel<T, decltype(loads)::value>, grid_of(p), DEFORMABLE_THREADS, 0,
           stream, p, levels_of(p));
  });
}

void deformable_points(const DeformablePoints& p, Stream stream) {
  with_loads(p, [&](auto type, auto loads) {
    using T = typename decltype(type)::type;
    launch(deformable_points_kernel<T, decltype(loads)::value>, grid_of(p), DEFORMABLE_THREADS, 0,
           stream, p, levels_of(p));
  });
}

}  // namespace vitkern

VITKERN_ENTRY(deformable_forward, DeformableForward)
VITKERN_ENTRY(deformable_points, DeformablePoints)
