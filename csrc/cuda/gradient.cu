// The pass before the products of a backward: dy through LayerScale and activation, with the sums
// that biases and LayerScale want.
#include "activation.cuh"
#include "entry.cuh"
#include "numeric.cuh"

namespace vitkern {

// dpre = dy gamma activation'(pre); sums of its columns, and of dy activation(pre), over the `each`
// rows of a program. dy (rows, width), its rows dy_row apart; pre and dpre contiguous; dbias and
// dgamma (programs, width) float32. Each pointer but dy may be null.
#define GRADIENT_FIELDS(FIELD)                                                               \
  FIELD(const void*, dy) FIELD(const void*, pre) FIELD(const void*, gamma)                   \
  FIELD(void*, dpre) FIELD(void*, dbias) FIELD(void*, dgamma) FIELD(int64_t, rows)           \
  FIELD(int64_t, width) FIELD(int64_t, dy_row) FIELD(int64_t, programs) FIELD(int64_t, each) \
  FIELD(int32_t, activation) FIELD(int32_t, format)
VITKERN_PARAMS(Gradient, GRADIENT_FIELDS)

constexpr int GRADIENT_THREADS = 128;

template <class T>
__global__ void __launch_bounds__(GRADIENT_THREADS) gradient_kernel(const Gradient p) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * GRADIENT_THREADS + threadIdx.x;
  if (column >= p.width) return;
  const auto activation = static_cast<Activation>(p.activation);
  const T* dy = static_cast<const T*>(p.dy) + column;
  const T* pre = static_cast<const T*>(p.pre);
  T* dpre = static_cast<T*>(p.dpre);
  const float gamma =
      p.gamma == nullptr ? 1.0f : to_float(static_cast<const T*>(p.gamma)[column]);
  for (int64_t program = blockIdx.y; program < p.programs; program += gridDim.y) {
    float sum = 0.0f, gamma_sum = 0.0f;
    const int64_t end = min(p.rows, (program + 1) * p.each);
#pragma unroll 4
    for (int64_t row = program * p.each; row < end; ++row) {
      float value = to_float(dy[row * p.dy_row]);
      const int64_t at = row * p.width + column;
      if (pre != nullptr) {
        const float before = to_float(pre[at]);
        gamma_sum += value * activate(before, activation);
        value *= slope(before, activation);
      }
      value *= gamma;
      sum += value;
      if (dpre != nullptr) dpre[at] = from_float<T>(value);
    }
    const int64_t to = program * p.width + column;
    if (p.dbias != nullptr) static_cast<float*>(p.dbias)[to] = sum;
    if (p.dgamma != nullptr) static_cast<float*>(p.dgamma)[to] = gamma_sum;
  }
}

void gradient(const Gradient& p, Stream stream) {
  with_format(p.format, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(ceil_div(p.width, GRADIENT_THREADS)),
                    static_cast<unsigned>(p.programs < 65535 ? p.programs : 65535));
    launch(gradient_kernel<T>, grid, GRADIENT_THREADS, 0, stream, p);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(gradient, Gradient)
