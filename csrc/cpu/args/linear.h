// Arguments of linear, mlp and their gradients. Matrices are row-major with unit column stride; all
// tensors of a call have the type `type`, except packed weights. Null = not given or not wanted.
#pragma once
#include "../runtime.h"

namespace vitkern {

// How a product takes its operands: in their own type, rounded to bfloat16, or as integers.
enum class Form : int { native = 0, bf16, int8 };

// What pack_weight and pack_int8 made of a weight begins with this: what the rest is.
struct alignas(64) PackedHeader {
  uint64_t magic;
  int32_t width, panel, type, form;
  int64_t out, in;
  float low, high;  // int8: the range of activations, in order, or the other way round for each row's own
};
inline constexpr uint64_t kPackedMagic = 0x324b50564b544956;  // bump when the layout changes

// weight (out, in), and what it was packed into (may be null, or of another instruction set). A weight
// in int8 has a packed form of the instruction set in use.
struct Weight {
  const void* data;
  const void* packed;
  int64_t packed_bytes;
  int64_t out, in;
  Form form;
};

// A layer norm of the rows of x on their way into the product.
struct Norm {
  bool on;
  Type type;  // of weight and bias
  const void* weight;
  const void* bias;
  float eps;
};

struct PackArgs {
  Type type;
  Form form;  // native or bf16
  const void* weight;
  int64_t out, in;
  void* packed;
};

struct PackInt8Args {
  const int8_t* values;  // (out, in)
  const float* scale;    // (out,)
  int64_t out, in;
  bool dynamic;
  float low, high;
  void* packed;
};

// y = residual + gamma * activation(x weight^T + bias)
struct LinearArgs {
  Type type;
  int64_t rows;
  const void* x;
  int64_t x_stride;
  Weight weight;
  const void* bias;
  Activation activation;
  const void* gamma;
  const void* residual;
  int64_t residual_stride;
  void* y;    // (rows, out)
  void* pre;  // (rows, out)
};

struct LinearBackwardArgs {
  Type type;
  int64_t rows;
  const void* dy;  // (rows, out), contiguous
  const void* x;
  int64_t x_stride;
  Weight weight;
  const void* pre;
  Activation activation;
  const void* gamma;
  void *dx, *dweight, *dbias, *dgamma;
};

// y = residual + gamma * (activation(x weight1^T + bias1) weight2^T + bias2), x normalised first where
// the norm is on.
struct MlpArgs {
  Type type;
  int64_t rows;
  const void* x;
  int64_t x_stride;
  Norm norm;
  Weight weight1;
  const void* bias1;
  Weight weight2;
  const void* bias2;
  Activation activation;
  const void* gamma;
  const void* residual;
  int64_t residual_stride;
  void* y;
  void* pre1;  // (rows, weight1.out)
  void* out2;  // (rows, weight2.out), what gamma multiplies
};

struct MlpBackwardArgs {
  Type type;
  int64_t rows;
  const void* dy;
  const void* x;
  int64_t x_stride;
  Weight weight1, weight2;
  const void* pre1;
  const void* out2;
  Activation activation;
  const void* gamma;
  void *dx, *dweight1, *dbias1, *dweight2, *dbias2, *dgamma;
};

}  // namespace vitkern
