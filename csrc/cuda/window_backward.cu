// Attention within shifted windows, backward.
#include "window_groups.cuh"

namespace vitkern {

// What is not null of dqkv, dpad and dscores (splits, heads, positions, positions), the sums of the
// scores' gradients: all windows of all images share a head's table.
void window_backward(const Window& p, Stream stream) {
  with_window(p, [&](auto head, const auto& space) {
    using H = typename decltype(head)::type;
    using On = Groups<H>;
    if constexpr (On::BACKWARD_FITS) {
      if (space.queries <= OWN) {
        using Memory = Stages<H, On::BACKWARD_FIXED, On::BACKWARD_STAGE>;
        return launch(window_backward_kernel<H, std::decay_t<decltype(space)>>,
                      grid_of(p.heads * p.splits), OWN_THREADS, Memory::bytes(p.each), stream,
                      space);
      }
    }
    launch_delta<H>(space, stream);
    if (p.dqkv != nullptr) launch_backward_queries<H>(space, stream);
    if (p.dqkv != nullptr || p.dpad != nullptr) launch_backward_keys<H>(space, stream);
    if (p.dscores == nullptr) return;
    const int64_t windows = p.batch * p.down * p.across;
    const BiasSums sums{p.heads, p.heads, p.heads, 1, windows, p.each, p.splits};
    launch_backward_bias<H>(space, sums, stream);
  });
}

constexpr int TABLE_WARPS = 4;

// dtable from dscores (heads, positions, positions): a warp sums over the pairs of positions that
// are a row's distance apart.
template <class T>
__global__ void __launch_bounds__(TABLE_WARPS* WARP)
    window_table_kernel(const Window p, const Divider by_width) {
  const int height = static_cast<int>(p.window_h), width = static_cast<int>(p.window_w);
  const int span = 2 * width - 1, rows = (2 * height - 1) * span, positions = height * width;
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * TABLE_WARPS + threadIdx.x / WARP;
  if (entry >= rows * p.heads) return;
  const int row = static_cast<int>(entry % rows);
  const int64_t head = entry / rows;
  const int down = row / span - (height - 1), right = row % span - (width - 1);
  const float* from = static_cast<const float*>(p.dscores) + head * positions * positions;
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x) % WARP; i < positions; i += WARP) {
    const int y = by_width(i) - down, x = i - by_width(i) * width - right;
    if (y < 0 || y >= height || x < 0 || x >= width) continue;
    sum += from[static_cast<int64_t>(i) * positions + y * width + x];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % WARP == 0) static_cast<T*>(p.dtable)[row * p.heads + head] = from_float<T>(sum);
}

void window_table_gradient(const Window& p, Stream stream) {
  with_format(p.format, [&](auto type) {
    using T = typename decltype(type)::type;
    const int64_t rows = (2 * p.window_h - 1) * (2 * p.window_w - 1);
    const dim3 grid(static_cast<unsigned>(ceil_div(rows * p.heads, TABLE_WARPS)));
    launch(window_table_kernel<T>, grid, TABLE_WARPS * WARP, 0, stream, p, Divider(p.window_w));
  });
}

}  // namespace vitkern

VITKERN_ENTRY(window_backward, Window)
VITKERN_ENTRY(window_table_gradient, Window)
