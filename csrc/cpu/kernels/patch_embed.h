// patch_embed: a convolution whose stride is its kernel, as a product that gathers its rows from the
// image while it packs them.
#pragma once
#include "../args/patch_embed.h"
#include "linear.h"

namespace vitkern::VITKERN_ISA {

// Calls f(pointer into an image row, offset in the patch) for each row of pixels of patch `row`.
template <class T, class F>
VK_INLINE void for_pixel_rows(const PatchGrid& g, T* images, int64_t row, const F& f) {
  const int64_t per_image = g.grid_height() * g.grid_width();
  const int64_t b = row / per_image, y = row % per_image / g.grid_width(), x = row % g.grid_width();
  T* image = images + b * g.channels * g.height * g.width + y * g.patch_height * g.width + x * g.patch_width;
  int64_t offset = 0;
  for (int64_t c = 0; c < g.channels; c++)
    for (int64_t i = 0; i < g.patch_height; i++, offset += g.patch_width)
      f(image + (c * g.height + i) * g.width, offset);
}

// Patches as rows that C reads.
template <class C, class T>
struct PatchRows {
  PatchGrid grid;
  const T* images;
  const float* block(int64_t row, int64_t n, float* buffer, int64_t* lda) const {
    *lda = C::stride(grid.in());
    for (int64_t r = 0; r < n; r++) {
      float* packed = buffer + r * *lda;
      float* out = C::parts ? buffer + n * *lda : packed;  // one row behind the others, before it is cut
      C::end_row(out, grid.in());
      for_pixel_rows(grid, images, row + r, [&](const T* pixels, int64_t offset) {
        if constexpr (C::pairs) {
          memcpy((T*)out + offset, pixels, grid.patch_width * sizeof(T));
          return;
        }
        int64_t i = 0;
        for (; i + W <= grid.patch_width; i += W) store(out + offset + i, load(pixels + i));
        for (; i < grid.patch_width; i++) out[offset + i] = to_float(pixels[i]);
      });
      if constexpr (C::parts) C::put(out, grid.in(), {}, packed, *lda);
    }
    return buffer;
  }
};

template <class T>
static void patch_embed_as(const Runtime& rt, const PatchEmbedArgs& a) {
  const int64_t out = a.weight.out, in = a.grid.in();
  using C = Compute<T>;
  const Operand b = transposed_weight<C, T>(rt, kPackedB, a.weight);
  PaddedVectors vectors(rt, kVectors, 1, out);
  Epilogue<T> e{(T*)a.y, out};
  e.bias = vectors.add((const T*)a.bias, out);
  multiply_all<C::dot>(rt, PatchRows<C, T>{a.grid, (const T*)a.images}, a.grid.rows(), b, out, C::steps(in), e);
}
static void patch_embed(const Runtime& rt, const PatchEmbedArgs& a) {
  with_type(a.type, [&](auto t) { patch_embed_as<decltype(t)>(rt, a); });
}

template <class T>
static void patch_embed_backward_as(const Runtime& rt, const PatchEmbedBackwardArgs& a) {
  const int64_t out = a.weight.out, in = a.grid.in(), rows = a.grid.rows();
  const float* z = (const float*)a.dy;
  int64_t stride = out;
  if constexpr (sizeof(T) != 4) {
    stride = padded_stride(out);
    float* buffer = (float*)rt.scratch(kShared, rows * stride * 4);
    scaled_gradient<T>(rt, rows, out, (const T*)a.dy, nullptr, nullptr, Activation::none, buffer, stride);
    z = buffer;
  }
  if (a.dweight || a.dbias)
    weight_gradient(rt, rows, out, in, z, stride,
                    [&](int64_t, int64_t) { return PatchRows<Floats, T>{a.grid, (const T*)a.images}; }, true,
                    false, [](vf v) { return v; }, (T*)a.dweight, (T*)a.dbias);
  if (!a.dimages || rows == 0) return;
  const float* b = plain_weight<T>(rt, kPackedB, a.weight);
  const int64_t blocks = blocks_of(rows, larger(in, out)), ldp = padded_stride(in);
  for_tasks(rt, blocks, [&](int64_t i) {
    const int64_t row = rows * i / blocks, n = rows * (i + 1) / blocks - row;
    float* patches = (float*)rt.scratch(kHidden, n * ldp * 4);
    int64_t lda;
    float* buffer = (float*)rt.scratch(kRowsA, n * padded_stride(out) * 4);
    const float* zr = PlainRows<float>{z, stride, out}.block(row, n, buffer, &lda);
    multiply_block(rt, zr, lda, 0, n, b, in, out, 0, panels_of(in), Epilogue<float>{patches, ldp});
    for (int64_t r = 0; r < n; r++)
      for_pixel_rows(a.grid, (T*)a.dimages, row + r, [&](T* pixels, int64_t offset) {
        for (int64_t c = 0; c < a.grid.patch_width; c++) put(pixels + c, patches[r * ldp + offset + c]);
      });
  });
}
static void patch_embed_backward(const Runtime& rt, const PatchEmbedBackwardArgs& a) {
  with_type(a.type, [&](auto t) { patch_embed_backward_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
