// float32 in three parts of bfloat16: x = high + middle + low, each part the rest of those before it, rounded.
// Products of such parts are what tile registers do. Of the nine, six are computed: the other three come to at most
// 2^-24 of a product, mostly far less, and float32 rounds each to 2^-24. (Henry, Tang and Heinecke, "Leveraging the
// bfloat16 artificial intelligence datatype for higher-precision computations", 2019.)
//
// 32 floats of a row are 48 words: 16 with pairs of high parts, those of the floats i and i + 16, then 16 of middle
// parts and 16 of low ones.
#pragma once
#include "pack.h"

namespace vitkern::VITKERN_ISA {

constexpr int kPartsFloats = 32, kPartsWords = 48, kPlane = 16;

// Words that k floats take, and floats that are in so many words.
constexpr int64_t words_in_parts(int64_t k) { return (k + kPartsFloats - 1) / kPartsFloats * kPartsWords; }
constexpr int64_t floats_in_parts(int64_t words) { return words / kPartsWords * kPartsFloats; }

#if VITKERN_AMX
// Tiles take numbers below 2^-126 for zero, operands, products and sums, and the high part of a number may
// round up to infinity. So products of parts are right where a row of A and a column of B keep away from both ends
// of the range; there, what is lost is below float32's last place of their largest product. Other rows and columns
// are brought there by a power of two, and what they make is taken back in the epilogue. Those with an infinity or a
// NaN are made whole again, and vectors multiply them. Row and column alone decide, not what they are multiplied
// with beside each other.
constexpr float kLeast = 0x1p-50f, kMost = 0x1p50f;
constexpr int kLift = 120;  // no power is larger: it has to be a float, and so has its inverse

VK_INLINE bool any(vi mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }

// Of the reach of a row or column, the magnitude of its largest element (a NaN for a NaN):
VK_INLINE vi is_finite(vf reach) { return (vi)reach < splat_int(0x7f800000); }
VK_INLINE vi is_ordinary(vf reach) {
  return (reach == splat(0.f)) | ((reach >= splat(kLeast)) & (reach < splat(kMost)));
}
// The exponent of the power of two that it was divided by.
VK_INLINE vi lift_exponent(vf reach) {
  const vi e = ((vi)reach >> 23) - 127, low = splat_int(-kLift), high = splat_int(kLift);
  return (e < low ? low : e > high ? high : e) & is_finite(reach) & ~is_ordinary(reach);
}
VK_INLINE vf power_of_two(vi exponent) { return (vf)((exponent + 127) << 23); }
VK_INLINE bool finite(float reach) { return is_finite(splat(reach))[0]; }
VK_INLINE bool ordinary(float reach) { return is_ordinary(splat(reach))[0]; }
VK_INLINE float lift_of(float reach) { return power_of_two(-lift_exponent(splat(reach)))[0]; }

// Rounded to bfloat16's digits.
VK_INLINE vf rounded(vf x) { return (vf)(((vu)x + 0x8000u) & 0xffff0000u); }
VK_INLINE vf pairs_of(vf x, vf y) { return (vf)((vu)x >> 16 | ((vu)y & 0xffff0000u)); }

// 32 floats' parts.
struct Chunk {
  vf high, middle, low;
  VK_ALWAYS Chunk(vf x, vf y) {
    const vf a = rounded(x), b = rounded(y);
    high = pairs_of(a, b);
    x = x - a, y = y - b;
    const vf c = rounded(x), d = rounded(y);
    middle = pairs_of(c, d);
    low = pairs_of(x - c, y - d);  // which have no more digits than that
  }
  VK_ALWAYS void put(float* out, int64_t plane = kPlane) const {
    store(out, high), store(out + plane, middle), store(out + 2 * plane, low);
  }
};

// The largest magnitudes so far, as integers: so a NaN is larger than all others.
struct Magnitudes {
  vi most = {};
  VK_ALWAYS void add(vf x, vf y) {
    const vi a = (vi)abs(x), b = (vi)abs(y), c = a > b ? a : b;
    most = c > most ? c : most;
  }
  float largest() const {
    int32_t bits = 0;
    for (int j = 0; j < W; j++) bits = larger(bits, most[j]);
    float result;
    memcpy(&result, &bits, 4);
    return result;
  }
};
// The same of one float, whatever it is: infinities and NaNs are their own high parts, and what would round to
// infinity is cut. `next` is how far apart the parts are.
VK_INLINE void put_exact_parts(float x, bf16* out, int64_t next) {
  for (int part = 0; part < 3; part++) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bf16& high = out[part * next];
    high.bits = (uint16_t)((bits + 0x8000u) >> 16);
    const bool finite = (bits & 0x7f800000) != 0x7f800000;
    if (!finite) put(&high, x);
    else if ((high.bits & 0x7f80) == 0x7f80) high.bits = (uint16_t)(bits >> 16);
    x = finite ? x - to_float(high) : 0.f;
  }
}
// Where the high part of a row's element k is, in bfloat16.
VK_INLINE int64_t part_of(int64_t k) {
  const int64_t i = k % kPartsFloats;
  return k / kPartsFloats * kPartsWords * 2 + i % kPlane * 2 + i / kPlane;
}

// x[0:k] in parts, with zeros behind it; returns its reach. What is not ordinary is lifted; infinities and NaNs get exact parts.
static float put_parts(const float* x, int64_t k, float* out) {
  // Calls put(32 floats, where their parts go).
  auto for_chunks = [&](const auto& put) VK_ALWAYS {
    float* to = out;
    int64_t i = 0;
    for (; i + kPartsFloats <= k; i += kPartsFloats, to += kPartsWords) put(load(x + i), load(x + i + W), to);
    if (i == k) return;
    const int left = (int)(k - i);
    put(left >= W ? load(x + i) : load_n(x + i, left), left > W ? load_n(x + i + W, left - W) : vf{}, to);
  };
  Magnitudes magnitudes;
  for_chunks([&](vf a, vf b, float* to) VK_ALWAYS {
    magnitudes.add(a, b);
    Chunk(a, b).put(to);
  });
  const float reach = magnitudes.largest();
  if (ordinary(reach)) return reach;
  if (finite(reach)) {
    const vf lift = splat(lift_of(reach));
    for_chunks([&](vf a, vf b, float* to) { Chunk(a * lift, b * lift).put(to); });
  } else {
    memset(out, 0, words_in_parts(k) * 4);
    for (int64_t j = 0; j < k; j++) put_exact_parts(x[j], (bf16*)out + part_of(j), 2 * kPlane);
  }
  return reach;
}

// Panel p of B = weight^T, (n, k), in parts, by way of `rows`: W of them, `stride` apart. `reach` gets its columns'.
template <class T>
static void pack_panel_in_parts(const T* weight, int64_t n, int64_t k, int64_t p, float* rows, int64_t stride,
                                float* out, float* reach) {
  constexpr Dot D = Dot::f32_parts;
  const int64_t width = panel_width<D>(n, p);
  for (int64_t c = 0; c < width; c += W) {
    const int64_t first = p * kPanel<D> + c;
    const int valid = (int)smaller<int64_t>(W, n - first);
    for (int r = 0; r < W; r++)
      reach[c + r] = r < valid ? put_parts(weight + (first + r) * k, k, rows + r * stride) : 0.f;
    pack_transposed(rows, stride, valid, words_in_parts(k), out + c, width);
  }
}

// Panel p of B, row-major (k, n), each element through f, in parts. `reach` gets its columns'.
template <class T, class F>
static void pack_plain_panel_in_parts(const T* b, int64_t stride, int64_t n, int64_t k, int64_t p, float* out,
                                      float* reach, const F& f) {
  constexpr Dot D = Dot::f32_parts;
  const int64_t width = panel_width<D>(n, p);
  for (int64_t c = 0; c < width; c += W) {
    const T* from = b + p * kPanel<D> + c;
    const int live = (int)smaller<int64_t>(W, n - p * kPanel<D> - c);
    // Calls put(elements of rows i and i + 16, where their high parts go).
    auto for_pairs = [&](const auto& put) VK_ALWAYS {
      for (int64_t i = 0; i < k; i += kPartsFloats) {
        auto row = [&](int64_t r) VK_ALWAYS {
          if (i + r >= k) return vf{};
          return f(live == W ? load(from + (i + r) * stride) : load_n(from + (i + r) * stride, live));
        };
        float* to = out + i / kPartsFloats * kPartsWords * width + c;
        for (int64_t w = 0; w < kPlane; w++) put(row(w), row(w + kPlane), to + w * width);
      }
    };
    Magnitudes magnitudes;
    for_pairs([&](vf x, vf y, float* to) VK_ALWAYS {
      magnitudes.add(x, y);
      Chunk(x, y).put(to, kPlane * width);
    });
    const vf reaches = (vf)magnitudes.most;
    store(reach + c, reaches);
    if (!any(~is_ordinary(reaches))) continue;
    const vf lift = power_of_two(-lift_exponent(reaches));
    for_pairs([&](vf x, vf y, float* to) { Chunk(x * lift, y * lift).put(to, kPlane * width); });
    for (int j = 0; j < W; j++) {
      if (finite(reach[c + j])) continue;
      for_pairs([&](vf x, vf y, float* to) {
        put_exact_parts(x[j], (bf16*)(to + j), 2 * kPlane * width);
        put_exact_parts(y[j], (bf16*)(to + j) + 1, 2 * kPlane * width);
      });
    }
  }
}

// All panels of B, row-major (k, n), each element through f, in parts: along the rows, as memory is read fastest.
// `reach` gets the columns'.
template <class F>
static void pack_plain_in_parts(const float* b, int64_t stride, int64_t n, int64_t k, float* out, float* reach,
                                const F& f) {
  constexpr Dot D = Dot::f32_parts;
  const int64_t words = words_in_parts(k);
  memset(reach, 0, round_up(n, W) * 4);
  for (int64_t i = 0; i < k; i += kPartsFloats)
    for (int64_t w = 0; w < kPlane; w++) {
      const int64_t r = i + w;
      const float *upper = b + smaller(r, k - 1) * stride, *lower = b + smaller(r + kPlane, k - 1) * stride;
      const bool both = r + kPlane < k;
      for (int64_t c = 0; c < n; c += W) {
        const int live = (int)smaller<int64_t>(W, n - c);
        auto get = [&](const float* row) VK_ALWAYS { return f(live == W ? load(row + c) : load_n(row + c, live)); };
        const vf x = r < k ? get(upper) : vf{}, y = both ? get(lower) : vf{};
        Magnitudes magnitudes{(vi)load(reach + c)};
        magnitudes.add(x, y);
        store(reach + c, (vf)magnitudes.most);
        const int64_t p = c / kPanel<D>, width = panel_width<D>(n, p);
        float* to = panel<D>(out, words, p) + (i / kPartsFloats * kPartsWords + w) * width + c % kPanel<D>;
        Chunk(x, y).put(to, kPlane * width);
      }
    }
  for (int64_t p = 0; p < panels_of<D>(n); p++) {
    bool all = true;
    for (int64_t c = p * kPanel<D>; c < smaller(n, (p + 1) * kPanel<D>); c++) all &= ordinary(reach[c]);
    if (!all) pack_plain_panel_in_parts(b, stride, n, k, p, panel<D>(out, words, p), reach + p * kPanel<D>, f);
  }
}

// A = rows^T, of n rows and `columns`, in parts: rows `lda` words apart with the reach of each in its last word.
// Adds to `totals`, if not null, the columns' sums.
static void put_transposed_parts(const float* rows, int64_t stride, int64_t n, int64_t columns, float* out,
                                 int64_t lda, double* totals) {
  // Columns [o, o + W) of rows [i, i + 32), each times its `lift`.
  auto put_square = [&](int64_t i, int64_t o, vf lift, const auto& see) VK_ALWAYS {
    const float* from = rows + i * stride + o;
    const int live = (int)smaller<int64_t>(W, columns - o);
    auto row = [&](int64_t r) VK_ALWAYS {
      if (i + r >= n) return vf{};
      return live == W ? load(from + r * stride) : load_n(from + r * stride, live);
    };
    vf high[W], middle[W], low[W];
    for (int w = 0; w < kPlane; w++) {
      const vf x = row(w), y = row(w + kPlane);
      see(x, y);
      const Chunk chunk(x * lift, y * lift);
      high[w] = chunk.high, middle[w] = chunk.middle, low[w] = chunk.low;
    }
    float* to = out + o * lda + i / kPartsFloats * kPartsWords;
    auto put = [&](vf(&words)[W], float* part) VK_ALWAYS {
      transpose(words);
      for (int j = 0; j < live; j++) store(part + j * lda, words[j]);
    };
    put(high, to), put(middle, to + kPlane), put(low, to + 2 * kPlane);
  };
  auto reach_of = [&](int64_t o) -> float& { return out[(o + 1) * lda - 1]; };
  for (int64_t i = 0; i < n; i += kPartsFloats)
    for (int64_t o = 0; o < columns; o += W) {
      Magnitudes magnitudes;
      vf sums = {};
      put_square(i, o, splat(1.f), [&](vf x, vf y) VK_ALWAYS {
        magnitudes.add(x, y);
        sums = sums + (x + y);
      });
      for (int j = 0; j < W && o + j < columns; j++) {
        int32_t before;
        memcpy(&before, &reach_of(o + j), 4);
        const int32_t most = i == 0 ? magnitudes.most[j] : larger(before, magnitudes.most[j]);
        memcpy(&reach_of(o + j), &most, 4);
        if (totals) totals[o + j] += sums[j];
      }
    }
  for (int64_t o = 0; o < columns; o += W) {
    const int live = (int)smaller<int64_t>(W, columns - o);
    vf reaches = {};
    for (int j = 0; j < live; j++) reaches[j] = reach_of(o + j);
    if (!any(~is_ordinary(reaches))) continue;
    const vf lift = power_of_two(-lift_exponent(reaches));
    for (int64_t i = 0; i < n; i += kPartsFloats) put_square(i, o, lift, [](vf, vf) {});
    for (int j = 0; j < live; j++)
      for (int64_t i = 0; i < n && !finite(reaches[j]); i++)
        put_exact_parts(rows[i * stride + o + j], (bf16*)(out + (o + j) * lda) + part_of(i), 2 * kPlane);
  }
}

// The floats of pairs of parts: the first of each, and the second.
VK_INLINE vf join_first(vf high, vf middle, vf low) {
  return ((vf)((vu)middle << 16) + (vf)((vu)low << 16)) + (vf)((vu)high << 16);
}
VK_INLINE vf join_second(vf high, vf middle, vf low) {
  const vu mask = (vu)splat_int((int32_t)0xffff0000);
  return ((vf)((vu)middle & mask) + (vf)((vu)low & mask)) + (vf)((vu)high & mask);
}
VK_INLINE vf join_factor(vf reach) { return power_of_two(lift_exponent(reach)); }

// The floats that a row's words were.
static void join_row(const float* row, int64_t words, float reach, float* out) {
  const vf factor = join_factor(splat(reach));
  for (int64_t i = 0; i < words; i += kPartsWords, out += kPartsFloats) {
    const vf high = load(row + i), middle = load(row + i + kPlane), low = load(row + i + 2 * kPlane);
    store(out, join_first(high, middle, low) * factor);
    store(out + kPlane, join_second(high, middle, low) * factor);
  }
}
// The same of a panel.
static void join_panel(const float* panel, int64_t words, int64_t width, const float* reach, float* out) {
  for (int64_t i = 0; i < words; i += kPartsWords, out += kPartsFloats * width)
    for (int64_t w = 0; w < kPlane; w++)
      for (int64_t c = 0; c < width; c += W) {
        const float* at = panel + (i + w) * width + c;
        const vf factor = join_factor(load(reach + c));
        const vf high = load(at), middle = load(at + kPlane * width), low = load(at + 2 * kPlane * width);
        store(out + w * width + c, join_first(high, middle, low) * factor);
        store(out + (w + kPlane) * width + c, join_second(high, middle, low) * factor);
      }
}

// Whether element k of a panel's column, which has this reach, is this number; of numbers that may have lost their low
// parts, whether the high part is.
VK_INLINE bool holds_parts(const float* panel, int64_t width, int64_t column, float reach, int64_t k, float number) {
  number *= lift_of(reach);
  bf16 parts[3];
  put_exact_parts(number, parts, 1);
  const int64_t at = part_of(k);
  for (int i = 0; i < (__builtin_fabsf(number) < kLeast ? 1 : 3); i++) {
    const bf16* word = (const bf16*)(panel + (at / 2 + i * kPlane) * width + column);
    if (memcmp(word + at % 2, parts + i, sizeof(bf16)) != 0) return false;
  }
  return true;
}
#endif

}  // namespace vitkern::VITKERN_ISA
