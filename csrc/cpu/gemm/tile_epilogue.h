// A square of C that tile registers made (see tiles.h), on its way through the epilogue.
#pragma once
#include "epilogue.h"
#include "operand.h"

namespace vitkern::VITKERN_ISA {

constexpr int kSide = 16;  // rows of a tile register, and words of each
constexpr int kTileRows = 2 * kSide, kTileColumns = 2 * kSide;  // of a square

// What int8 products need beside the integers, as in TileEpilogue; those of floats in parts the reach of their columns
// (as `scale`) and rows (where the zero is).
struct Steps {
  const float* scale;
  const int32_t* sums;
  const float* rows;  // `stride` apart
  int64_t stride;

#if VITKERN_AMX
  // Back from the powers of two of row and column.
  __attribute__((always_inline)) vf lowered(vf x, int row, int column) const {
    const vi exponent = lift_exponent(splat(rows[row * stride + 1])) + lift_exponent(load(scale + column));
    return (vf)_mm512_scalef_ps((__m512)x, (__m512)__builtin_convertvector(exponent, vf));
  }
#endif

  __attribute__((always_inline)) vf to_float(vf integers, int row, int column) const {
    const float* step = rows + row * stride;
    int32_t zero;
    memcpy(&zero, step + 1, 4);
    const vi sum = (vi)integers - (vi)load((const float*)sums + column) * splat_int(zero);
    return __builtin_convertvector(sum, vf) * (splat(*step) * load(scale + column));
  }
};

// What an epilogue has to do with a second matrix.
enum class Side { none, pre, derivative };

// Rows [first, last) of a square: out = residual + gamma * F(c + bias), or as Epilogue says with a side, all columns
// of it. Instructions in products' way cost what they take, so that there are as few as can be.
template <Activation F, Dot D, bool Gamma, bool Residual, Side S, class T>
static __attribute__((noinline)) void finish_whole(const Epilogue<T>& e, const Steps& steps, int64_t row, int64_t column,
                                                   const float* c, int first, int last) {
  const vf zeros = {};
  const float *b = e.bias + column, *g = e.gamma + column;
  const vf bias[2] = {e.bias ? load(b) : zeros, e.bias ? load(b + W) : zeros};
  const vf gamma[2] = {Gamma ? load(g) : zeros, Gamma ? load(g + W) : zeros};
  const int64_t stride = e.out_stride, residual_stride = e.residual_stride;
  T* out = e.out + (row + first) * stride + column;
  const T* residual = Residual ? e.residual + (row + first) * residual_stride + column : nullptr;
  const int64_t side_stride = e.side_stride, at = (row + first) * side_stride + column;
  T* pre = S == Side::pre ? e.pre + at : nullptr;
  const T* slope_at = S == Side::derivative ? e.derivative_at + at : nullptr;
  const Steps s = steps;  // its own copy: stores through T* cannot change it
  for (int r = first; r < last; r++) {
    VK_UNROLL
    for (int j = 0; j < 2; j++) {
      vf x = load(c + r * kTileColumns + j * W);
      if constexpr (D == Dot::u8_s8) x = s.to_float(x, r, j * W);
      x = x + bias[j];
      if constexpr (S == Side::pre) store(pre + j * W, x);
      if constexpr (S == Side::derivative) x = x * activation_derivative(F, load(slope_at + j * W));
      else x = activate(F, x);
      if (Gamma) x = x * gamma[j];
      if (Residual) x = x + load(residual + j * W);
      store(out + j * W, x);
    }
    out += stride;
    if (Residual) residual += residual_stride;
    if (S == Side::pre) pre += side_stride;
    if (S == Side::derivative) slope_at += side_stride;
  }
}

template <class T>
using FinishWhole = void (*)(const Epilogue<T>&, const Steps&, int64_t, int64_t, const float*, int, int);

// The function for this epilogue, or null where it is none of the common ones.
template <Dot D, class T>
static FinishWhole<T> whole_finisher(const Epilogue<T>& e) {
  if (e.product) return nullptr;
  constexpr Activation kNone = Activation::none;
  if (e.activation == kNone) {
    if (e.pre || e.derivative_at) return nullptr;
    constexpr Side S = Side::none;
    if (e.gamma)
      return e.residual ? finish_whole<kNone, D, true, true, S, T> : finish_whole<kNone, D, true, false, S, T>;
    return e.residual ? finish_whole<kNone, D, false, true, S, T> : finish_whole<kNone, D, false, false, S, T>;
  }
  if (e.gamma || e.residual || (e.pre && e.derivative_at)) return nullptr;
  FinishWhole<T> chosen = nullptr;
  with_activation(e.activation, [&](auto f) {
    constexpr Activation F = decltype(f)::value;
    chosen = e.pre             ? finish_whole<F, D, false, false, Side::pre, T>
             : e.derivative_at ? finish_whole<F, D, false, false, Side::derivative, T>
                               : finish_whole<F, D, false, false, Side::none, T>;
  });
  return chosen;
}

template <Dot D, class T>
struct Square {
  const Epilogue<T>* epilogue;
  FinishWhole<T> whole;
  Steps steps;
  float* c;
  int64_t row, column;
  int rows, live, columns;  // `live` columns are in C, `columns` in the panel
  // Where sums of other pieces of K are, if they are to be added: to this square or, before the last piece, it to
  // them.
  float* sums = nullptr;
  int64_t ld_sums = 0;
  bool final = true;
  bool lifted = false;  // floats in parts, of whose rows and columns some are
  int done = 0;

  // Some more rows.
  __attribute__((always_inline)) void finish(int more) {
    if (done >= rows) return;
    const int first = done;
    done = smaller(done + more, rows);
    if (sums) add(first, done);
    if (!final) return;
    if (whole && live == kTileColumns) whole(*epilogue, steps, row, column, c, first, done);
    else finish_any(first, done);
  }

 private:
  __attribute__((noinline)) void add(int first, int last) const {
    for (int r = first; r < last; r++)
      for (int j = 0; j < columns; j += W) {
        float *here = c + r * kTileColumns + j, *there = sums + r * ld_sums + j;
        store(final ? here : there, load(here) + load(there));
      }
  }
  __attribute__((noinline)) void finish_any(int first, int last) const {
    float* tile = c + first * kTileColumns;
    auto for_vectors = [&](const auto& f) {
      for (int r = first; r < last; r++)
        for (int j = 0; j < columns; j += W) {
          float* p = c + r * kTileColumns + j;
          store(p, f(load(p), r, j));
        }
    };
    if constexpr (D == Dot::u8_s8) for_vectors([&](vf x, int r, int j) { return steps.to_float(x, r, j); });
#if VITKERN_AMX
    if constexpr (D == Dot::f32_parts)
      if (lifted) for_vectors([&](vf x, int r, int j) { return steps.lowered(x, r, j); });
#endif
    finish_tile(*epilogue, row + first, last - first, column, live, tile, kTileColumns);
  }
};

}  // namespace vitkern::VITKERN_ISA
