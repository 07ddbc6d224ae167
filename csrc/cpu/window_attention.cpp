// Operators window_attention and window_attention_backward: shapes, outputs, and the call.
#include "host.h"

namespace vitkern {
namespace {

int64_t windows_along(int64_t size, int64_t window) { return (size + window - 1) / window; }

std::tuple<Tensor, Tensor> window_attention(Tensor qkv, Maybe bias_table, Maybe pad, int64_t num_heads,
                                            int64_t window_height, int64_t window_width, int64_t shift_height,
                                            int64_t shift_width, double scale, bool pad_first, bool save) {
  qkv = dense(qkv);
  bias_table = dense(bias_table);
  pad = dense(pad);
  const int64_t batch = qkv.size(0), height = qkv.size(1), width = qkv.size(2), channels = qkv.size(3) / 3;
  const int64_t windows = windows_along(height, window_height) * windows_along(width, window_width);
  Tensor out = empty(qkv, {batch, height, width, channels}),
         lse = empty_if(save, qkv, {batch, windows, num_heads, window_height * window_width}, ScalarType::Float);
  kernels().window_attention(
      runtime(), {type_of(qkv), batch, height, width, num_heads, channels / num_heads, window_height, window_width,
                  shift_height, shift_width, pad_first, (float)scale, data(qkv), data(bias_table), data(pad), data(out),
                  (float*)data(lse)});
  return {out, lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) { m.impl("window_attention", TORCH_BOX(&window_attention)); }

}  // namespace vitkern
