// Fused attention blocks: norm, qkv, attention, projection, LayerScale and residual in one call. What
// lies between stays in scratch memory that all layers of a model share.
#pragma once
#include "../args/attention_block.h"
#include "attention.h"
#include "linear.h"
#include "normalized_rows.h"
#include "window_attention.h"

namespace vitkern::VITKERN_ISA {

// qkv = norm(x) weight^T + bias
template <class T>
static void qkv_of(const Runtime& rt, const T* x, int64_t rows, const Norm& norm, const Weight& weight,
                   const void* bias, T* qkv) {
  PaddedVectors vectors(rt, kVectors, 3, larger(weight.out, weight.in));
  Epilogue<T> e{qkv, weight.out};
  e.bias = vectors.add((const T*)bias, weight.out);
  multiply_rows(rt, x, weight.in, rows, norm, weight, vectors, e);
}

// y = x + gamma * (heads weight^T + bias)
template <class T>
static void project(const Runtime& rt, const T* heads, int64_t rows, const Weight& weight, const void* bias,
                    const void* gamma, const T* x, T* y) {
  linear(rt, LinearArgs{sizeof(T) == 4 ? Type::f32 : Type::bf16, rows, heads, weight.in, weight, bias,
                        Activation::none, gamma, x, weight.out, y, nullptr});
}

template <class T>
static void attention_block_as(const Runtime& rt, const AttentionBlockArgs& a) {
  const int64_t rows = a.batch * a.tokens, c = a.heads * a.head_dim;
  if (rows == 0) return;
  T* qkv = (T*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(T));
  T* heads = (T*)rt.scratch(kBlockHeads, rows * c * sizeof(T));
  qkv_of(rt, (const T*)a.x, rows, a.norm, a.qkv, a.qkv_bias, qkv);
  const Strides3 s{a.tokens * 3 * c, a.head_dim, 3 * c};
  AttentionArgs attend{};
  attend.type = a.type;
  attend.batch = a.batch, attend.heads = a.heads, attend.head_dim = a.head_dim;
  attend.queries = attend.keys = a.tokens;
  attend.q = qkv, attend.k = qkv + c, attend.v = qkv + 2 * c;
  attend.q_strides = attend.k_strides = attend.v_strides = s;
  attend.scale = a.scale;
  attend.out = heads;
  attention(rt, attend);
  project(rt, heads, rows, a.proj, a.proj_bias, a.gamma, (const T*)a.x, (T*)a.y);
}
static void attention_block(const Runtime& rt, const AttentionBlockArgs& a) {
  with_type(a.type, [&](auto t) { attention_block_as<decltype(t)>(rt, a); });
}

template <class T>
static void window_block_as(const Runtime& rt, const WindowBlockArgs& a) {
  WindowAttentionArgs w = a.window;
  const int64_t rows = w.batch * w.height * w.width, c = w.heads * w.head_dim;
  if (rows == 0) return;
  T* qkv = (T*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(T));
  T* heads = (T*)rt.scratch(kBlockHeads, rows * c * sizeof(T));
  qkv_of(rt, (const T*)a.x, rows, a.norm, a.qkv, a.qkv_bias, qkv);
  w.qkv = qkv, w.out = heads, w.lse = nullptr;
  window_attention(rt, w);
  project(rt, heads, rows, a.proj, a.proj_bias, a.gamma, (const T*)a.x, (T*)a.y);
}
static void window_block(const Runtime& rt, const WindowBlockArgs& a) {
  with_type(a.window.type, [&](auto t) { window_block_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
