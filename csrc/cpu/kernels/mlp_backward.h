// The gradients of an mlp. Where the weights are small, a block of rows goes through all of it while it
// is in the cache (see MlpSlices); else one product after the other goes over all rows.
#pragma once
#include "mlp.h"

namespace vitkern::VITKERN_ISA {

template <class T>
static void mlp_backward_whole(const Runtime& rt, const MlpBackwardArgs& a) {
  const int64_t hidden = a.weight1.out, in = a.weight1.in, out = a.weight2.out;
  const T *dy = (const T*)a.dy, *pre = (const T*)a.pre1, *x = (const T*)a.x;
  const int64_t ldz = padded_stride(out), ldh = padded_stride(hidden);
  const bool scaled = sizeof(T) != 4 || a.gamma;
  float* shared = (float*)rt.scratch(kShared, a.rows * ((scaled ? ldz : 0) + ldh) * 4);
  const float* z = (const float*)a.dy;
  int64_t z_stride = out;
  if (scaled) {
    PaddedVectors vectors(rt, kVectors, 1, out);
    scaled_gradient<T>(rt, a.rows, out, dy, vectors.add((const T*)a.gamma, out), nullptr, Activation::none, shared, ldz);
    z = shared;
    z_stride = ldz;
  }
  if (a.dweight2 || a.dbias2)
    weight_gradient(rt, a.rows, out, hidden, z, z_stride,
                    [&](int64_t c, int64_t n) { return PlainRows<T>{pre + c, hidden, n}; }, false,
                    true, [&](vf v) { return activate(a.activation, v); }, (T*)a.dweight2, (T*)a.dbias2);
  if (!a.dx && !a.dweight1 && !a.dbias1) return;
  // The gradient at the pre-activation, float32.
  float* dpre = shared + (scaled ? a.rows * ldz : 0);
  if constexpr (sizeof(T) == 4) {
    Epilogue<float> e{dpre, ldh};
    e.activation = a.activation;
    e.derivative_at = (const float*)pre;
    e.side_stride = hidden;
    multiply_by_plain<T>(rt, a.rows, z, z_stride, a.weight2, kPackedB, e);
  } else {
    multiply_by_plain<T>(rt, a.rows, z, z_stride, a.weight2, kPackedB, Epilogue<float>{dpre, ldh});
    for_tasks(rt, a.rows, [&](int64_t r) {
      for (int64_t c = 0; c < hidden; c += W) {
        vf v = load_up_to(pre + r * hidden + c, (int)smaller<int64_t>(W, hidden - c));
        store(dpre + r * ldh + c, load(dpre + r * ldh + c) * activation_derivative(a.activation, v));
      }
    });
  }
  if (a.dx) input_gradient(rt, a.rows, dpre, ldh, a.weight1, kPackedB, (T*)a.dx);
  if (a.dweight1 || a.dbias1)
    weight_gradient(rt, a.rows, hidden, in, dpre, ldh,
                    [&](int64_t c, int64_t n) { return PlainRows<T>{x + c, a.x_stride, n}; }, false,
                    false, [](vf v) { return v; }, (T*)a.dweight1, (T*)a.dbias1);
}
// Rows in slices, each with its own sums of both weights' gradients; by shapes alone, as GradientGrid.
struct MlpSlices {
  int64_t in, hidden, out, block, count;
  explicit MlpSlices(const MlpBackwardArgs& a)
      : in(a.weight1.in), hidden(a.weight1.out), out(a.weight2.out),
        block(in + out <= 256 ? 192 : 128),  // rows of x, z and both packed: about the second-level cache
        count(smaller<int64_t>(32, smaller(a.rows / (2 * block), (12 << 20) / larger<int64_t>(1, floats() * 4)))) {}
  // Sums of dweight1^T (in, hidden) and dweight2 (out, hidden), as panels of hidden columns.
  int64_t floats() const { return packed_floats(hidden, in) + packed_floats(hidden, out); }
  // Tiles multiply so fast that slices, which vectors multiply, pay for small weights alone.
  bool few() const { return count < 8 || (VITKERN_AMX && in + out > 256); }
};

// dpanel (rows, width) has the gradient at the activation's result, and becomes that at its argument, as
// do `width` columns of dpre; `active` gets the result.
template <Activation F, bool Whole, class T>
static __attribute__((noinline)) void activation_and_slope(const T* pre, int64_t stride, int64_t rows, int64_t width,
                                                           int64_t live, float* dpre, int64_t ldp, float* dpanel,
                                                           float* active) {
  if (Whole) width = NR;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < width; c += W) {
      const T* p = pre + r * stride + c;
      const ValueAndSlope y = activate_with_slope(F, Whole ? load(p) : load_up_to(p, (int)smaller<int64_t>(W, live - c)));
      const vf d = load(dpanel + r * width + c) * y.slope;
      store(dpre + r * ldp + c, d);
      store(dpanel + r * width + c, d);
      store(active + r * width + c, y.value);
    }
}

template <class T>
static void mlp_backward_slices(const Runtime& rt, const MlpBackwardArgs& a, const MlpSlices& s) {
  const int64_t in = s.in, hidden = s.hidden, out = s.out;
  const int64_t ldz = padded_stride(out), ldh = padded_stride(hidden);
  const T *dy = (const T*)a.dy, *x = (const T*)a.x, *pre = (const T*)a.pre1;
  PaddedVectors vectors(rt, kVectors, 1, out);
  const float* gamma = vectors.add((const T*)a.gamma, out);
  const float* w2 = plain_weight<T>(rt, kPackedB, a.weight2);
  const float* w1 = a.dx ? plain_weight<T>(rt, kPackedB2, a.weight1) : nullptr;
  // Of each slice: the sums of the weights, then those of the biases in double.
  const int64_t biases = hidden + out, slice_bytes = s.floats() * 4 + biases * 8;
  char* partial = (char*)rt.scratch(kGradient, s.count * slice_bytes);
  const RowTiles in_tiles(in), out_tiles(out);

  for_tasks(rt, s.count, [&](int64_t slice) {
    float *sums1 = (float*)(partial + slice * slice_bytes), *sums2 = sums1 + packed_floats(hidden, in);
    double *dbias1 = (double*)(sums1 + s.floats()), *dbias2 = dbias1 + hidden;
    for (int64_t i = 0; i < biases; i++) dbias1[i] = 0;
    float* z = (float*)rt.scratch(kRowsA, s.block * (padded_stride(in) + ldz) * 4);
    float *xr = z + s.block * ldz, *zt = (float*)rt.scratch(kRowsT, s.block * (in + out) * 4), *xt = zt + s.block * out;
    float *dpre = (float*)rt.scratch(kHidden, s.block * ldh * 4);
    float *dpanel = (float*)rt.scratch(kPanelsB, 2 * s.block * NR * 4 + kPrefetchSlack), *active = dpanel + s.block * NR;
    const int64_t begin = a.rows * slice / s.count, end = a.rows * (slice + 1) / s.count;
    const int64_t blocks = (end - begin + s.block - 1) / s.block;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t row = begin + (end - begin) * b / blocks, n = begin + (end - begin) * (b + 1) / blocks - row;
      scale_rows<T>(n, out, dy + row * out, gamma, nullptr, Activation::none, z, ldz);
      if (a.dbias2) add_columns(z, ldz, n, out, dbias2);
      TransposedRows by_out{}, by_in{};
      if (a.dweight2) by_out = transposed_rows(z, ldz, n, out_tiles, zt);
      if (a.dweight1) {
        int64_t ldx;
        const float* rows = PlainRows<T>{x, a.x_stride, in}.block(row, n, xr, &ldx);
        by_in = transposed_rows(rows, ldx, n, in_tiles, xt);
      }
      for (int64_t p = 0; p < panels_of(hidden); p++) {
        const int64_t width = panel_width(hidden, p), column = p * NR, live = smaller(width, hidden - column);
        multiply_block(rt, z, ldz, 0, n, panel(w2, out, p), live, out, 0, 1, Epilogue<float>{dpanel, width});
        with_activation(a.activation, [&](auto f) {
          constexpr Activation kF = decltype(f)::value;
          const auto apply = live == NR ? activation_and_slope<kF, true, T> : activation_and_slope<kF, false, T>;
          apply(pre + row * hidden + column, hidden, n, width, live, dpre + column, ldh, dpanel, active);
        });
        if (a.dweight1) multiply_tiles(in_tiles, by_in, n, dpanel, width, panel(sums1, in, p), width, b > 0);
        if (a.dweight2) multiply_tiles(out_tiles, by_out, n, active, width, panel(sums2, out, p), width, b > 0);
      }
      if (a.dbias1) add_columns(dpre, ldh, n, hidden, dbias1);
      if (a.dx)
        multiply_block(rt, dpre, ldh, row, n, w1, in, hidden, 0, panels_of(in), Epilogue<T>{(T*)a.dx, in});
    }
  });

  auto total = [&](int64_t offset) {
    float t = 0;
    for (int64_t i = 0; i < s.count; i++) t += *(const float*)(partial + i * slice_bytes + offset * 4);
    return t;
  };
  for_tasks(rt, panels_of(hidden), [&](int64_t p) {
    const int64_t width = panel_width(hidden, p), first = p * NR, live = smaller(width, hidden - first);
    const int64_t at1 = first * in, at2 = packed_floats(hidden, in) + first * out;
    for (int64_t h = 0; a.dweight1 && h < live; h++)
      for (int64_t i = 0; i < in; i++) put((T*)a.dweight1 + (first + h) * in + i, total(at1 + i * width + h));
    for (int64_t o = 0; a.dweight2 && o < out; o++)
      for (int64_t h = 0; h < live; h++) put((T*)a.dweight2 + o * hidden + first + h, total(at2 + o * width + h));
  });
  auto bias = [&](T* to, int64_t offset, int64_t n) {
    for (int64_t i = 0; to && i < n; i++) {
      double t = 0;
      for (int64_t j = 0; j < s.count; j++)
        t += ((const double*)(partial + j * slice_bytes + s.floats() * 4))[offset + i];
      put(to + i, (float)t);
    }
  };
  bias((T*)a.dbias1, 0, hidden);
  bias((T*)a.dbias2, hidden, out);
}

static void mlp_backward(const Runtime& rt, const MlpBackwardArgs& a) {
  const MlpSlices slices(a);
  with_type(a.type, [&](auto t) {
    using T = decltype(t);
    if (a.dgamma) {
      const int64_t out = slices.out;
      column_sums(rt, a.rows, out, (T*)a.dgamma, [&](int64_t r, int64_t c, int n) {
        return load_up_to((const T*)a.dy + r * out + c, n) * load_up_to((const T*)a.out2 + r * out + c, n);
      });
    }
    if (slices.few() || !(a.dx || a.dweight1 || a.dbias1)) mlp_backward_whole<T>(rt, a);
    else mlp_backward_slices<T>(rt, a, slices);
  });
}

}  // namespace vitkern::VITKERN_ISA
