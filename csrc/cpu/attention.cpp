// Operators attention and attention_backward: shapes, strides, outputs, and the call.
#include <utility>

#include "host.h"

namespace vitkern {
namespace {

Strides3 strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2)}; }

// Rows of q, k and v have their elements side by side.
Tensor with_dense_rows(const Tensor& t) { return t.stride(3) == 1 || t.size(3) == 1 ? t : dense(t); }

// (batch, heads, rows, head_dim) whose memory is (batch, rows, heads, head_dim).
Tensor empty_heads(const Tensor& like) {
  return empty(like, {like.size(0), like.size(2), like.size(1), like.size(3)});
}
Tensor heads_first(const Tensor& t) { return t.dim() == 4 ? torch::stable::transpose(t, 1, 2) : t; }

AttentionArgs arguments(const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& bias, const Maybe& mask,
                        double scale, double dropout_p, const Maybe& seed) {
  AttentionArgs a = {};
  a.type = type_of(q);
  a.batch = q.size(0), a.heads = q.size(1), a.queries = q.size(2), a.keys = k.size(2), a.head_dim = q.size(3);
  a.q = data(q), a.k = data(k), a.v = data(v);
  a.q_strides = strides_of(q), a.k_strides = strides_of(k), a.v_strides = strides_of(v);
  a.bias = data(bias);
  for (int64_t i = 0; bias && i < bias->dim(); i++) {
    const int64_t dim = 4 - bias->dim() + i;
    a.bias_strides[dim] = bias->size(i) == 1 ? 0 : bias->stride(i);
  }
  a.key_padding_mask = (const uint8_t*)data(mask);
  a.scale = (float)scale;
  a.dropout_p = dropout_p;
  a.seed = seed ? (uint64_t)*(const int64_t*)data(seed) : 0;
  return a;
}

std::tuple<Tensor, Tensor> attention(Tensor q, Tensor k, Tensor v, Maybe bias, Maybe key_padding_mask, double scale,
                                     double dropout_p, Maybe seed, bool save) {
  q = with_dense_rows(q);
  k = with_dense_rows(k);
  v = with_dense_rows(v);
  key_padding_mask = dense(key_padding_mask);
  Tensor out = empty_heads(q),
         lse = empty_if(save, q, {q.size(0), q.size(1), q.size(2)}, ScalarType::Float);
  AttentionArgs a = arguments(q, k, v, bias, key_padding_mask, scale, dropout_p, seed);
  a.out = data(out);
  a.lse = (float*)data(lse);
  kernels().attention(runtime(), a);
  return {heads_first(out), lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out,
                                                              Tensor lse, Maybe bias, Maybe key_padding_mask,
                                                              double scale, double dropout_p, Maybe seed, bool need_q,
                                                              bool need_k, bool need_v, bool need_bias) {
  dout = with_dense_rows(dout);
  q = with_dense_rows(q);
  k = with_dense_rows(k);
  v = with_dense_rows(v);
  key_padding_mask = dense(key_padding_mask);
  out = dense(torch::stable::transpose(out, 1, 2));
  lse = dense(lse);
  need_bias = need_bias && bias;
  const auto gradient = [](bool needed, const Tensor& of) { return needed ? empty_heads(of) : empty(of, {0}); };
  Tensor dq = gradient(need_q, q), dk = gradient(need_k, k), dv = gradient(need_v, v),
         dbias = need_bias ? empty(q, sizes_of(*bias)) : empty(q, {0});
  AttentionBackwardArgs a = {};
  a.forward = arguments(q, k, v, bias, key_padding_mask, scale, dropout_p, seed);
  a.forward.out = const_cast<void*>(data(std::as_const(out)));
  a.forward.lse = (float*)const_cast<void*>(data(std::as_const(lse)));
  a.dout = data(std::as_const(dout));
  a.dout_strides = strides_of(dout);
  a.dq = data(dq), a.dk = data(dk), a.dv = data(dv);
  a.dbias = data(dbias);
  for (int64_t i = 0; i < 4; i++) {
    const int64_t dim = bias ? i - (4 - bias->dim()) : -1;
    a.bias_sizes[i] = dim < 0 ? 1 : bias->size(dim);
  }
  kernels().attention_backward(runtime(), a);
  return {heads_first(dq), heads_first(dk), heads_first(dv), dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) {
  m.impl("attention", TORCH_BOX(&attention));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}

}  // namespace vitkern
