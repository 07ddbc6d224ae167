// Multi-scale deformable attention: a query's points are found with a vector of points at a time, and their
// pixels added up with a vector of channels at a time.
#pragma once
#include "deformable_points.h"

namespace vitkern::VITKERN_ISA {

// Calls f.template operator()<N, whole>(at) for runs of N vectors of channels from `at` that make up
// `channels`. Where vectors do not divide them the last one begins earlier, and has some again; a single one
// that is not whole has fewer.
template <class F>
VK_INLINE void for_channels(int64_t channels, const F& f) {
  if (channels < W) return f.template operator()<1, false>(0);
  int64_t at = 0;
  for (; at + 8 * W <= channels; at += 8 * W) f.template operator()<8, true>(at);
  if (at + 4 * W <= channels) f.template operator()<4, true>(at), at += 4 * W;
  if (at + 2 * W <= channels) f.template operator()<2, true>(at), at += 2 * W;
  if (at + W <= channels) f.template operator()<1, true>(at), at += W;
  if (at < channels) f.template operator()<1, true>(channels - W);
}

// What all tasks of a call read, in the calling thread's memory: the maps of a query's points, and a pixel
// of zeros for corners that are outside.
struct DeformableShared {
  PointMaps maps;
  const void* zeros;
};
static DeformableShared deformable_shared(const Runtime& rt, const DeformableAttentionArgs& a) {
  const int64_t each = a.levels * a.points, all = a.heads * each;
  char* memory = (char*)rt.scratch(kShared, maps_bytes(all) + a.head_dim * 4);
  const PointMaps maps = no_maps(memory, all);
  for (int64_t i = 0; i < all; i++) {
    const DeformableLevel& level = a.level[i % each / a.points];
    set_map(maps, i, level, level.first);
  }
  return {maps, memset(memory + maps_bytes(all), 0, a.head_dim * 4)};
}

// The channels of a pixel from `first` on, in an image whose pixels are `stride` elements apart.
template <class T>
VK_INLINE const T* corner(const T* first, int64_t stride, int32_t pixel, const T* zeros) {
  return pixel < 0 ? zeros : first + pixel * stride;
}

// out = sum over points and corners of share * pixel, for N vectors of channels (or the first `live` ones).
// `value` and `zeros` are at the first of these channels. share includes the point's weight.
template <int N, bool Whole, class T>
VK_INLINE void sample(const Points& p, int64_t from, int64_t points, const T* value, int64_t stride, const T* zeros,
                      int live, T* out) {
  constexpr int K = N >= 8 ? 1 : N >= 4 ? 2 : 4;  // sums side by side, as an addition takes some cycles
  vf total[K][N] = {};
  for (int64_t i = from; i < from + points; i++) {
    VK_UNROLL
    for (int c = 0; c < 4; c++) {
      const T* pixel = corner(value, stride, p.pixel[c][i], zeros);
      const vf share = splat(p.share[c][i]);
      VK_UNROLL
      for (int n = 0; n < N; n++)
        total[c % K][n] = (Whole ? load(pixel + n * W) : load_n(pixel, live)) * share + total[c % K][n];
    }
  }
  VK_UNROLL
  for (int n = 0; n < N; n++) {
    for (int k = 1; k < K; k++) total[0][n] = total[0][n] + total[k][n];
    if constexpr (Whole) store(out + n * W, total[0][n]);
    else store_n(out, total[0][n], live);
  }
}

template <class T>
static void deformable_attention_as(const Runtime& rt, const DeformableAttentionArgs& a) {
  const DeformableShared shared = deformable_shared(rt, a);
  const int64_t each = a.levels * a.points, all = a.heads * each, channels = a.heads * a.head_dim;
  const int64_t rows = a.batch * a.queries, block = 8;
  const T* zeros = (const T*)shared.zeros;
  for_tasks(rt, (rows + block - 1) / block, [&](int64_t task) {
    const Points p = no_points(rt.scratch(kOp, points_bytes(all)), all);
    for (int64_t r = task * block; r < smaller(rows, (task + 1) * block); r++) {
      read_points(a, r * all, all, p, 0);
      find_corners(shared.maps, all, p);
      for (int c = 0; c < 4; c++)
        for (int64_t i = 0; i < all; i += W) store(p.share[c] + i, load(p.share[c] + i) * load(p.weight + i));
      for (int64_t h = 0; h < a.heads; h++) {
        const T* value = (const T*)a.value + r / a.queries * a.pixels * channels + h * a.head_dim;
        T* out = (T*)a.out + r * channels + h * a.head_dim;
        for_channels(a.head_dim, [&]<int N, bool Whole>(int64_t at) __attribute__((always_inline)) {
          sample<N, Whole>(p, h * each, each, value + at, channels, zeros, (int)a.head_dim, out + at);
        });
      }
    }
  });
}
static void deformable_attention(const Runtime& rt, const DeformableAttentionArgs& a) {
  with_type(a.type, [&](auto t) { deformable_attention_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
