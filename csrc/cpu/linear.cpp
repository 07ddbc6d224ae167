// Operators pack_weight, linear, mlp and their gradients: shapes, outputs, and the call.
#include "host.h"

namespace vitkern {
namespace {

int64_t packed_bytes(int64_t form, bool bfloat16_weight, int64_t out, int64_t in) {
  return kernels().packed_bytes(bfloat16_weight ? Type::bf16 : Type::f32, (Form)form, out, in);
}

Tensor pack_weight(Tensor weight, bool bfloat16) {
  weight = dense(weight);
  const Kernels& k = kernels();
  const Form form = bfloat16 ? Form::bf16 : Form::native;
  const int64_t out = weight.size(0), in = weight.size(1);
  Tensor packed = empty(weight, {k.packed_bytes(type_of(weight), form, out, in)}, ScalarType::Byte);
  k.pack_weight(runtime(), {type_of(weight), form, data(weight), out, in, data(packed)});
  return packed;
}

// Activations have up to 255 in size and weights up to 127: longer sums could leave 32 bits.
constexpr int64_t kLongestInt8 = 0x7fffffff / (255 * 127);

// Whether 255 times any two neighbours, added up, stays in 16 bits.
bool pairs_fit(const int8_t* values, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c + 1 < columns; c += 2) {
      const int a = values[r * columns + c], b = values[r * columns + c + 1];
      if (a + b > 128 || a + b < -128) return false;  // of different signs they can't overflow
    }
  return true;
}

Tensor pack_int8(Tensor values, Tensor scale, std::optional<double> low, std::optional<double> high) {
  values = dense(values);
  scale = dense(scale);
  const Kernels& k = kernels();
  const int64_t out = values.size(0), in = values.size(1);
  STD_TORCH_CHECK(values.scalar_type() == ScalarType::Char && scale.scalar_type() == ScalarType::Float &&
                      scale.numel() == out,
                  "pack_int8: values must be int8 and scale float32, one for each row");
  STD_TORCH_CHECK(in <= kLongestInt8, "pack_int8: sums of ", in, " products leave 32 bits; at most ", kLongestInt8);
  STD_TORCH_CHECK(!k.sums_pairs || pairs_fit((const int8_t*)data(values), out, in),
                  "pack_int8: values that overflow the 16-bit sums of two products of this instruction set");
  Tensor packed = empty(values, {k.packed_bytes(Type::f32, Form::int8, out, in)}, ScalarType::Byte);
  k.pack_int8(runtime(), {(const int8_t*)data(values), (const float*)data(scale), out, in, !low, (float)low.value_or(0),
                          (float)high.value_or(0), data(packed)});
  return packed;
}

// x's leading sizes and then n.
std::vector<int64_t> with_last(const Tensor& x, int64_t n) {
  std::vector<int64_t> sizes = sizes_of(x);
  sizes.back() = n;
  return sizes;
}

std::tuple<Tensor, Tensor> linear(Tensor x, Tensor weight, Maybe packed, Maybe bias, int64_t activation, Maybe gamma,
                                  Maybe residual, bool save_pre) {
  const RowsView rows = rows_view(x);
  weight = dense(weight);
  bias = dense(bias);
  gamma = dense(gamma);
  const int64_t out = weight.size(0);
  Tensor y = empty(x, with_last(x, out)), pre = empty_if(save_pre, x, with_last(x, out));
  std::optional<RowsView> res;
  if (residual) res = rows_view(*residual);
  kernels().linear(runtime(), {type_of(x), rows.rows, data(rows.tensor), rows.stride, weight_of(weight, packed),
                               data(bias), (Activation)activation, data(gamma), res ? data(res->tensor) : nullptr,
                               res ? res->stride : 0, data(y), save_pre ? data(pre) : nullptr});
  return {y, pre};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_backward(Tensor dy, Tensor x, Tensor weight, Maybe pre,
                                                           int64_t activation, Maybe gamma, bool need_x,
                                                           bool need_weight, bool need_bias, bool need_gamma) {
  const RowsView rows = rows_view(x);
  dy = dense(dy);
  weight = dense(weight);
  pre = dense(pre);
  gamma = dense(gamma);
  const int64_t out = weight.size(0), in = weight.size(1);
  Tensor dx = empty_if(need_x, x, sizes_of(x)), dweight = empty_if(need_weight, x, {out, in}),
         dbias = empty_if(need_bias, x, {out}), dgamma = empty_if(need_gamma, x, {out});
  kernels().linear_backward(runtime(), {type_of(x), rows.rows, data(dy), data(rows.tensor), rows.stride,
                                        weight_of(weight, {}), data(pre), (Activation)activation, data(gamma),
                                        data(dx), data(dweight), data(dbias), data(dgamma)});
  return {dx, dweight, dbias, dgamma};
}

std::tuple<Tensor, Tensor, Tensor> mlp(Tensor x, Tensor weight1, Maybe packed1, Maybe bias1, Tensor weight2,
                                       Maybe packed2, Maybe bias2, int64_t activation, Maybe gamma, Maybe residual,
                                       bool save) {
  const RowsView rows = rows_view(x);
  weight1 = dense(weight1);
  weight2 = dense(weight2);
  bias1 = dense(bias1);
  bias2 = dense(bias2);
  gamma = dense(gamma);
  const int64_t hidden = weight1.size(0), out = weight2.size(0);
  Tensor y = empty(x, with_last(x, out)), pre1 = empty_if(save, x, with_last(x, hidden)),
         out2 = empty_if(save && gamma, x, with_last(x, out));
  std::optional<RowsView> res;
  if (residual) res = rows_view(*residual);
  const Weight first = weight_of(weight1, packed1), second = weight_of(weight2, packed2);
  STD_TORCH_CHECK(!save || (first.form == Form::native && second.form == Form::native),
                  "mlp: what a gradient needs can only be saved with plain weights");
  kernels().mlp(runtime(), {type_of(x), rows.rows, data(rows.tensor), rows.stride, Norm{}, first,
                            data(bias1), second, data(bias2), (Activation)activation, data(gamma),
                            res ? data(res->tensor) : nullptr, res ? res->stride : 0, data(y),
                            data(pre1), data(out2)});
  return {y, pre1, out2};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward(
    Tensor dy, Tensor x, Tensor weight1, Tensor weight2, Tensor pre1, Maybe out2, int64_t activation, Maybe gamma,
    bool need_x, bool need_weight1, bool need_bias1, bool need_weight2, bool need_bias2, bool need_gamma) {
  const RowsView rows = rows_view(x);
  dy = dense(dy);
  weight1 = dense(weight1);
  weight2 = dense(weight2);
  gamma = dense(gamma);
  const int64_t in = weight1.size(1), hidden = weight1.size(0), out = weight2.size(0);
  Tensor dx = empty_if(need_x, x, sizes_of(x)), dweight1 = empty_if(need_weight1, x, {hidden, in}),
         dbias1 = empty_if(need_bias1, x, {hidden}), dweight2 = empty_if(need_weight2, x, {out, hidden}),
         dbias2 = empty_if(need_bias2, x, {out}), dgamma = empty_if(need_gamma, x, {out});
  kernels().mlp_backward(
      runtime(), {type_of(x), rows.rows, data(dy), data(rows.tensor), rows.stride, weight_of(weight1, {}),
                  weight_of(weight2, {}), data(pre1), data(out2), (Activation)activation, data(gamma), data(dx),
                  data(dweight1), data(dbias1), data(dweight2), data(dbias2), data(dgamma)});
  return {dx, dweight1, dbias1, dweight2, dbias2, dgamma};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CompositeExplicitAutograd, m) {
  m.impl("packed_bytes", TORCH_BOX(&packed_bytes));
}

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) {
  m.impl("pack_weight", TORCH_BOX(&pack_weight));
  m.impl("pack_int8", TORCH_BOX(&pack_int8));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_backward", TORCH_BOX(&linear_backward));
  m.impl("mlp", TORCH_BOX(&mlp));
  m.impl("mlp_backward", TORCH_BOX(&mlp_backward));
}

}  // namespace vitkern
