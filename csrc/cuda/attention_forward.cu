// Scaled dot-product attention, forward.
#include "attention_forward.cuh"
#include "attention_space.cuh"

namespace vitkern {

void attention_forward(const Attention& p, Stream stream) {
  with_attention(p, [&](auto head, const auto& space) {
    launch_forward<typename decltype(head)::type>(space, stream);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(attention_forward, Attention)
