// Every schema of the library. Implementations register themselves in csrc/<device>/<op>.cpp.
//
// Conventions: an output that was not asked for is a tensor with no elements. `packed*` is what
// `pack_weight` made of the weight beside it, or None (then it is packed in this call).
// `activation` is an index into the names below; `type` of a float32 statistic is always float32.
//   0 none, 1 gelu (erf), 2 gelu_tanh, 3 relu, 4 silu, 5 quick_gelu
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(vitkern_cpu, m) {
  // Instruction sets compiled in and runnable here, widest last; the one in use; a switch for tests.
  m.def("isas() -> str");
  m.def("isa() -> str");
  m.def("set_isa(str name) -> ()");
  // Bytes that are kept for large outputs to come, beside the scratch memory of threads; and freeing them.
  m.def("pooled_bytes() -> int");
  m.def("release_pool() -> ()");
  // GFLOP/s of one thread (or all of them) doing nothing but multiply-adds for about `seconds`, as products
  // of form 0 float32, 1 bfloat16 or 2 int8 do.
  m.def("peak_gflops(float seconds, bool all_threads, int form=0) -> float");

  // weight (N, K) -> opaque buffer for the instruction set in use. It also says in which form products
  // with this weight take their operands: in the weight's own dtype, or rounded to bfloat16.
  m.def("pack_weight(Tensor weight, bool bfloat16) -> Tensor");
  // The same for products of integers: values (N, K) int8, scale (N,) float32. Activations are cut into
  // 255 steps of the range (low, high), which includes 0, or of each row's own (None). For inference only.
  m.def("pack_int8(Tensor values, Tensor scale, float? low, float? high) -> Tensor");
  // Bytes of what these two make: form 0 own, 1 bfloat16, 2 int8.
  m.def("packed_bytes(int form, bool bfloat16_weight, int outputs, int inputs) -> int");
  // Whether the instruction set in use sums products of integers in 16 bits, two by two: then the positive
  // of values (2 i, 2 i + 1) of a row must not be more than 128 together, nor the negative.
  m.def("sums_pairs() -> bool");

  // y = residual + gamma * activation(x @ weight.T + bias); x (..., K) -> y (..., N).
  // pre = x @ weight.T + bias (..., N) in x's dtype where save_pre.
  m.def(
      "linear(Tensor x, Tensor weight, Tensor? packed, Tensor? bias, int activation, Tensor? gamma, "
      "Tensor? residual, bool save_pre) -> (Tensor y, Tensor pre)");
  // pre is needed for an activation or for dgamma.
  m.def(
      "linear_backward(Tensor dy, Tensor x, Tensor weight, Tensor? pre, int activation, Tensor? gamma, "
      "bool need_x, bool need_weight, bool need_bias, bool need_gamma) "
      "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dgamma)");

  // y = residual + gamma * (activation(x @ weight1.T + bias1) @ weight2.T + bias2).
  // Where save: pre1 (..., H) and, if gamma is given, out2 = what gamma multiplies (..., N).
  m.def(
      "mlp(Tensor x, Tensor weight1, Tensor? packed1, Tensor? bias1, Tensor weight2, Tensor? packed2, "
      "Tensor? bias2, int activation, Tensor? gamma, Tensor? residual, bool save) "
      "-> (Tensor y, Tensor pre1, Tensor out2)");
  m.def(
      "mlp_backward(Tensor dy, Tensor x, Tensor weight1, Tensor weight2, Tensor pre1, Tensor? out2, "
      "int activation, Tensor? gamma, bool need_x, bool need_weight1, bool need_bias1, "
      "bool need_weight2, bool need_bias2, bool need_gamma) -> (Tensor dx, Tensor dweight1, "
      "Tensor dbias1, Tensor dweight2, Tensor dbias2, Tensor dgamma)");

  // images (B, C, H, W), weight (D, C, ph, pw) -> (B, (H/ph)*(W/pw), D).
  m.def("patch_embed(Tensor images, Tensor weight, Tensor? packed, Tensor? bias) -> Tensor");
  m.def(
      "patch_embed_backward(Tensor dy, Tensor images, Tensor weight, bool need_images, "
      "bool need_weight, bool need_bias) -> (Tensor dimages, Tensor dweight, Tensor dbias)");

  // sum = x + residual (no elements where residual is None); stats (rows, 2) float32 = mean, 1/std
  // of each row where save. y and sum are contiguous, in x's dtype.
  m.def(
      "layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps, Tensor? residual, bool save) "
      "-> (Tensor y, Tensor sum, Tensor stats)");
  // x is what was normalised (the sum, where there was a residual); dsum its other gradient.
  m.def(
      "layer_norm_backward(Tensor dy, Tensor? dsum, Tensor x, Tensor? weight, Tensor stats, "
      "bool need_x, bool need_weight, bool need_bias) -> (Tensor dx, Tensor dweight, Tensor dbias)");

  // q (B, h, Nq, d), k and v (B, h, Nk, d), any strides with the last one 1 -> out (B, h, Nq, d) that
  // is a transposed view of a contiguous (B, Nq, h, d); lse (B, h, Nq) float32 where save.
  // bias broadcasts to (B, h, Nq, Nk); key_padding_mask (B, Nk) bool, true = ignore; seed: int64,
  // one element, where dropout_p > 0.
  m.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? key_padding_mask, float scale, "
      "float dropout_p, Tensor? seed, bool save) -> (Tensor out, Tensor lse)");
  // dq, dk, dv laid out like out; dbias has bias's shape.
  m.def(
      "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "Tensor? bias, Tensor? key_padding_mask, float scale, float dropout_p, Tensor? seed, "
      "bool need_q, bool need_k, bool need_v, bool need_bias) "
      "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dbias)");

  // qkv (B, H, W, 3*C) -> out (B, H, W, C) contiguous; lse (B, windows, heads, wh*ww) float32 where
  // save. pad (3*C): the qkv of padded positions (None = zeros). pad_first: pad, then shift
  // (torchvision); otherwise shift, then pad (timm).
  m.def(
      "window_attention(Tensor qkv, Tensor? bias_table, Tensor? pad, int num_heads, int window_height, "
      "int window_width, int shift_height, int shift_width, float scale, bool pad_first, bool save) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "window_attention_backward(Tensor dout, Tensor qkv, Tensor? bias_table, Tensor? pad, Tensor out, "
      "Tensor lse, int num_heads, int window_height, int window_width, int shift_height, "
      "int shift_width, float scale, bool pad_first, bool need_qkv, bool need_table, bool need_pad) "
      "-> (Tensor dqkv, Tensor dbias_table, Tensor dpad)");

  // value (B, S, heads, d); shapes: height and width of each level; locations (B, Q, heads, levels, points, 2)
  // and weights (B, Q, heads, levels, points) in float32 or value's dtype each -> out (B, Q, heads*d).
  m.def("deformable_attention(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "deformable_attention_backward(Tensor dout, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights, "
      "bool need_value, bool need_locations, bool need_weights) "
      "-> (Tensor dvalue, Tensor dlocations, Tensor dweights)");

  // Whole halves of a transformer block, for inference. y = x + gamma * f(layer_norm(x)).
  // f = projection(attention(qkv(.))), x (B, N, C):
  m.def(
      "attention_block(Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, Tensor qkv_weight, "
      "Tensor? qkv_packed, Tensor? qkv_bias, Tensor proj_weight, Tensor? proj_packed, Tensor? proj_bias, "
      "Tensor? gamma, int num_heads, float scale) -> Tensor");
  // The same with shifted windows on x (B, H, W, C); padded positions are zero before qkv.
  m.def(
      "window_attention_block(Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, "
      "Tensor qkv_weight, Tensor? qkv_packed, Tensor? qkv_bias, Tensor proj_weight, Tensor? proj_packed, "
      "Tensor? proj_bias, Tensor? gamma, Tensor? bias_table, int num_heads, int window_height, "
      "int window_width, int shift_height, int shift_width, float scale, bool pad_first) -> Tensor");
  // f = mlp, x (..., C):
  m.def(
      "mlp_block(Tensor x, Tensor? norm_weight, Tensor? norm_bias, float eps, Tensor weight1, "
      "Tensor? packed1, Tensor? bias1, Tensor weight2, Tensor? packed2, Tensor? bias2, int activation, "
      "Tensor? gamma) -> Tensor");
}
