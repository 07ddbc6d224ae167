// Operator deformable_attention and its gradient.
#include "host.h"

namespace vitkern {
namespace {

// The levels of `shapes` (height, width, height, width ...), whose maps make up `pixels`.
std::vector<DeformableLevel> levels_of(const std::vector<int64_t>& shapes, int64_t pixels) {
  std::vector<DeformableLevel> levels;
  int64_t first = 0;
  for (size_t i = 0; i + 1 < shapes.size(); i += 2) {
    levels.push_back({shapes[i], shapes[i + 1], first});
    first += shapes[i] * shapes[i + 1];
  }
  STD_TORCH_CHECK(first == pixels && pixels <= INT32_MAX, "vitkern: shapes of ", first, " pixels for ", pixels);
  return levels;
}

// The tensors are contiguous and outlive the struct, as do the levels.
DeformableAttentionArgs args_of(const Tensor& value, const std::vector<DeformableLevel>& levels,
                                const Tensor& locations, const Tensor& weights) {
  STD_TORCH_CHECK(locations.dim() == 6 && locations.size(3) == (int64_t)levels.size() &&
                      weights.numel() * 2 == locations.numel(),
                  "vitkern: locations or weights that do not fit the levels");
  return {type_of(value),    type_of(locations), type_of(weights),  value.size(0),     value.size(1),
          locations.size(1), value.size(2),      value.size(3),     locations.size(3), locations.size(4),
          levels.data(),     data(value),        data(locations),   data(weights),     nullptr};
}

Tensor deformable_attention(Tensor value, std::vector<int64_t> shapes, Tensor locations, Tensor weights) {
  value = dense(value);
  locations = dense(locations);
  weights = dense(weights);
  const auto levels = levels_of(shapes, value.size(1));
  DeformableAttentionArgs args = args_of(value, levels, locations, weights);
  Tensor out = empty(value, {args.batch, args.queries, args.heads * args.head_dim});
  args.out = data(out);
  kernels().deformable_attention(runtime(), args);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> deformable_attention_backward(Tensor dout, Tensor value,
                                                                 std::vector<int64_t> shapes, Tensor locations,
                                                                 Tensor weights, bool need_value, bool need_locations,
                                                                 bool need_weights) {
  dout = dense(dout);
  value = dense(value);
  locations = dense(locations);
  weights = dense(weights);
  const auto levels = levels_of(shapes, value.size(1));
  Tensor dvalue = empty_if(need_value, value, sizes_of(value)),
         dlocations = empty_if(need_locations, locations, sizes_of(locations)),
         dweights = empty_if(need_weights, weights, sizes_of(weights));
  kernels().deformable_attention_backward(runtime(), {args_of(value, levels, locations, weights), data(dout),
                                                      data(dvalue), data(dlocations), data(dweights)});
  return {dvalue, dlocations, dweights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) {
  m.impl("deformable_attention", TORCH_BOX(&deformable_attention));
  m.impl("deformable_attention_backward", TORCH_BOX(&deformable_attention_backward));
}

}  // namespace vitkern
