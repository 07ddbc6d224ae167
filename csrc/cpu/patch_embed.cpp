// Operator patch_embed and its gradient.
#include "host.h"

namespace vitkern {
namespace {

PatchGrid grid_of(const Tensor& images, const Tensor& weight) {
  return {images.size(0), images.size(1), images.size(2), images.size(3), weight.size(2), weight.size(3)};
}
Weight weight_of(const Tensor& weight, const Maybe& packed, const PatchGrid& grid) {
  return {data(weight), data(packed), packed ? packed->numel() : 0, weight.size(0), grid.in()};
}

Tensor patch_embed(Tensor images, Tensor weight, Maybe packed, Maybe bias) {
  images = dense(images);
  weight = dense(weight);
  bias = dense(bias);
  const PatchGrid grid = grid_of(images, weight);
  Tensor y = empty(images, {grid.batch, grid.grid_height() * grid.grid_width(), weight.size(0)});
  kernels().patch_embed(runtime(), {type_of(images), grid, data(images), weight_of(weight, packed, grid), data(bias),
                                    data(y)});
  return y;
}

std::tuple<Tensor, Tensor, Tensor> patch_embed_backward(Tensor dy, Tensor images, Tensor weight, bool need_images,
                                                        bool need_weight, bool need_bias) {
  dy = dense(dy);
  images = dense(images);
  weight = dense(weight);
  Tensor dimages = empty_if(need_images, images, sizes_of(images)),
         dweight = empty_if(need_weight, images, sizes_of(weight)),
         dbias = empty_if(need_bias, images, {weight.size(0)});
  const PatchGrid grid = grid_of(images, weight);
  kernels().patch_embed_backward(runtime(), {type_of(images), grid, data(dy), data(images),
                                             weight_of(weight, {}, grid), data(dimages), data(dweight), data(dbias)});
  return {dimages, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CPU, m) {
  m.impl("patch_embed", TORCH_BOX(&patch_embed));
  m.impl("patch_embed_backward", TORCH_BOX(&patch_embed_backward));
}

}  // namespace vitkern
