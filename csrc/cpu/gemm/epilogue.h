// What happens to a tile of a product before it is stored: bias, activation, LayerScale, residual.
#pragma once
#include "../simd/math.h"
#include "micro.h"

namespace vitkern::VITKERN_ISA {

// out = residual + gamma * activation(product + bias), or for a backward product
// out = product * activation'(derivative_at). Pointers may be null; matrices are row-major.
template <class T>
struct Epilogue {
  T* out;
  int64_t out_stride;
  const float* bias = nullptr;   // (N,), readable up to whole vectors
  const float* gamma = nullptr;  // the same
  Activation activation = Activation::none;
  const T* residual = nullptr;
  int64_t residual_stride = 0;
  // Matrices laid out alike, `side_stride` apart by rows:
  T* pre = nullptr;                  // gets product + bias
  T* product = nullptr;              // gets activation(product + bias)
  const T* derivative_at = nullptr;  // gives where to take the derivative
  int64_t side_stride = 0;

  // The same of C's columns from this one on.
  Epilogue from(int64_t column) const {
    Epilogue e = *this;
    auto move = [&](auto& p) { p = p ? p + column : p; };
    move(e.out), move(e.bias), move(e.gamma), move(e.residual), move(e.pre), move(e.product), move(e.derivative_at);
    return e;
  }
};

// The common epilogues of whole float32 tiles, all but `product`, as `t` for the tile at (row, column).
// Returns false, with nothing done, for those that need more (see Epilogue).
template <class T>
VK_INLINE bool simple(const Epilogue<T>& e, int64_t row, int64_t column, TileEpilogue* t) {
  if constexpr (sizeof(T) == 4) {
    if (e.product || ((e.pre || e.derivative_at) && e.activation == Activation::none)) return false;
    *t = {e.out + row * e.out_stride + column, e.out_stride, e.bias ? e.bias + column : nullptr,
          e.gamma ? e.gamma + column : nullptr,
          e.residual ? e.residual + row * e.residual_stride + column : nullptr, e.residual_stride,
          e.pre ? e.pre + row * e.side_stride + column : nullptr,
          e.derivative_at ? e.derivative_at + row * e.side_stride + column : nullptr, e.side_stride};
    return true;
  }
  return false;
}

// A tile of NVEC vectors a row through an activation, or times its derivative. Its own function, so
// that the constants of the polynomial stay in registers for the whole tile.
template <Activation F, int NVEC, bool Derivative>
static __attribute__((noinline)) void activate_tile(const float* tile, int64_t stride, int rows, TileEpilogue e) {
  for (int r = 0; r < rows; r++) {
    vf x[NVEC];
    VK_UNROLL
    for (int j = 0; j < NVEC; j++) {
      x[j] = load(tile + r * stride + j * W);
      if (e.bias) x[j] = x[j] + load(e.bias + j * W);
      if constexpr (Derivative) {
        x[j] = x[j] * activation_derivative(F, load(e.derivative_at + r * e.side_stride + j * W));
      } else {
        if (e.pre) store(e.pre + r * e.side_stride + j * W, x[j]);
        x[j] = activate(F, x[j]);
      }
      if (e.gamma) x[j] = x[j] * load(e.gamma + j * W);
      if (e.residual) x[j] = x[j] + load(e.residual + r * e.residual_stride + j * W);
      store(e.out + r * e.out_stride + j * W, x[j]);
    }
  }
}
template <Activation F, int NVEC>
VK_INLINE void activate_columns(const float* tile, int64_t stride, int rows, const TileEpilogue& e) {
  return e.derivative_at ? activate_tile<F, NVEC, true>(tile, stride, rows, e)
                         : activate_tile<F, NVEC, false>(tile, stride, rows, e);
}
template <Activation F>
VK_INLINE void activate_as(const float* tile, int64_t stride, int rows, int vectors, const TileEpilogue& e) {
#if VITKERN_WIDTH == 16
  if (vectors == 3) return activate_columns<F, 3>(tile, stride, rows, e);
#endif
  return vectors == 2 ? activate_columns<F, 2>(tile, stride, rows, e) : activate_columns<F, 1>(tile, stride, rows, e);
}
VK_INLINE void activate_tile(Activation f, const float* tile, int64_t stride, int rows, int vectors,
                             const TileEpilogue& e) {
  with_activation(f, [&](auto a) { activate_as<decltype(a)::value>(tile, stride, rows, vectors, e); });
}

// What the epilogue will write and read of a tile: it lies a row apart, where no hardware prefetcher looks.
// All of it: with the first line of three alone a product over K = 96 reaches 0.78 of the peak on Zen 4, not
// 0.88.
template <class T>
VK_INLINE Lines lines_of(const Epilogue<T>& e, int64_t row, int64_t column) {
  constexpr int64_t kSize = sizeof(T);
  return {(const char*)(e.out + row * e.out_stride + column),
          e.residual ? (const char*)(e.residual + row * e.residual_stride + column) : nullptr, e.out_stride * kSize,
          e.residual_stride * kSize, NR * (int)kSize};
}

// `Whole`: the columns are whole vectors.
template <Activation F, bool Whole, class T>
static void finish(const Epilogue<T>& epilogue, int64_t row, int rows, int64_t column, int columns,
                   const float* tile, int64_t stride) {
  const Epilogue<T> e = epilogue;  // its own copy: stores through T* cannot change it
  auto get = [](const T* p, int n) __attribute__((always_inline)) {
    if constexpr (Whole) return load(p);
    else return n >= W ? load(p) : load_n(p, n);
  };
  auto set = [](T* p, vf x, int n) __attribute__((always_inline)) {
    if (Whole || n >= W) store(p, x);
    else store_n(p, x, n);
  };
  for (int r = 0; r < rows; r++) {
    const int64_t at = (row + r) * e.out_stride + column, side = (row + r) * e.side_stride + column;
    const T* residual = e.residual ? e.residual + (row + r) * e.residual_stride + column : nullptr;
    for (int c = 0; c < columns; c += W) {
      const int n = columns - c;
      vf x = load(tile + r * stride + c);
      if (e.bias) x = x + load(e.bias + column + c);
      if (e.pre) set(e.pre + side + c, x, n);
      if (e.derivative_at) x = x * activation_derivative(F, get(e.derivative_at + side + c, n));
      else x = activate(F, x);
      if (e.product) set(e.product + side + c, x, n);
      if (e.gamma) x = x * load(e.gamma + column + c);
      if (residual) x = x + get(residual + c, n);
      set(e.out + at + c, x, n);
    }
  }
}

template <Activation F, class T>
VK_INLINE void finish_as(const Epilogue<T>& e, int64_t row, int rows, int64_t column, int columns,
                         const float* tile, int64_t stride) {
  if (columns % W == 0) finish<F, true>(e, row, rows, column, columns, tile, stride);
  else finish<F, false>(e, row, rows, column, columns, tile, stride);
}

template <class T>
VK_INLINE void finish_tile(const Epilogue<T>& e, int64_t row, int rows, int64_t column, int columns,
                           const float* tile, int64_t stride) {
  with_activation(e.activation, [&](auto a) {
    finish_as<decltype(a)::value>(e, row, rows, column, columns, tile, stride);
  });
}

}  // namespace vitkern::VITKERN_ISA
