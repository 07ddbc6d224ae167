// Layer normalisation of rows that a group of threads has in registers: a warp, or for wide rows a
// block. Statistics are of two passes over the registers, in float32.
#include "entry.cuh"
#include "numeric.cuh"

namespace vitkern {

// Elements of a row in one thread's registers.
constexpr int EACH = 32;
constexpr int WARP_THREADS = 128, BLOCK_THREADS = 256;

// x and residual (rows, width), their rows apart by *_row elements, columns contiguous; weight and
// bias (width) contiguous, float32 where *_wide; y and total (rows, width), stats (rows, 2): mean
// and 1 / deviation. `vector`: all rows and parameters can be loaded 16 bytes at a time.
#define LAYER_NORM_FORWARD_FIELDS(FIELD)                                                      \
  FIELD(const void*, x) FIELD(const void*, residual) FIELD(const void*, weight)               \
  FIELD(const void*, bias) FIELD(void*, y) FIELD(void*, total) FIELD(void*, stats)            \
  FIELD(int64_t, rows) FIELD(int64_t, width) FIELD(int64_t, x_row) FIELD(int64_t, residual_row) \
  FIELD(float, eps) FIELD(int32_t, format) FIELD(int32_t, weight_wide)                        \
  FIELD(int32_t, bias_wide) FIELD(int32_t, vector)
VITKERN_PARAMS(LayerNormForward, LAYER_NORM_FORWARD_FIELDS)

// As above; x is what was normalised. dx (rows, width) or null; dweight and dbias (programs, width)
// float32 or null: sums over the `each` rows of a program.
#define LAYER_NORM_BACKWARD_FIELDS(FIELD)                                                    \
  FIELD(const void*, dy) FIELD(const void*, dsum) FIELD(const void*, x)                      \
  FIELD(const void*, weight) FIELD(const void*, stats) FIELD(void*, dx) FIELD(void*, dweight) \
  FIELD(void*, dbias) FIELD(int64_t, rows) FIELD(int64_t, width) FIELD(int64_t, dy_row)      \
  FIELD(int64_t, dsum_row) FIELD(int64_t, x_row) FIELD(int64_t, programs)                    \
  FIELD(int64_t, each) FIELD(int32_t, format) FIELD(int32_t, weight_wide)                    \
  FIELD(int32_t, vector)
VITKERN_PARAMS(LayerNormBackward, LAYER_NORM_BACKWARD_FIELDS)

// The threads that share a row: GROUP is WARP or BLOCK_THREADS.
template <int GROUP>
struct Row {
  static constexpr int THREADS = GROUP == WARP ? WARP_THREADS : BLOCK_THREADS;
  static constexpr int IN_BLOCK = THREADS / GROUP;

  __device__ static int rank() { return static_cast<int>(threadIdx.x) % GROUP; }
  __device__ static int64_t number() {
    return static_cast<int64_t>(blockIdx.x) * IN_BLOCK + threadIdx.x / GROUP;
  }
  __device__ static float sum(float value, Shared<float> scratch) {
    if constexpr (GROUP == WARP) {
      return warp_sum(value);
    } else {
      return block_sum<THREADS>(value, scratch);
    }
  }
};

template <class T, int N>
__device__ __forceinline__ void load_parameters(float (&values)[N], const void* from, int at,
                                                bool wide) {
  if (wide) {
    load(values, static_cast<const float*>(from) + at);
  } else {
    load(values, static_cast<const T*>(from) + at);
  }
}

template <class T, int N, int GROUP>
__global__ void __launch_bounds__(Row<GROUP>::THREADS, 1)
    layer_norm_forward_kernel(const LayerNormForward p) {
  using On = Row<GROUP>;
  constexpr int CHUNKS = EACH / N;
  VITKERN_SHARED(float, scratch, BLOCK_THREADS / WARP);
  const int64_t row = On::number();
  if (row >= p.rows) return;  // a whole group, and the whole block where groups are blocks
  const T* x = static_cast<const T*>(p.x) + row * p.x_row;
  const T* residual = static_cast<const T*>(p.residual) + row * p.residual_row;
  T* y = static_cast<T*>(p.y) + row * p.width;
  const int width = static_cast<int>(p.width), first = On::rank() * N;

  float values[CHUNKS][N], sum = 0.0f;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int at = first + c * GROUP * N;
    if (at >= width) continue;
    load(values[c], x + at);
    if (p.residual != nullptr) {
      float other[N];
      load(other, residual + at);
#pragma unroll
      for (int i = 0; i < N; ++i) values[c][i] = rounded<T>(values[c][i] + other[i]);
      store(static_cast<T*>(p.total) + row * p.width + at, values[c]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum += values[c][i];
  }
  const float mean = On::sum(sum, scratch) / static_cast<float>(width);
  float squares = 0.0f;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    if (first + c * GROUP * N >= width) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[c][i] -= mean;
      squares += values[c][i] * values[c][i];
    }
  }
  const float variance = On::sum(squares, scratch) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(variance + p.eps);
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int at = first + c * GROUP * N;
    if (at >= width) continue;
    float parameters[N];
#pragma unroll
    for (int i = 0; i < N; ++i) values[c][i] *= scale;
    if (p.weight != nullptr) {
      load_parameters<T>(parameters, p.weight, at, p.weight_wide != 0);
#pragma unroll
      for (int i = 0; i < N; ++i) values[c][i] *= parameters[i];
    }
    if (p.bias != nullptr) {
      load_parameters<T>(parameters, p.bias, at, p.bias_wide != 0);
#pragma unroll
      for (int i = 0; i < N; ++i) values[c][i] += parameters[i];
    }
    store(y + at, values[c]);
  }
  if (p.stats != nullptr && On::rank() == 0) {
    static_cast<float*>(p.stats)[2 * row] = mean;
    static_cast<float*>(p.stats)[2 * row + 1] = scale;
  }
}

// A program takes the rows from `each` times its number on, and leaves its sums for the parameters.
template <class T, int N, int GROUP>
__global__ void __launch_bounds__(Row<GROUP>::THREADS, 1)
    layer_norm_backward_kernel(const LayerNormBackward p) {
  using On = Row<GROUP>;
  constexpr int CHUNKS = EACH / N;
  VITKERN_SHARED(float, scratch, BLOCK_THREADS / WARP);
  const int64_t program = On::number();
  if (program >= p.programs) return;
  const int width = static_cast<int>(p.width), first = On::rank() * N;
  const float* stats = static_cast<const float*>(p.stats);

  float dweight[CHUNKS][N] = {}, dbias[CHUNKS][N] = {};
  const int64_t end = min(p.rows, (program + 1) * p.each);
  for (int64_t row = program * p.each; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.x_row;
    const T* dy = static_cast<const T*>(p.dy) + row * p.dy_row;
    const float mean = stats[2 * row], scale = stats[2 * row + 1];
    float normal[CHUNKS][N], grad[CHUNKS][N], sum = 0.0f, product = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      const int at = first + c * GROUP * N;
      if (at >= width) continue;
      load(normal[c], x + at);
      load(grad[c], dy + at);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        normal[c][i] = (normal[c][i] - mean) * scale;
        dweight[c][i] += grad[c][i] * normal[c][i];
        dbias[c][i] += grad[c][i];
      }
      if (p.weight != nullptr) {
        float weight[N];
        load_parameters<T>(weight, p.weight, at, p.weight_wide != 0);
#pragma unroll
        for (int i = 0; i < N; ++i) grad[c][i] *= weight[i];
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        sum += grad[c][i];
        product += grad[c][i] * normal[c][i];
      }
    }
    if (p.dx == nullptr) continue;
    sum = On::sum(sum, scratch) / static_cast<float>(width);
    product = On::sum(product, scratch) / static_cast<float>(width);
    T* dx = static_cast<T*>(p.dx) + row * p.width;
    const T* dsum = static_cast<const T*>(p.dsum) + row * p.dsum_row;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      const int at = first + c * GROUP * N;
      if (at >= width) continue;
      float other[N] = {};
      if (p.dsum != nullptr) load(other, dsum + at);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        other[i] += scale * (grad[c][i] - sum - normal[c][i] * product);
      }
      store(dx + at, other);
    }
  }
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int at = first + c * GROUP * N;
    if (at >= width) continue;
    const int64_t to = program * p.width + at;
    if (p.dweight != nullptr) store(static_cast<float*>(p.dweight) + to, dweight[c]);
    if (p.dbias != nullptr) store(static_cast<float*>(p.dbias) + to, dbias[c]);
  }
}

// function(T, elements of a load, threads of a row) as types, for a width and a format.
template <class Function>
void with_row(int32_t format, int64_t width, bool vector, Function function) {
  if (width > EACH * BLOCK_THREADS) throw Error("a row of " + std::to_string(width) + " elements");
  with_format(format, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto grouped = [&](auto loads) {
      if (width <= EACH * WARP) {
        function(type, loads, std::integral_constant<int, WARP>());
      } else {
        function(type, loads, std::integral_constant<int, BLOCK_THREADS>());
      }
    };
    if (vector) {
      grouped(std::integral_constant<int, FULL_PACK<T>>());
    } else {
      grouped(std::integral_constant<int, 1>());
    }
  });
}

void layer_norm_forward(const LayerNormForward& p, Stream stream) {
  with_row(p.format, p.width, p.vector != 0, [&](auto type, auto loads, auto group) {
    using T = typename decltype(type)::type;
    constexpr int GROUP = decltype(group)::value;
    const dim3 grid(static_cast<unsigned>(ceil_div(p.rows, Row<GROUP>::IN_BLOCK)));
    launch(layer_norm_forward_kernel<T, decltype(loads)::value, GROUP>, grid, Row<GROUP>::THREADS,
           0, stream, p);
  });
}

void layer_norm_backward(const LayerNormBackward& p, Stream stream) {
  with_row(p.format, p.width, p.vector != 0, [&](auto type, auto loads, auto group) {
    using T = typename decltype(type)::type;
    constexpr int GROUP = decltype(group)::value;
    const dim3 grid(static_cast<unsigned>(ceil_div(p.programs, Row<GROUP>::IN_BLOCK)));
    launch(layer_norm_backward_kernel<T, decltype(loads)::value, GROUP>, grid, Row<GROUP>::THREADS,
           0, stream, p);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(layer_norm_forward, LayerNormForward)
VITKERN_ENTRY(layer_norm_backward, LayerNormBackward)
