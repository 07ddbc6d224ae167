// Fused attention block: norm, qkv, attention, projection, LayerScale and residual in one call. A task takes
// some images through all of it; where that makes too few tasks, each step goes over all images, and what lies
// between stays in scratch memory that all layers of a model share.
#pragma once
#include "../args/attention_block.h"
#include "attention.h"
#include "linear.h"
#include "normalized_rows.h"

namespace vitkern::VITKERN_ISA {

// Rows that a task of a fused block has at least, where there are as many: fewer would not be worth reading the
// weights.
constexpr int64_t kRowsOfTask = 160;

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

// The calling thread alone.
VK_INLINE Runtime serial(const Runtime& rt) {
  return {1, [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
            for (int64_t i = 0; i < tasks; i++) body(context, i);
          }, rt.scratch};
}

// Attention of `batch` images, between what qkv holds of them and `heads`.
template <class T>
static void attend_images(const Runtime& rt, const AttentionBlockArgs& a, int64_t batch, const T* qkv, T* heads) {
  const int64_t c = a.heads * a.head_dim;
  AttentionArgs attend{};
  attend.type = a.type;
  attend.batch = batch, attend.heads = a.heads, attend.head_dim = a.head_dim;
  attend.queries = attend.keys = a.tokens;
  attend.q = qkv, attend.k = qkv + c, attend.v = qkv + 2 * c;
  attend.q_strides = attend.k_strides = attend.v_strides = Strides3{a.tokens * 3 * c, a.head_dim, 3 * c};
  attend.scale = a.scale;
  attend.out = heads;
  attention(rt, attend);
}

// Some images go through all of it while they are in the second-level cache.
template <class C, class T>
static void attention_block_by_images(const Runtime& rt, const AttentionBlockArgs& a, int64_t tasks) {
  const int64_t c = a.heads * a.head_dim;
  PaddedVectors vectors(rt, kVectors, 5, larger(a.qkv.out, a.qkv.in));
  const float* qkv_bias = vectors.add((const T*)a.qkv_bias, a.qkv.out);
  Epilogue<T> second{(T*)a.y, a.proj.out};
  second.bias = vectors.add((const T*)a.proj_bias, a.proj.out);
  second.gamma = vectors.add((const T*)a.gamma, a.proj.out);
  second.residual = (const T*)a.x;
  second.residual_stride = a.proj.out;
  const Operand by_qkv = transposed_weight<C, T>(rt, kPackedB, a.qkv);
  const Operand by_proj = transposed_weight<C, T>(rt, kPackedB2, a.proj);
  with_rows<C>((const T*)a.x, a.qkv.in, a.qkv.in, a.norm, by_qkv.range, vectors, [&](const auto& x) {
    for_tasks(rt, tasks, [&](int64_t i) {
      const int64_t first = a.batch * i / tasks, images = a.batch * (i + 1) / tasks - first;
      const int64_t row = first * a.tokens, rows = images * a.tokens;
      T* qkv = (T*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(T));
      T* heads = (T*)rt.scratch(kBlockHeads, rows * c * sizeof(T));
      Epilogue<T> into_qkv{qkv, 3 * c};
      into_qkv.bias = qkv_bias;
      multiply_run<C>(rt, x, row, rows, by_qkv, 3 * c, c, into_qkv, 0);
      attend_images(serial(rt), a, images, qkv, heads);
      multiply_run<C>(rt, Rows<C, T>{heads, c, c, by_proj.range}, 0, rows, by_proj, c, c, second, row);
    });
  });
}

template <class T>
static void attention_block_as(const Runtime& rt, const AttentionBlockArgs& a) {
  const int64_t rows = a.batch * a.tokens, c = a.heads * a.head_dim;
  if (rows == 0) return;
  const int64_t per_task = (kRowsOfTask + a.tokens - 1) / a.tokens, tasks = (a.batch + per_task - 1) / per_task;
  if (a.qkv.form == a.proj.form && (rt.threads == 1 || tasks >= 2 * rt.threads))
    return with_form<T>(a.qkv.form, [&](auto form) { attention_block_by_images<decltype(form), T>(rt, a, tasks); });
  T* qkv = (T*)rt.scratch(kBlockQkv, rows * 3 * c * sizeof(T));
  T* heads = (T*)rt.scratch(kBlockHeads, rows * c * sizeof(T));
  qkv_of(rt, (const T*)a.x, rows, a.norm, a.qkv, a.qkv_bias, qkv);
  attend_images(rt, a, a.batch, qkv, heads);
  project(rt, heads, rows, a.proj, a.proj_bias, a.gamma, (const T*)a.x, (T*)a.y);
}
static void attention_block(const Runtime& rt, const AttentionBlockArgs& a) {
  with_type(a.type, [&](auto t) { attention_block_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
