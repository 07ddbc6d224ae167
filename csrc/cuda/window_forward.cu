// Attention within shifted windows, forward: from the map of q, k and v to the map of results.
#include "attention_forward.cuh"
#include "window_space.cuh"

namespace vitkern {

void window_forward(const Window& p, Stream stream) {
  with_window(p, [&](auto head, const auto& space) {
    launch_forward<typename decltype(head)::type>(space, stream);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(window_forward, Window)
