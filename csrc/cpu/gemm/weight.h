// Weights as B operands: prepacked ones (with a header that says what they are), and packing for one
// call. PaddedVectors of a layer (bias, gamma) as padded float32.
#pragma once
#include "gemm.h"

namespace vitkern::VITKERN_ISA {

// Before the panels of a prepacked weight. A buffer that another build or instruction set made, or
// that is not of this weight's shape, does not match and is not used.
struct alignas(64) PackedHeader {
  uint64_t magic;
  int32_t width, panel, type;
  int64_t out, in;
};
constexpr uint64_t kPackedMagic = 0x314b50564b544956;  // bump when the layout changes
constexpr int64_t kPrefetchSlack = 4096;               // tiles prefetch beyond the last panel

template <class T>
static int64_t packed_bytes_as(int64_t out, int64_t in) {
  return (int64_t)sizeof(PackedHeader) + packed_floats(out, Compute<T>::steps(in)) * 4 + kPrefetchSlack;
}
static int64_t packed_bytes(Type type, int64_t out, int64_t in) {
  return type == Type::f32 ? packed_bytes_as<float>(out, in) : packed_bytes_as<bf16>(out, in);
}

static void pack_weight(const Runtime& rt, const PackArgs& a) {
  PackedHeader* header = (PackedHeader*)a.packed;
  *header = {kPackedMagic, W, NR, (int32_t)a.type, a.out, a.in};
  with_type(a.type, [&](auto t) {
    pack_weight(rt, (const decltype(t)*)a.weight, a.out, a.in, (float*)(header + 1));
  });
}

// Whether `packed` holds this very weight. Compares the header and, against changes that no version
// counter saw, some elements spread over the weight.
template <class T>
static const float* usable(const Weight& w) {
  const PackedHeader* header = (const PackedHeader*)w.packed;
  if (!header || w.packed_bytes < packed_bytes_as<T>(w.out, w.in)) return nullptr;
  const Type type = sizeof(T) == 4 ? Type::f32 : Type::bf16;
  if (header->magic != kPackedMagic || header->width != W || header->panel != NR ||
      header->type != (int32_t)type || header->out != w.out || header->in != w.in)
    return nullptr;
  const float* panels = (const float*)(header + 1);
  constexpr int64_t kSamples = 24;
  for (int64_t i = 0; i < kSamples; i++) {
    const int64_t n = w.out * i / kSamples, k = (w.in * (2 * i + 1) / (2 * kSamples) + 7 * i) % w.in;
    const int64_t p = n / NR;
    const T is = ((const T*)w.data)[n * w.in + k];
    if constexpr (Compute<T>::pairs) {
      const float* pair = panel(panels, Compute<T>::steps(w.in), p) + k / 2 * panel_width(w.out, p) + n % NR;
      if (memcmp((const T*)pair + k % 2, &is, sizeof is) != 0) return nullptr;
    } else {
      const float was = panel(panels, w.in, p)[k * panel_width(w.out, p) + n % NR], now = to_float(is);
      if (memcmp(&was, &now, 4) != 0) return nullptr;
    }
  }
  return panels;
}

// B = weight^T: the prepacked panels, or freshly packed ones in the slot.
template <class T>
static const float* transposed_weight(const Runtime& rt, Slot slot, const Weight& w) {
  if (w.out == 0 || w.in == 0) return nullptr;
  if (const float* panels = usable<T>(w)) return panels;
  float* out = (float*)rt.scratch(slot, packed_floats(w.out, Compute<T>::steps(w.in)) * 4 + kPrefetchSlack);
  pack_weight(rt, (const T*)w.data, w.out, w.in, out);
  return out;
}

// B = weight, for the gradient of the input.
template <class T>
static const float* plain_weight(const Runtime& rt, Slot slot, const Weight& w) {
  float* out = (float*)rt.scratch(slot, packed_floats(w.in, w.out) * 4 + kPrefetchSlack);
  const T* b = (const T*)w.data;
  for_tasks(rt, panels_of(w.in), [&](int64_t p) {
    pack_panel_kn(b, w.in, w.in, w.out, p, panel(out, w.out, p), [](vf x) { return x; });
  });
  return out;
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
