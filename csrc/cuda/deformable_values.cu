// The gradient of deformable attention's maps: each point adds to four pixels, by atomic operations
// in whole numbers, whose sums do not depend on the order: the same bits in every run. A number is
// a fraction of the largest upstream gradient times the largest weight, so that nothing overflows.
#include "deformable_points.cuh"

namespace vitkern {

// dout (batch, queries, heads, width); sums: maps of int64, zeros before. most_*: the largest
// magnitudes, float32; `unit` is the most that a point can give to a pixel.
#define DEFORMABLE_VALUES_FIELDS(FIELD)                                                   \
  DEFORMABLE_FIELDS(FIELD) FIELD(const void*, dout) FIELD(const void*, most_dout)         \
  FIELD(const void*, most_weight) FIELD(void*, sums) FIELD(float, unit)
VITKERN_PARAMS(DeformableValues, DEFORMABLE_VALUES_FIELDS)

// dvalue (count) from the sums; all NaN where an upstream gradient or a weight is not finite.
#define DEFORMABLE_FINISH_FIELDS(FIELD)                                                     \
  FIELD(const void*, sums) FIELD(const void*, most_dout) FIELD(const void*, most_weight)    \
  FIELD(void*, dvalue) FIELD(int64_t, count) FIELD(float, unit) FIELD(int32_t, format)
VITKERN_PARAMS(DeformableFinish, DEFORMABLE_FINISH_FIELDS)

__device__ __forceinline__ int exponent_bits(const void* most) {
  return static_cast<int>(__float_as_uint(*static_cast<const float*>(most)) >> 23 & 0xff);
}
__device__ __forceinline__ bool is_number(const void* most) { return exponent_bits(most) != 0xff; }

// The e of a magnitude, which is below 2 ** e; clipped, so that 2 ** -e is finite.
__device__ __forceinline__ int exponent(const void* most) {
  return min(max(exponent_bits(most) - 126, -120), 126);
}
// 2 ** e for an e of at least -126 and at most 127.
__device__ __forceinline__ float power_of_two(int e) {
  return __uint_as_float(static_cast<unsigned>(e + 127) << 23);
}

template <class T, int N>
__global__ void __launch_bounds__(DEFORMABLE_THREADS, 1)
    deformable_values_kernel(const DeformableValues p, const __grid_constant__ Levels levels) {
  const Worker w = worker_of<N>(p);
  if (!w.known || !is_number(p.most_dout) || !is_number(p.most_weight)) return;
  const T* from = static_cast<const T*>(p.dout) + w.row * p.width;
  const float of_dout = power_of_two(-exponent(p.most_dout));
  const float of_weight = power_of_two(-exponent(p.most_weight));
  float dout[CHUNKS<N>][N] = {};
#pragma unroll
  for (int c = 0; c < CHUNKS<N>; ++c) {
    const int column = w.first + c * w.stride;
    if (column < p.width) load(dout[c], from + column);
#pragma unroll
    for (int i = 0; i < N; ++i) dout[c][i] *= of_dout;
  }
  auto* sums = static_cast<unsigned long long*>(p.sums) + w.map;
  for_each_point<T>(p, levels, w.row, [&](int64_t, const Point& point, int64_t start) {
    const float weight = point.weight * of_weight * p.unit;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      if (!point.is(corner)) continue;
      const float share = weight * point.down(corner) * point.across(corner);
      auto* to = sums + (start + point.pixel(corner)) * w.step;
#pragma unroll
      for (int c = 0; c < CHUNKS<N>; ++c) {
        const int column = w.first + c * w.stride;
        if (column >= p.width) continue;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const auto part = static_cast<long long>(share * dout[c][i]);
          atomicAdd(to + column + i, static_cast<unsigned long long>(part));  // as modulo 2 ** 64
        }
      }
    }
  });
}

constexpr int FINISH_THREADS = 256;

template <class T>
__global__ void __launch_bounds__(FINISH_THREADS)
    deformable_finish_kernel(const DeformableFinish p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * FINISH_THREADS + threadIdx.x;
  if (i >= p.count) return;
  float total = static_cast<float>(static_cast<const long long*>(p.sums)[i]) / p.unit;
  total *= power_of_two(exponent(p.most_dout));
  total *= power_of_two(exponent(p.most_weight));
  const bool finite = is_number(p.most_dout) && is_number(p.most_weight);
  static_cast<T*>(p.dvalue)[i] = from_float<T>(finite ? total : NAN);
}

void deformable_values(const DeformableValues& p, Stream stream) {
  with_loads(p, [&](auto type, auto loads) {
    using T = typename decltype(type)::type;
    launch(deformable_values_kernel<T, decltype(loads)::value>, grid_of(p), DEFORMABLE_THREADS, 0,
           stream, p, levels_of(p));
  });
}

void deformable_finish(const DeformableFinish& p, Stream stream) {
  with_format(p.format, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(ceil_div(p.count, FINISH_THREADS)));
    launch(deformable_finish_kernel<T>, grid, FINISH_THREADS, 0, stream, p);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(deformable_values, DeformableValues)
VITKERN_ENTRY(deformable_finish, DeformableFinish)
