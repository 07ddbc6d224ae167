// Operators window_attention and window_attention_backward: shapes, outputs, and the call.
#include <utility>

#include "host.h"

namespace vitkern {
namespace {

int64_t windows_along(int64_t size, int64_t window) { return (size + window - 1) / window; }

WindowAttentionArgs arguments(const Tensor& qkv, const Maybe& bias_table, const Maybe& pad, int64_t num_heads,
                              int64_t window_height, int64_t window_width, int64_t shift_height, int64_t shift_width,
                              double scale, bool pad_first) {
  WindowAttentionArgs a = {};
  a.type = type_of(qkv);
  a.batch = qkv.size(0), a.height = qkv.size(1), a.width = qkv.size(2);
  a.heads = num_heads, a.head_dim = qkv.size(3) / (3 * num_heads);
  a.window_height = window_height, a.window_width = window_width;
  a.shift_height = shift_height, a.shift_width = shift_width;
  a.pad_first = pad_first;
  a.scale = (float)scale;
  a.qkv = data(qkv), a.bias_table = data(bias_table), a.pad = data(pad);
  return a;
}

std::tuple<Tensor, Tensor> window_attention(Tensor qkv, Maybe bias_table, Maybe pad, int64_t num_heads,
                                            int64_t window_height, int64_t window_width, int64_t shift_height,
                                            int64_t shift_width, double scale, bool pad_first, bool save) {
  qkv = dense(qkv);
  bias_table = dense(bias_table);
  pad = dense(pad);
  WindowAttentionArgs a = arguments(qkv, bias_table, pad, num_heads, window_height, window_width, shift_height,
                                    shift_width, scale, pad_first);
  const int64_t windows = windows_along(a.height, window_height) * windows_along(a.width, window_width);
  Tensor out = empty(qkv, {a.batch, a.height, a.width, a.heads * a.head_dim}),
         lse = empty_if(save, qkv, {a.batch, windows, num_heads, window_height * window_width}, ScalarType::Float);
  a.out = data(out);
  a.lse = (float*)data(lse);
  kernels().window_attention(runtime(), a);
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> window_attention_backward(
    Tensor dout, Tensor qkv, Maybe bias_table, Maybe pad, Tensor out, Tensor lse, int64_t num_heads,
    int64_t window_height, int64_t window_width, int64_t shift_height, int64_t shift_width, double scale,
    bool pad_first, bool need_qkv, bool need_table, bool need_pad) {
  dout = dense(dout);
  qkv = dense(qkv);
  bias_table = dense(bias_table);
  pad = dense(pad);
  out = dense(out);
  lse = dense(lse);
  Tensor dqkv = need_qkv ? empty(qkv, sizes_of(qkv)) : empty(qkv, {0}),
         dtable = need_table && bias_table ? empty(qkv, sizes_of(*bias_table)) : empty(qkv, {0}),
         dpad = need_pad && pad ? empty(qkv, sizes_of(*pad)) : empty(qkv, {0});
  WindowAttentionBackwardArgs a = {};
  a.forward = arguments(qkv, bias_table, pad, num_heads, window_height, window_width, shift_height, shift_width, scale,
                        pad_first);
  a.forward.out = const_cast<void*>(data(std::as_const(out)));
  a.forward.lse = (float*)const_cast<void*>(data(std::as_const(lse)));
  a.dout = data(std::as_const(dout));
  a.dqkv = data(dqkv), a.dbias_table = data(dtable), a.dpad = data(dpad);
  kernels().window_attention_backward(runtime(), a);
  return {dqkv, dtable, dpad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) {
  m.impl("window_attention", TORCH_BOX(&window_attention));
  m.impl("window_attention_backward", TORCH_BOX(&window_attention_backward));
}

}  // namespace vitkern
