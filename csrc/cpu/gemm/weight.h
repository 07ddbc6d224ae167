// Weights as B operands: prepacked ones (with a header that says what they are), and packing for one
// call. PaddedVectors of a layer (bias, gamma) as padded float32.
#pragma once
#include "gemm.h"

namespace vitkern::VITKERN_ISA {

constexpr int64_t kPrefetchSlack = 4096;  // tiles prefetch beyond the last panel

template <class C>
static int64_t packed_bytes_as(int64_t out, int64_t in) {
  // Behind the panels, int8: each column's scale and sum; parts: its reach.
  const int64_t behind = (C::int8 ? 2 : C::parts ? 1 : 0) * round_up(out, W);
  return (int64_t)sizeof(PackedHeader) + (packed_floats(out, C::steps(in)) + behind) * 4 + kPrefetchSlack;
}

// Calls f(Compute<T, F>()) for the form F. A bfloat16 weight is in bfloat16 as it is.
template <class T, class F>
VK_INLINE void with_form(Form form, const F& f) {
  if (form == Form::int8) return f(Compute<T, Form::int8>());
  if constexpr (sizeof(T) == 4) {
    if (form == Form::bf16) return f(Compute<T, Form::bf16>());
  }
  f(Compute<T>());
}

static int64_t packed_bytes(Type type, Form form, int64_t out, int64_t in) {
  int64_t bytes = 0;
  with_type(type, [&](auto t) {
    with_form<decltype(t)>(form, [&](auto c) { bytes = packed_bytes_as<decltype(c)>(out, in); });
  });
  return bytes;
}

static void pack_weight(const Runtime& rt, const PackArgs& a) {
  PackedHeader* header = (PackedHeader*)a.packed;
  with_type(a.type, [&](auto t) {
    using T = decltype(t);
    with_form<T>(a.form, [&](auto c) {
      using C = decltype(c);
      *header = {kPackedMagic, W, kPanel<C::dot>, (int32_t)a.type, (int32_t)a.form, a.out, a.in};
      if constexpr (!C::int8) pack_weight<C>(rt, (const T*)a.weight, a.out, a.in, (float*)(header + 1));
    });
  });
}

static void pack_int8(const Runtime& rt, const PackInt8Args& a) {
  using C = Compute<float, Form::int8>;
  constexpr Dot D = C::dot;
  PackedHeader* header = (PackedHeader*)a.packed;
  *header = {kPackedMagic, W, kPanel<D>, (int32_t)Type::f32, (int32_t)Form::int8, a.out, a.in,
             a.dynamic ? 1.f : a.low, a.dynamic ? 0.f : a.high};
  const int64_t steps = C::steps(a.in), columns = round_up(a.out, W);
  float* panels = (float*)(header + 1);
  float* scale = panels + packed_floats(a.out, steps);
  int32_t* sums = (int32_t*)(scale + columns);
  for_tasks(rt, panels_of<D>(a.out), [&](int64_t p) {
    int8_t* to = (int8_t*)panel<D>(panels, steps, p);
    const int64_t width = panel_width<D>(a.out, p);
    for (int64_t c = 0; c < width; c++) {
      const int64_t n = p * kPanel<D> + c;
      const int8_t* from = a.values + n * a.in;
      int32_t total = 0;
      for (int64_t i = 0; i < 4 * steps; i++) {
        const int8_t value = n < a.out && i < a.in ? from[i] : 0;
        to[(i / 4 * width + c) * 4 + i % 4] = value;
        total += value;
      }
      scale[n] = n < a.out ? a.scale[n] : 0.f;
      sums[n] = total;
    }
  });
}

// Whether `packed` holds this very weight, in the form of C. Compares the header and, against changes
// that no version counter saw, some elements spread over the weight (not of int8, whose weight is the
// caller's own copy).
template <class C, class T>
static const float* usable(const Weight& w) {
  const PackedHeader* header = (const PackedHeader*)w.packed;
  if (!header || w.packed_bytes < packed_bytes_as<C>(w.out, w.in)) return nullptr;
  if (header->magic != kPackedMagic || header->width != W || header->panel != kPanel<C::dot> ||
      header->form != (int32_t)w.form || header->out != w.out || header->in != w.in)
    return nullptr;
  const float* panels = (const float*)(header + 1);
  if constexpr (C::int8) return panels;
  const Type type = sizeof(T) == 4 ? Type::f32 : Type::bf16;
  if (header->type != (int32_t)type) return nullptr;
  constexpr int64_t kSamples = 24;
  for (int64_t i = 0; i < kSamples; i++) {
    const int64_t n = w.out * i / kSamples, k = (w.in * (2 * i + 1) / (2 * kSamples) + 7 * i) % w.in;
    const int64_t p = n / kPanel<C::dot>;
    const T is = ((const T*)w.data)[n * w.in + k];
    if constexpr (C::parts) {
      const float* first = panel<C::dot>(panels, C::steps(w.in), p);
      const float reach = panels[packed_floats(w.out, C::steps(w.in)) + n];
      if (!holds_parts(first, panel_width<C::dot>(w.out, p), n % kPanel<C::dot>, reach, k, is)) return nullptr;
      continue;
    }
    const float* word = panel<C::dot>(panels, C::steps(w.in), p) + k / C::per_word * panel_width<C::dot>(w.out, p) +
                        n % kPanel<C::dot>;
    if constexpr (C::pairs) {
      bf16 now;
      put(&now, to_float(is));
      if (memcmp((const bf16*)word + k % 2, &now, sizeof now) != 0) return nullptr;
    } else {
      float now = to_float(is);
      if constexpr (C::rounds) now = rounded_to_bf16(splat(now))[0];
      if (memcmp(word, &now, 4) != 0) return nullptr;
    }
  }
  return panels;
}

// B = weight^T in the form of C: the prepacked panels, or freshly packed ones in the slot.
template <class C, class T>
static Operand transposed_weight(const Runtime& rt, Slot slot, const Weight& w) {
  if (w.out == 0 || (w.in == 0 && !C::int8)) return nullptr;
  Operand b = usable<C, T>(w);
  if constexpr (C::int8) {
    const PackedHeader* header = (const PackedHeader*)w.packed;
    b.scale = b.panels + packed_floats(w.out, C::steps(w.in));
    b.sums = (const int32_t*)(b.scale + round_up(w.out, W));
    b.range = {header->low > header->high, header->low, header->high};
  } else if (!b.panels) {
    float* out = (float*)rt.scratch(slot, packed_bytes_as<C>(w.out, w.in));
    pack_weight<C>(rt, (const T*)w.data, w.out, w.in, out);
    b.panels = out;
  }
  if constexpr (C::parts) b.reach = b.panels + packed_floats(w.out, C::steps(w.in));
  return b;
}

// B = weight, for the gradient of the input, as floats.
template <class T>
static const float* plain_weight(const Runtime& rt, Slot slot, const Weight& w) {
  float* out = (float*)rt.scratch(slot, packed_floats(w.in, w.out) * 4 + kPrefetchSlack);
  const T* b = (const T*)w.data;
  for_tasks(rt, panels_of(w.in), [&](int64_t p) {
    pack_panel_kn(b, w.in, w.in, w.out, p, panel(out, w.out, p), [](vf x) { return x; });
  });
  return out;
}

// B = weight, for the gradient of the input, in the form in which C multiplies float32.
template <class C, class T>
static Operand plain_operand(const Runtime& rt, Slot slot, const Weight& w) {
  if constexpr (C::parts) {
    const int64_t steps = C::steps(w.out);
    float *out = (float*)rt.scratch(slot, packed_bytes_as<C>(w.in, w.out)), *reach = out + packed_floats(w.in, steps);
    for_tasks(rt, panels_of<C::dot>(w.in), [&](int64_t p) {
      pack_plain_panel_in_parts((const T*)w.data, w.in, w.in, w.out, p, panel<C::dot>(out, steps, p),
                                reach + p * kPanel<C::dot>, [](vf x) { return x; });
    });
    Operand b(out);
    b.reach = reach;
    return b;
  } else {
    return plain_weight<T>(rt, slot, w);
  }
}

// PaddedVectors of up to `floats` elements in all, each as float32 and readable up to whole vectors.
class PaddedVectors {
 public:
  PaddedVectors(const Runtime& rt, Slot slot, int64_t count, int64_t longest)
      : next_((float*)rt.scratch(slot, count * round_up(longest, 16) * 4)) {}
  template <class T>
  const float* add(const T* p, int64_t n) {
    if (!p) return nullptr;
    float* out = next_;
    next_ += round_up(n, 16);
    for (int64_t i = 0; i < n; i++) out[i] = to_float(p[i]);
    for (int64_t i = n; i < round_up(n, 16); i++) out[i] = 0.f;
    return out;
  }

 private:
  float* next_;
};

}  // namespace vitkern::VITKERN_ISA
