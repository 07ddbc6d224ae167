// Arguments of patch_embed. Images are contiguous (batch, channels, height, width).
#pragma once
#include "linear.h"

namespace vitkern {

struct PatchGrid {
  int64_t batch, channels, height, width, patch_height, patch_width;
  int64_t grid_height() const { return height / patch_height; }
  int64_t grid_width() const { return width / patch_width; }
  int64_t rows() const { return batch * grid_height() * grid_width(); }
  int64_t in() const { return channels * patch_height * patch_width; }
};

struct PatchEmbedArgs {
  Type type;
  PatchGrid grid;
  const void* images;
  Weight weight;  // (out, grid.in())
  const void* bias;
  void* y;  // (grid.rows(), out)
};

struct PatchEmbedBackwardArgs {
  Type type;
  PatchGrid grid;
  const void* dy;
  const void* images;
  Weight weight;
  void *dimages, *dweight, *dbias;
};

}  // namespace vitkern
