// Operator layer_norm and its gradient.
#include "host.h"

namespace vitkern {
namespace {

Type weight_type(const Tensor& x, const Maybe& weight, const Maybe& bias) {
  return weight ? type_of(*weight) : bias ? type_of(*bias) : type_of(x);
}

std::tuple<Tensor, Tensor, Tensor> layer_norm(Tensor x, Maybe weight, Maybe bias, double eps, Maybe residual,
                                              bool save) {
  x = dense(x);
  residual = dense(residual);
  weight = dense(weight);
  bias = dense(bias);
  const int64_t columns = x.size(x.dim() - 1), rows = columns ? x.numel() / columns : 0;
  Tensor y = empty(x, sizes_of(x)), sum = empty_if(residual.has_value(), x, sizes_of(x)),
         stats = empty_if(save, x, {rows, 2}, ScalarType::Float);
  kernels().layer_norm(runtime(), {type_of(x), weight_type(x, weight, bias), rows, columns, data(x), data(residual),
                                   data(weight), data(bias), (float)eps, data(y), data(sum), (float*)data(stats)});
  return {y, sum, stats};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(Tensor dy, Maybe dsum, Tensor x, Maybe weight, Tensor stats,
                                                       bool need_x, bool need_weight, bool need_bias) {
  dy = dense(dy);
  dsum = dense(dsum);
  x = dense(x);
  weight = dense(weight);
  const int64_t columns = x.size(x.dim() - 1), rows = columns ? x.numel() / columns : 0;
  const Tensor& like = weight ? *weight : x;
  Tensor dx = empty_if(need_x, x, sizes_of(x)), dweight = empty_if(need_weight, like, {columns}),
         dbias = empty_if(need_bias, like, {columns});
  kernels().layer_norm_backward(runtime(), {type_of(x), weight_type(x, weight, {}), rows, columns, data(dy),
                                            data(dsum), data(x), data(weight), (const float*)data(stats), data(dx),
                                            data(dweight), data(dbias)});
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) {
  m.impl("layer_norm", TORCH_BOX(&layer_norm));
  m.impl("layer_norm_backward", TORCH_BOX(&layer_norm_backward));
}

}  // namespace vitkern
