// Operators attention_block, window_attention_block and mlp_block: y = x + gamma * f(layer_norm(x)).
#include "host.h"

namespace vitkern {
namespace {

Norm norm_of(const Tensor& x, Maybe& weight, Maybe& bias, double eps) {
  weight = dense(weight);
  bias = dense(bias);
  return {true, weight ? type_of(*weight) : bias ? type_of(*bias) : type_of(x), data(weight), data(bias), (float)eps};
}

Tensor attention_block(Tensor x, Maybe norm_weight, Maybe norm_bias, double eps, Tensor qkv_weight, Maybe qkv_packed,
                       Maybe qkv_bias, Tensor proj_weight, Maybe proj_packed, Maybe proj_bias, Maybe gamma,
                       int64_t num_heads, double scale) {
  x = dense(x);
  qkv_weight = dense(qkv_weight);
  qkv_bias = dense(qkv_bias);
  proj_weight = dense(proj_weight);
  proj_bias = dense(proj_bias);
  gamma = dense(gamma);
  Tensor y = empty(x, sizes_of(x));
  kernels().attention_block(
      runtime(), {type_of(x), x.size(0), x.size(1), num_heads, x.size(2) / num_heads, data(x),
                  norm_of(x, norm_weight, norm_bias, eps), weight_of(qkv_weight, qkv_packed), data(qkv_bias),
                  weight_of(proj_weight, proj_packed), data(proj_bias), data(gamma), (float)scale, data(y)});
  return y;
}

Tensor window_attention_block(Tensor x, Maybe norm_weight, Maybe norm_bias, double eps, Tensor qkv_weight,
                              Maybe qkv_packed, Maybe qkv_bias, Tensor proj_weight, Maybe proj_packed, Maybe proj_bias,
                              Maybe gamma, Maybe bias_table, int64_t num_heads, int64_t window_height,
                              int64_t window_width, int64_t shift_height, int64_t shift_width, double scale,
                              bool pad_first) {
  x = dense(x);
  qkv_weight = dense(qkv_weight);
  qkv_bias = dense(qkv_bias);
  proj_weight = dense(proj_weight);
  proj_bias = dense(proj_bias);
  gamma = dense(gamma);
  bias_table = dense(bias_table);
  Tensor y = empty(x, sizes_of(x));
  const WindowAttentionArgs window{
      type_of(x),   x.size(0),  x.size(1),     x.size(2),    num_heads, x.size(3) / num_heads, window_height,
      window_width, shift_height, shift_width, pad_first,    (float)scale, nullptr,            data(bias_table),
      data(qkv_bias), nullptr,  nullptr};
  kernels().window_block(runtime(), {window, data(x), norm_of(x, norm_weight, norm_bias, eps),
                                     weight_of(qkv_weight, qkv_packed), data(qkv_bias),
                                     weight_of(proj_weight, proj_packed), data(proj_bias), data(gamma), data(y)});
  return y;
}

Tensor mlp_block(Tensor x, Maybe norm_weight, Maybe norm_bias, double eps, Tensor weight1, Maybe packed1, Maybe bias1,
                 Tensor weight2, Maybe packed2, Maybe bias2, int64_t activation, Maybe gamma) {
  const RowsView rows = rows_view(x);
  weight1 = dense(weight1);
  bias1 = dense(bias1);
  weight2 = dense(weight2);
  bias2 = dense(bias2);
  gamma = dense(gamma);
  Tensor y = empty(x, sizes_of(x));
  kernels().mlp(runtime(), {type_of(x), rows.rows, data(rows.tensor), rows.stride,
                            norm_of(x, norm_weight, norm_bias, eps), weight_of(weight1, packed1), data(bias1),
                            weight_of(weight2, packed2), data(bias2), (Activation)activation, data(gamma),
                            data(rows.tensor), rows.stride, data(y), nullptr, nullptr});
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) {
  m.impl("attention_block", TORCH_BOX(&attention_block));
  m.impl("window_attention_block", TORCH_BOX(&window_attention_block));
  m.impl("mlp_block", TORCH_BOX(&mlp_block));
}

}  // namespace vitkern
