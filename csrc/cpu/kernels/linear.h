// linear: y = residual + gamma * activation(x W^T + b), and its gradients.
#pragma once
#include "../args/linear.h"
#include "../gemm/gradient.h"
#include "normalized_rows.h"

namespace vitkern::VITKERN_ISA {

template <class T>
static void linear_as(const Runtime& rt, const LinearArgs& a) {
  const int64_t out = a.weight.out;
  PaddedVectors vectors(rt, kVectors, 2, out);
  Epilogue<T> e{(T*)a.y, out};
  e.bias = vectors.add((const T*)a.bias, out);
  e.gamma = vectors.add((const T*)a.gamma, out);
  e.activation = a.activation;
  e.residual = (const T*)a.residual;
  e.residual_stride = a.residual_stride;
  e.pre = (T*)a.pre;
  e.side_stride = out;
  multiply_rows<T>(rt, (const T*)a.x, a.x_stride, a.rows, Norm{}, a.weight, vectors, e);
}
static void linear(const Runtime& rt, const LinearArgs& a) {
  with_type(a.type, [&](auto t) { linear_as<decltype(t)>(rt, a); });
}

// z W through the epilogue, for z (rows, out) float32.
template <class T, class Y>
static void multiply_by_plain(const Runtime& rt, int64_t rows, const float* z, int64_t stride, const Weight& weight,
                              Slot slot, const Epilogue<Y>& epilogue) {
  using C = Compute<float>;
  const Operand b = plain_operand<C, T>(rt, slot, weight);
  with_ready_rows<C>(rt, Rows<C, float>{z, stride, weight.out}, rows, weight.in, kNormed, [&](const auto& ready) {
    multiply_all<C::dot>(rt, ready, rows, b, weight.in, C::steps(weight.out), epilogue);
  });
}
// dx = z W
template <class T>
static void input_gradient(const Runtime& rt, int64_t rows, const float* z, int64_t stride, const Weight& weight,
                           Slot slot, T* dx) {
  multiply_by_plain<T>(rt, rows, z, stride, weight, slot, Epilogue<T>{dx, weight.in});
}

template <class T>
static void linear_backward_as(const Runtime& rt, const LinearBackwardArgs& a) {
  const int64_t out = a.weight.out, in = a.weight.in;
  const T *dy = (const T*)a.dy, *pre = (const T*)a.pre, *x = (const T*)a.x;
  const float* z = (const float*)a.dy;
  int64_t stride = out;
  if (sizeof(T) != 4 || a.gamma || a.activation != Activation::none) {
    stride = padded_stride(out);
    float* buffer = (float*)rt.scratch(kShared, a.rows * stride * 4);
    PaddedVectors vectors(rt, kVectors, 1, out);
    scaled_gradient(rt, a.rows, out, dy, vectors.add((const T*)a.gamma, out), pre, a.activation, buffer, stride);
    z = buffer;
  }
  if (a.dgamma)
    column_sums(rt, a.rows, out, (T*)a.dgamma, [&](int64_t r, int64_t c, int n) {
      return load_up_to(dy + r * out + c, n) * activate(a.activation, load_up_to(pre + r * out + c, n));
    });
  if (a.dx) input_gradient(rt, a.rows, z, stride, a.weight, kPackedB, (T*)a.dx);
  if (a.dweight || a.dbias)
    weight_gradient(rt, a.rows, out, in, z, stride,
                    [&](int64_t c, int64_t n) { return PlainRows<T>{x + c, a.x_stride, n}; }, false,
                    false, [](vf v) { return v; }, (T*)a.dweight, (T*)a.dbias);
}
static void linear_backward(const Runtime& rt, const LinearBackwardArgs& a) {
  with_type(a.type, [&](auto t) { linear_backward_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
