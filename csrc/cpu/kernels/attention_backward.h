// Gradient of attention. A task is one or more whole (image, head) pairs, so that nothing is shared
// and every sum has one order, whatever the number of threads.
#pragma once
#include "attention_forward.h"
#include "attention_gradient.h"

namespace vitkern::VITKERN_ISA {

// The gradient of the bias of one or some heads that share it.
struct BiasGradient {
  float* sums;  // null = not wanted
  bool one_row, one_column;
  int64_t columns;

  // Row `query` of dS.
  void take(const float* ds, int64_t query, int64_t n) const {
    float* row = sums + (one_row ? 0 : query * columns);
    if (!one_column) return add_row(ds, n, row);
    vf total = {};
    int64_t j = 0;
    for (; j + W <= n; j += W) total = total + load(ds + j);
    float rest = sum(total);
    for (; j < n; j++) rest += ds[j];
    *row += rest;
  }
};

template <class T>
struct AttentionHooks {
  const AttentionBackwardArgs& a;
  const Head<T>& head;
  const BiasGradient& bias;
  bool whole_rows;
  Dropout dropout;
  int64_t first_row;

  void finish_scores(float* s, int64_t query, int64_t first, int64_t n) const {
    const int64_t* strides = a.forward.bias_strides;
    if (head.bias) add_bias(s, head.bias + query * strides[2] + first * strides[3], strides[3], n);
    if (head.mask) ignore_masked(s, head.mask + first, n);
    end_row(s, n);
  }
  void take(const float* ds, int64_t query, int64_t n) const { bias.take(ds, query, n); }
  void store_key(int64_t key, const float* dk, const float* dv) const {
    const AttentionArgs& f = a.forward;
    if (dk) store_row(dk, f.head_dim, f.scale, head.row_of(a.dk, f, f.keys, key));
    if (dv) store_row(dv, f.head_dim, 1.f, head.row_of(a.dv, f, f.keys, key));
  }
};

template <class T>
static void attention_gradient(const Runtime& rt, const AttentionBackwardArgs& a, int64_t unit,
                               const BiasGradient& bias) {
  const AttentionArgs& f = a.forward;
  const Head<T> head(f, unit);
  const int64_t queries = f.queries, keys = head.keys;
  const T** lists = (const T**)rt.scratch(kTile, (4 * queries + 2 * keys) * 8 + 64);
  const T **q = lists, **out = q + queries, **dout = out + queries, **k = dout + queries, **v = k + keys;
  T** dq = (T**)(v + keys);
  const T* dout_head = (const T*)a.dout + head.image * a.dout_strides.batch + head.head * a.dout_strides.head;
  for (int64_t i = 0; i < queries; i++) {
    q[i] = head.q + i * f.q_strides.row;
    out[i] = head.row_of(f.out, f, queries, i);
    dout[i] = dout_head + i * a.dout_strides.row;
    if (a.dq) dq[i] = head.row_of(a.dq, f, queries, i);
  }
  for (int64_t j = 0; j < keys; j++) k[j] = head.k + j * f.k_strides.row, v[j] = head.v + j * f.v_strides.row;

  AttentionHooks<T> hooks{a, head, bias, f.bias != nullptr, Dropout(f.dropout_p, f.seed), unit * queries};
  const HeadRows<T> rows{queries, keys, f.head_dim, f.scale, q, k, v, out, dout, f.lse + unit * queries,
                         a.dq ? dq : nullptr, a.dk != nullptr, a.dv != nullptr, bias.sums != nullptr};
  if (f.bias) head_gradient<Base::e>(rt, rows, hooks);
  else head_gradient<Base::two>(rt, rows, hooks);

  for (int64_t j = keys; j < f.keys; j++) {  // keys that the mask ends with
    if (a.dk) memset((void*)head.row_of(a.dk, f, f.keys, j), 0, f.head_dim * sizeof(T));
    if (a.dv) memset((void*)head.row_of(a.dv, f, f.keys, j), 0, f.head_dim * sizeof(T));
  }
}

// Tasks where the bias has a gradient: a slice of it is what its (image, head) pairs share, and they
// are walked in order by a number of groups that only the shapes decide.
template <class T>
static void attention_backward_with_bias(const Runtime& rt, const AttentionBackwardArgs& a) {
  constexpr int64_t kTasks = 16, kPartialFloats = 16 << 20;
  const AttentionArgs& f = a.forward;
  const int64_t slices = a.bias_sizes[0] * a.bias_sizes[1], floats = a.bias_sizes[2] * a.bias_sizes[3];
  const int64_t images = a.bias_sizes[0] == 1 ? f.batch : 1, heads = a.bias_sizes[1] == 1 ? f.heads : 1;
  int64_t groups = smaller(images * heads, (kTasks + slices - 1) / slices);
  groups = larger<int64_t>(1, smaller(groups, kPartialFloats / (slices * floats)));
  float* partial = groups > 1 ? (float*)rt.scratch(kShared, groups * slices * floats * 4) : nullptr;
  for_tasks(rt, slices * groups, [&](int64_t task) {
    const int64_t slice = task / groups, group = task % groups;
    float* sums = groups > 1         ? partial + task * floats
                  : sizeof(T) == 4 ? (float*)a.dbias + slice * floats
                                   : (float*)rt.scratch(kRowsA, floats * 4);
    memset(sums, 0, floats * 4);
    const BiasGradient bias{sums, a.bias_sizes[2] == 1, a.bias_sizes[3] == 1, a.bias_sizes[3]};
    const int64_t first = images * heads * group / groups, last = images * heads * (group + 1) / groups;
    for (int64_t i = first; i < last; i++) {
      const int64_t image = i / heads + (images == 1 ? slice / a.bias_sizes[1] : 0);
      const int64_t head = i % heads + (heads == 1 ? slice % a.bias_sizes[1] : 0);
      attention_gradient<T>(rt, a, image * f.heads + head, bias);
    }
    if (groups == 1 && sizeof(T) != 4) store_row(sums, floats, 1.f, (T*)a.dbias + slice * floats);
  });
  if (groups == 1) return;
  for_tasks(rt, slices, [&](int64_t slice) {
    float* sums = partial + slice * groups * floats;
    for (int64_t g = 1; g < groups; g++) add_row(sums + g * floats, floats, sums);
    store_row(sums, floats, 1.f, (T*)a.dbias + slice * floats);
  });
}

template <class T>
static void attention_backward_as(const Runtime& rt, const AttentionBackwardArgs& a) {
  const int64_t* sizes = a.bias_sizes;
  if (a.dbias && sizes[0] * sizes[1] * sizes[2] * sizes[3] > 0) return attention_backward_with_bias<T>(rt, a);
  for_tasks(rt, a.forward.batch * a.forward.heads,
            [&](int64_t unit) { attention_gradient<T>(rt, a, unit, {nullptr, false, false, 0}); });
}
static void attention_backward(const Runtime& rt, const AttentionBackwardArgs& a) {
  with_type(a.forward.type, [&](auto t) { attention_backward_as<decltype(t)>(rt, a); });
}

}  // namespace vitkern::VITKERN_ISA
