// Sums of the columns of what blocks left behind, in a fixed order: the second of two stages.
#include "entry.cuh"
#include "numeric.cuh"

namespace vitkern {

// partial (rows, width) float32 and total (width), both contiguous.
#define COLUMN_SUMS_FIELDS(FIELD)                                                     \
  FIELD(const void*, partial) FIELD(void*, total) FIELD(int64_t, rows) FIELD(int64_t, width) \
  FIELD(int32_t, format)
VITKERN_PARAMS(ColumnSums, COLUMN_SUMS_FIELDS)

constexpr int SUM_COLUMNS = 32, SUM_STRIPES = 8;

template <class T>
__global__ void __launch_bounds__(SUM_COLUMNS* SUM_STRIPES) column_sums_kernel(const ColumnSums p) {
  VITKERN_SHARED(float, sums, SUM_STRIPES * SUM_COLUMNS);
  const int column = threadIdx.x % SUM_COLUMNS, stripe = threadIdx.x / SUM_COLUMNS;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * SUM_COLUMNS + column;
  float sum = 0.0f;
  if (at < p.width) {
    const float* from = static_cast<const float*>(p.partial) + at;
    for (int64_t row = stripe; row < p.rows; row += SUM_STRIPES) sum += from[row * p.width];
  }
  sums[stripe * SUM_COLUMNS + column] = sum;
  __syncthreads();
  if (stripe != 0 || at >= p.width) return;
  for (int other = 1; other < SUM_STRIPES; ++other) sum += sums[other * SUM_COLUMNS + column];
  static_cast<T*>(p.total)[at] = from_float<T>(sum);
}

void column_sums(const ColumnSums& p, Stream stream) {
  with_format(p.format, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(ceil_div(p.width, SUM_COLUMNS)));
    launch(column_sums_kernel<T>, grid, SUM_COLUMNS * SUM_STRIPES, 0, stream, p);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(column_sums, ColumnSums)
