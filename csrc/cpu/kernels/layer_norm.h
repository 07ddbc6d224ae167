// layer_norm over the last dimension, with the residual add in the same pass; float32 statistics.
#pragma once
#include "../args/layer_norm.h"
#include "../gemm/weight.h"

namespace vitkern::VITKERN_ISA {

// Mean and 1 / sqrt(variance + eps) of n floats; two passes, as the row is in the cache.
VK_INLINE void moments(const float* x, int64_t n, float eps, float* mean, float* scale) {
  vf s0 = {}, s1 = {};
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    s0 = s0 + load(x + i);
    s1 = s1 + load(x + i + W);
  }
  float total = sum(s0 + s1);
  for (; i < n; i++) total += x[i];
  const float m = total / (float)n;
  s0 = s1 = vf{};
  for (i = 0; i + 2 * W <= n; i += 2 * W) {
    vf d0 = load(x + i) - splat(m), d1 = load(x + i + W) - splat(m);
    s0 = d0 * d0 + s0;
    s1 = d1 * d1 + s1;
  }
  total = sum(s0 + s1);
  for (; i < n; i++) total += (x[i] - m) * (x[i] - m);
  *mean = m;
  *scale = 1.f / __builtin_sqrtf(total / (float)n + eps);
}

// out = (x - mean) * scale * weight + bias
template <class T>
VK_INLINE void normalize(const float* x, int64_t n, float mean, float scale, const float* weight, const float* bias,
                         T* out) {
  const vf m = splat(mean), s = splat(scale);
  for (int64_t i = 0; i < n; i += W) {
    const int live = (int)smaller<int64_t>(W, n - i);
    vf v = (live == W ? load(x + i) : load_n(x + i, live)) - m;
    v = v * s;
    if (weight) v = v * load(weight + i);
    if (bias) v = v + load(bias + i);
    if (live == W) store(out + i, v);
    else store_n(out + i, v, live);
  }
}

template <class T, class U>
static void layer_norm_as(const Runtime& rt, const LayerNormArgs& a) {
  const int64_t n = a.columns;
  PaddedVectors vectors(rt, kVectors, 2, n);
  const float *weight = vectors.add((const U*)a.weight, n), *bias = vectors.add((const U*)a.bias, n);
  const int64_t block = larger<int64_t>(1, 16384 / n);
  for_tasks(rt, (a.rows + block - 1) / block, [&](int64_t task) {
    float* buffer = (float*)rt.scratch(kOp, n * 4);
    for (int64_t r = task * block; r < smaller(a.rows, (task + 1) * block); r++) {
      const T* x = (const T*)a.x + r * n;
      if (a.residual) {
        const T* res = (const T*)a.residual + r * n;
        T* out = (T*)a.sum + r * n;
        int64_t i = 0;
        for (; i + W <= n; i += W) store(out + i, load(x + i) + load(res + i));
        for (; i < n; i++) put(out + i, to_float(x[i]) + to_float(res[i]));
        x = out;
      }
      const float* row = as_floats(x, n, buffer);
      float mean, scale;
      moments(row, n, a.eps, &mean, &scale);
      normalize(row, n, mean, scale, weight, bias, (T*)a.y + r * n);
      if (a.stats) a.stats[2 * r] = mean, a.stats[2 * r + 1] = scale;
    }
  });
}
static void layer_norm(const Runtime& rt, const LayerNormArgs& a) {
  with_type(a.type, [&](auto t) {
    with_type(a.weight_type, [&](auto u) { layer_norm_as<decltype(t), decltype(u)>(rt, a); });
  });
}

template <class T, class U>
static void layer_norm_backward_as(const Runtime& rt, const LayerNormBackwardArgs& a) {
  const int64_t n = a.columns, padded = round_up(n, 16);
  PaddedVectors vectors(rt, kVectors, 1, n);
  const float* weight = vectors.add((const U*)a.weight, n);
  // The rows are cut the same way whatever the number of threads, so that dweight and dbias repeat.
  const int64_t chunks = larger<int64_t>(1, smaller<int64_t>(32, a.rows / 16));
  double* partial = (double*)rt.scratch(kShared, chunks * 2 * padded * 8);
  for_tasks(rt, chunks, [&](int64_t task) {
    // Runs of rows add up in float (dw, db), the runs in double.
    constexpr int64_t kRun = 16;
    double* totals = partial + task * 2 * padded;
    for (int64_t i = 0; i < 2 * padded; i++) totals[i] = 0;
    float* buffers = (float*)rt.scratch(kOp, 4 * padded * 4);
    float *dw = buffers + 2 * padded, *db = dw + padded;
    memset(dw, 0, 2 * padded * 4);
    const int64_t first = a.rows * task / chunks, last = a.rows * (task + 1) / chunks;
    auto flush = [&] {
      for (int64_t i = 0; i < 2 * padded; i++) totals[i] += dw[i], dw[i] = 0.f;
    };
    for (int64_t r = first; r < last; r++) {
      if ((r - first) % kRun == 0) flush();
      const float mean = a.stats[2 * r], scale = a.stats[2 * r + 1];
      const float* x = as_floats((const T*)a.x + r * n, n, buffers);
      const float* dy = as_floats((const T*)a.dy + r * n, n, buffers + padded);
      auto at = [&](const float* p, int64_t i) __attribute__((always_inline)) {
        return n - i >= W ? load(p + i) : load_n(p + i, (int)(n - i));
      };
      vf s1 = {}, s2 = {};
      for (int64_t i = 0; i < n; i += W) {
        vf live = select(iota() < splat_int((int)smaller<int64_t>(W, n - i)), splat(1.f), vf{});
        vf h = (at(x, i) - splat(mean)) * splat(scale) * live, g = at(dy, i);
        store(dw + i, load(dw + i) + g * h);
        store(db + i, load(db + i) + g);
        if (weight) g = g * load(weight + i);
        s1 = s1 + g;
        s2 = g * h + s2;
      }
      if (!a.dx) continue;
      const vf c1 = splat(sum(s1) / (float)n), c2 = splat(sum(s2) / (float)n), sc = splat(scale);
      T* dx = (T*)a.dx + r * n;
      const T* dsum = a.dsum ? (const T*)a.dsum + r * n : nullptr;
      for (int64_t i = 0; i < n; i += W) {
        const int live = (int)smaller<int64_t>(W, n - i);
        vf h = (at(x, i) - splat(mean)) * sc, g = at(dy, i);
        if (weight) g = g * load(weight + i);
        vf d = sc * (g - c1 - h * c2);
        if (dsum) d = d + (live == W ? load(dsum + i) : load_n(dsum + i, live));
        if (live == W) store(dx + i, d);
        else store_n(dx + i, d, live);
      }
    }
    flush();
  });
  auto reduce = [&](U* out, int64_t offset) {
    if (!out) return;
    for (int64_t i = 0; i < n; i++) {
      double s = 0;
      for (int64_t c = 0; c < chunks; c++) s += partial[c * 2 * padded + offset + i];
      put(out + i, (float)s);
    }
  };
  reduce((U*)a.dweight, 0);
  reduce((U*)a.dbias, padded);
}
static void layer_norm_backward(const Runtime& rt, const LayerNormBackwardArgs& a) {
  with_type(a.type, [&](auto t) {
    with_type(a.weight_type, [&](auto u) { layer_norm_backward_as<decltype(t), decltype(u)>(rt, a); });
  });
}

}  // namespace vitkern::VITKERN_ISA
