// Gradients of deformable attention. Nothing is added up by two threads: those of locations and weights are
// each query's own, and of the values a task has one level of one head.
#pragma once
#include "deformable_attention.h"

namespace vitkern::VITKERN_ISA {

// Sums of the elements of W vectors, as one vector in their order.
VK_INLINE vf sums(vf (&r)[W]) {
  VK_UNROLL
  for (int n = W / 2; n > 0; n /= 2)
    for (int i = 0; i < n; i++) r[i] = zip_low(r[i], r[i + n]) + zip_high(r[i], r[i + n]);
  return r[0];
}

// dout * pixel, summed over channels, for the corners of points: dots[4 * point + corner], padded to a
// multiple of W. dout is float32, padded to whole vectors; the last one holds zeros for channels that the one
// before it has too.
template <class T>
static void corner_dots(const Points& p, int64_t from, int64_t points, const T* value, int64_t stride, const T* zeros,
                        int64_t channels, const float* dout, float* dots) {
  const int64_t whole = channels / W * W;
  for (int64_t first = 0; first < points; first += W / 4) {
    vf r[W] = {};
    const int64_t here = smaller<int64_t>(W / 4, points - first);
    VK_UNROLL
    for (int j = 0; j < W / 4; j++) {
      if (j >= here) break;
      const int64_t i = from + first + j;
      const T* pixel[4];
      VK_UNROLL
      for (int c = 0; c < 4; c++) pixel[c] = corner(value, stride, p.pixel[c][i], zeros);
      for (int64_t at = 0; at < whole; at += W) {
        const vf g = load(dout + at);
        VK_UNROLL
        for (int c = 0; c < 4; c++) r[4 * j + c] = g * load(pixel[c] + at) + r[4 * j + c];
      }
      if (whole == channels) continue;
      const vf g = load(dout + whole);
      VK_UNROLL
      for (int c = 0; c < 4; c++) {
        const vf v = whole ? load(pixel[c] + channels - W) : load_n(pixel[c], (int)channels);
        r[4 * j + c] = g * v + r[4 * j + c];
      }
    }
    store(dots + 4 * first, sums(r));
  }
}

// dlocations and dweights, by query.
template <class T>
static void deformable_point_gradients(const Runtime& rt, const DeformableAttentionBackwardArgs& b) {
  const DeformableAttentionArgs& a = b.forward;
  const DeformableShared shared = deformable_shared(rt, a);
  const int64_t each = a.levels * a.points, all = a.heads * each, channels = a.heads * a.head_dim;
  const int64_t rows = a.batch * a.queries, block = 8, dots_size = 4 * padded_points(each);
  const T* zeros = (const T*)shared.zeros;
  const int64_t padded = round_up(a.head_dim, W), tail = a.head_dim % W;
  for_tasks(rt, (rows + block - 1) / block, [&](int64_t task) {
    char* memory = (char*)rt.scratch(kOp, points_bytes(all) + (a.heads * dots_size + padded) * 4);
    const Points p = no_points(memory, all);
    float *dots = (float*)(memory + points_bytes(all)), *dout = dots + a.heads * dots_size;
    for (int64_t r = task * block; r < smaller(rows, (task + 1) * block); r++) {
      read_points(a, r * all, all, p, 0);
      find_corners(shared.maps, all, p);
      for (int64_t h = 0; h < a.heads; h++) {
        const T* value = (const T*)a.value + r / a.queries * a.pixels * channels + h * a.head_dim;
        const T* from = (const T*)b.dout + r * channels + h * a.head_dim;
        for (int64_t i = 0; i < a.head_dim; i++) dout[i] = to_float(from[i]);
        if (tail) {
          // At the end of a whole vector where there is one, at its start where there is none.
          float* last = dout + padded - W;
          vf ends = vf{};
          if (a.head_dim < W) ends = load_n(last, (int)tail);
          else
            for (int64_t i = 0; i < tail; i++) ends[W - tail + i] = last[i];
          store(last, ends);
        }
        corner_dots(p, h * each, each, value, channels, zeros, a.head_dim, dout, dots + h * dots_size);
      }
      for (int64_t h = 0; h < a.heads; h++)
        for (int64_t k = 0; k < each; k++) {
          const float* d = dots + h * dots_size + 4 * k;
          const int64_t i = h * each + k;
          const float right = p.right[i], below = p.below[i], left = 1.f - right, above = 1.f - below;
          const float weight = p.weight[i];
          p.share[0][i] = above * (left * d[0] + right * d[1]) + below * (left * d[2] + right * d[3]);
          p.x[i] = weight * shared.maps.width[i] * (above * (d[1] - d[0]) + below * (d[3] - d[2]));
          p.y[i] = weight * shared.maps.height[i] * (left * (d[2] - d[0]) + right * (d[3] - d[1]));
        }
      if (b.dlocations)
        with_type(a.location_type, [&](auto t) {
          auto* to = (decltype(t)*)b.dlocations + 2 * r * all;
          for (int64_t i = 0; i < all; i++) put(to + 2 * i, p.x[i]), put(to + 2 * i + 1, p.y[i]);
        });
      if (b.dweights)
        with_type(a.weight_type, [&](auto t) {
          auto* to = (decltype(t)*)b.dweights + r * all;
          for (int64_t i = 0; i < all; i++) put(to + i, p.share[0][i]);
        });
    }
  });
}

// sums[pixel] += share * dout for the corners of points, in N vectors of channels; sums and dout are at the
// first of these.
template <int N>
VK_INLINE void scatter(const Points& p, int64_t from, int64_t points, const vf (&dout)[N], float* sums,
                       int64_t stride) {
  for (int64_t i = from; i < from + points; i++) {
    VK_UNROLL
    for (int c = 0; c < 4; c++) {
      float* pixel = sums + p.pixel[c][i] * stride;
      const vf share = splat(p.share[c][i]);
      VK_UNROLL
      for (int n = 0; n < N; n++) store(pixel + n * W, share * dout[n] + load(pixel + n * W));
    }
  }
}

// dvalue: each task adds up one level of one head of one image, query by query, in memory of its own.
template <class T>
static void deformable_value_gradient(const Runtime& rt, const DeformableAttentionBackwardArgs& b) {
  const DeformableAttentionArgs& a = b.forward;
  const int64_t channels = a.heads * a.head_dim, padded = round_up(a.head_dim, W);
  const int64_t block = larger<int64_t>(1, 256 / a.points), most = block * a.points;
  for_tasks(rt, a.batch * a.heads * a.levels, [&](int64_t task) {
    const int64_t l = task % a.levels, h = task / a.levels % a.heads, image = task / a.levels / a.heads;
    const DeformableLevel& level = a.level[l];
    const int64_t pixels = level.height * level.width;
    const int64_t fixed = maps_bytes(most) + points_bytes(most);
    char* memory = (char*)rt.scratch(kOp, fixed + (pixels + 1) * padded * 4);
    const PointMaps maps = no_maps(memory, most);
    const Points p = no_points(memory + maps_bytes(most), most);
    // The first pixel is where corners go that are outside.
    float* sums = (float*)(memory + fixed) + padded;
    memset(sums - padded, 0, (pixels + 1) * padded * 4);
    for (int64_t i = 0; i < most; i++) set_map(maps, i, level, 0);

    for (int64_t first = 0; first < a.queries; first += block) {
      const int64_t queries = smaller(block, a.queries - first);
      for (int64_t q = 0; q < queries; q++) {
        const int64_t row = (image * a.queries + first + q) * a.heads + h;
        read_points(a, (row * a.levels + l) * a.points, a.points, p, q * a.points);
      }
      find_corners(maps, queries * a.points, p);
      for (int c = 0; c < 4; c++)
        for (int64_t i = 0; i < queries * a.points; i += W)
          store(p.share[c] + i, load(p.share[c] + i) * load(p.weight + i));
      for (int64_t q = 0; q < queries; q++) {
        const T* dout = (const T*)b.dout + (image * a.queries + first + q) * channels + h * a.head_dim;
        auto add = [&]<int N>(int64_t at) __attribute__((always_inline)) {
          vf g[N];
          VK_UNROLL
          for (int n = 0; n < N; n++) {
            const int live = (int)smaller<int64_t>(W, a.head_dim - at - n * W);
            g[n] = live == W ? load(dout + at + n * W) : load_n(dout + at + n * W, live);
          }
          scatter<N>(p, q * a.points, a.points, g, sums + at, padded);
        };
        int64_t at = 0;
        for (; at + 8 * W <= padded; at += 8 * W) add.template operator()<8>(at);
        if (at + 4 * W <= padded) add.template operator()<4>(at), at += 4 * W;
        if (at + 2 * W <= padded) add.template operator()<2>(at), at += 2 * W;
        if (at + W <= padded) add.template operator()<1>(at);
      }
    }

    T* dvalue = (T*)b.dvalue + (image * a.pixels + level.first) * channels + h * a.head_dim;
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t at = 0; at < a.head_dim; at += W) {
        const int live = (int)smaller<int64_t>(W, a.head_dim - at);
        const vf total = load(sums + i * padded + at);
        if (live == W) store(dvalue + i * channels + at, total);
        else store_n(dvalue + i * channels + at, total, live);
      }
  });
}

static void deformable_attention_backward(const Runtime& rt, const DeformableAttentionBackwardArgs& b) {
  with_type(b.forward.type, [&](auto t) {
    if (b.dlocations || b.dweights) deformable_point_gradients<decltype(t)>(rt, b);
    if (b.dvalue) deformable_value_gradient<decltype(t)>(rt, b);
  });
}

}  // namespace vitkern::VITKERN_ISA
