// The A side of a product: how rows are read, and in which form they are multiplied.
#pragma once
#include "operand.h"
#include "parts.h"

namespace vitkern::VITKERN_ISA {

// Rows of a float32 scratch matrix are never a multiple of 4 KiB apart: that would put the rows of
// a tile into the same cache sets.
VK_INLINE int64_t padded_stride(int64_t k) {
  int64_t s = round_up(k, 16);
  return s % 256 == 0 ? s + 16 : s;
}
// Whether tiles may read rows that are `stride` floats apart where they lie.
VK_INLINE bool good_stride(int64_t stride) { return stride % 512 != 0; }

// A row as float32: in place where it is that already.
template <class T>
VK_INLINE const float* as_floats(const T* x, int64_t n, float* buffer) {
  if constexpr (sizeof(T) == 4) return (const float*)x;
  int64_t i = 0;
  for (; i + W <= n; i += W) store(buffer + i, load(x + i));
  for (; i < n; i++) buffer[i] = to_float(x[i]);
  return buffer;
}

VK_INLINE vf rounded_to_bf16(vf x) {
  const vu u = (vu)x;
  const vu finite = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u, nan = u | 0x400000u;
  return select((vi)((u & 0x7fffffffu) > 0x7f800000u), (vf)(nan & 0xffff0000u), (vf)finite);
}

// The lowest byte of each. By name: gcc takes the lanes out one by one.
VK_INLINE vb to_bytes(vi x) {
#if VITKERN_WIDTH == 16 && defined(__AVX512F__)
  return (vb)_mm512_cvtepi32_epi8((__m512i)x);
#else
  return __builtin_convertvector((vu)x, vb);
#endif
}

// x[0:k] as unsigned bytes, x ~ (byte - zero) * step; `tail` gets the step and, as an integer, the zero.
// A row with a NaN (or, of its own range, an infinity) has a NaN for its step.
[[maybe_unused]] static void quantize_row(const float* x, int64_t k, const Range& range, uint8_t* out, float* tail) {
  float low = range.low, high = range.high;
  if (range.dynamic) {
    vf lows = {}, highs = {}, bad = {};
    int64_t i = 0;
    for (; i + W <= k; i += W) {
      const vf v = load(x + i);
      lows = min(v, lows);
      highs = max(v, highs);
      bad = v * splat(0.f) + bad;
    }
    if (i < k) {
      const vf v = load_n(x + i, (int)(k - i));
      lows = min(v, lows);
      highs = max(v, highs);
      bad = v * splat(0.f) + bad;
    }
    low = -max_of(splat(0.f) - lows);
    high = max_of(highs) + sum(bad);
  } else {
    vi bad = {};
    int64_t i = 0;
    for (; i + W <= k; i += W) bad |= load(x + i) != load(x + i);
    for (; i < k; i++) bad[0] |= x[i] != x[i];
    for (int j = 0; j < W; j++)
      if (bad[j]) high = __builtin_nanf("");
  }
  float step = (high - low) / kLevels;
  if (step < 1e-37f) step = 1.f;  // its inverse would be infinite
  const float inverse = 1.f / step, magic = 12582912.f;  // 1.5 * 2^23, as in exp2_bounded
  const float zero = step == step ? (-low * inverse + magic) - magic : 0.f;
  tail[0] = step;
  const int32_t bits = (int32_t)zero;
  memcpy(tail + 1, &bits, 4);
  const vf scale = splat(inverse), least = splat(-zero), most = splat(kLevels - zero), to_bits = splat(magic + zero);
  auto byte = [&](vf v) __attribute__((always_inline)) { return (vi)(max(least, min(most, v * scale)) + to_bits); };
  int64_t i = 0;
  for (; i + W <= k; i += W) {
    const vb bytes = to_bytes(byte(load(x + i)));
    memcpy(out + i, &bytes, W);
  }
  if (i < k) {
    const vi bytes = byte(load_n(x + i, (int)(k - i)));
    for (int j = 0; i + j < k; j++) out[i + j] = (uint8_t)bytes[j];
  }
  for (; k % 4; k++) out[k] = 0;
}

// How products of T's with a weight in form F are computed. Operands come in words of 32 bits: a
// float32, two bfloat16 or four bytes along K, so that addresses and panels are the same for all.
template <class T, Form F = Form::native, bool Parts = VITKERN_AMX>
struct Compute {
  static constexpr bool int8 = F == Form::int8;
  // float32 in parts, where tile registers multiply these faster than vectors multiply floats.
  static constexpr bool parts = Parts && F == Form::native && sizeof(T) == 4;
  static constexpr bool pairs = !int8 && VITKERN_BF16_DOT && (F == Form::bf16 || sizeof(T) == 2);
  // float32 operands with no more than bfloat16's bits, where there is no instruction for these.
  static constexpr bool rounds = F == Form::bf16 && !pairs && sizeof(T) == 4;
  static constexpr Dot dot = int8 ? Dot::u8_s8 : pairs ? Dot::bf16_pairs : parts ? Dot::f32_parts : Dot::f32;
  static constexpr int per_word = int8 ? 4 : pairs ? 2 : 1;  // without parts
  // What a row has to be brought into, other than read as T's.
  static constexpr bool converts = int8 || rounds || parts || (pairs && sizeof(T) == 4);
  static constexpr int64_t steps(int64_t k) {
    return parts ? words_in_parts(k) : round_up((k + per_word - 1) / per_word, kStepsAtOnce<dot>);
  }
  // Words of a packed row: an int8 row's step and zero are its last two, the reach of one in parts is its last.
  static constexpr int64_t stride(int64_t k) { return padded_stride(steps(k) + (int8 ? 2 : parts ? 1 : 0)); }

  // Zeros behind the k elements of a packed row, up to whole steps. Behind bytes anything may stand: the
  // weight has zeros there.
  static void end_row(float* row, int64_t k) {
    if constexpr (pairs)
      for (; k < 2 * steps(k); k++) ((bf16*)row)[k] = bf16{0};
  }

  // A row of float32 as the product reads it, `words` words long (without parts it may be the row itself).
  static void put(const float* x, int64_t k, const Range& range, float* out, int64_t words) {
    if constexpr (int8) {
      quantize_row(x, k, range, (uint8_t*)out, out + words - 2);
    } else if constexpr (parts) {
#if VITKERN_AMX
      out[words - 1] = put_parts(x, k, out);
#endif
    } else if constexpr (pairs) {
      bf16* to = (bf16*)out;
      int64_t i = 0;
      for (; i + W <= k; i += W) store(to + i, load(x + i));
      for (; i < k; i++) VITKERN_ISA::put(to + i, x[i]);
      end_row(out, k);
    } else {
      int64_t i = 0;
      for (; i + W <= k; i += W) store(out + i, rounds ? rounded_to_bf16(load(x + i)) : load(x + i));
      if (i < k) {
        const vf v = load_n(x + i, (int)(k - i));
        store_n(out + i, rounds ? rounded_to_bf16(v) : v, (int)(k - i));
      }
    }
  }
};

// Rows of A in memory. `block` gives rows [row, row + n) as C reads them, `lda` words apart: in place, or
// in `buffer`, which has room for them and for K floats behind.
template <class C, class T>
struct Rows {
  const T* data;
  int64_t stride, k;
  Range range = {};
  static constexpr bool costly = C::converts && !(C::pairs && sizeof(T) == 2);  // not to be asked for again
  const float* block(int64_t row, int64_t n, float* buffer, int64_t* lda) const {
    const T* rows = data + row * stride;
    if constexpr (C::dot == Dot::f32 && !C::rounds && sizeof(T) == 4) {
      if (good_stride(stride)) {
        *lda = stride;
        return (const float*)rows;
      }
    }
    if constexpr (C::pairs && sizeof(T) == 2) {
      if (k == 2 * C::steps(k) && stride % 2 == 0 && good_stride(stride / 2)) {
        *lda = stride / 2;
        return (const float*)rows;
      }
    }
    *lda = C::stride(k);
    for (int64_t r = 0; r < n; r++) {
      float* out = buffer + r * *lda;
      if constexpr (C::pairs && sizeof(T) == 2) {
        memcpy(out, rows + r * stride, k * 2);
        C::end_row(out, k);
      } else if constexpr (C::dot == Dot::f32 && !C::rounds && sizeof(T) == 2) {
        as_floats(rows + r * stride, k, out);
      } else {
        C::put(as_floats(rows + r * stride, k, buffer + n * *lda), k, range, out, *lda);
      }
    }
    return buffer;
  }
};
// float32 as it is.
using Floats = Compute<float, Form::native, false>;
template <class T>
using PlainRows = Rows<Floats, T>;

}  // namespace vitkern::VITKERN_ISA
