// Attention within shifted windows, forward: from the map of q, k and v to the map of results.
#include "window_groups.cuh"

namespace vitkern {

void window_forward(const Window& p, Stream stream) {
  with_window(p, [&](auto head, const auto& space) {
    using H = typename decltype(head)::type;
    using On = Groups<H>;
    if constexpr (On::FORWARD_FITS) {
      if (space.queries <= OWN) {
        using Memory = Stages<H, On::Bias::BYTES, On::FORWARD_STAGE>;
        return launch(window_forward_kernel<H, std::decay_t<decltype(space)>>,
                      grid_of(p.heads * p.splits), OWN_THREADS, Memory::bytes(p.each), stream,
                      space);
      }
    }
    launch_forward<H>(space, stream);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(window_forward, Window)
