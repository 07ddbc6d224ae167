// Scaled dot-product attention, backward.
#include "attention_backward.cuh"
#include "attention_space.cuh"

namespace vitkern {

void attention_delta(const Attention& p, Stream stream) {
  with_attention(p, [&](auto head, const auto& space) {
    launch_delta<typename decltype(head)::type>(space, stream);
  });
}

void attention_backward_queries(const Attention& p, Stream stream) {
  with_attention(p, [&](auto head, const auto& space) {
    launch_backward_queries<typename decltype(head)::type>(space, stream);
  });
}

void attention_backward_keys(const Attention& p, Stream stream) {
  with_attention(p, [&](auto head, const auto& space) {
    launch_backward_keys<typename decltype(head)::type>(space, stream);
  });
}

void attention_backward_bias(const Attention& p, Stream stream) {
  const BiasSums sums{p.heads, p.planes, p.plane_heads, p.heads_each, p.shared, p.each, p.splits};
  with_attention(p, [&](auto head, const auto& space) {
    launch_backward_bias<typename decltype(head)::type>(space, sums, stream);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(attention_delta, Attention)
VITKERN_ENTRY(attention_backward_queries, Attention)
VITKERN_ENTRY(attention_backward_keys, Attention)
VITKERN_ENTRY(attention_backward_bias, Attention)
