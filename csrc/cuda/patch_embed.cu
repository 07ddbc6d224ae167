// Patch embedding: a product whose rows are the patches of images, read where they are.
#include "entry.cuh"
#include "gemm.cuh"

namespace vitkern {

// images (B, C, H, W) of any strides in elements; m patches, k pixels of a patch in the order
// (channel, row, column).
#define PATCH_EMBED_FIELDS(FIELD)                                                            \
  FIELD(const void*, images) FIELD(int64_t, of_image) FIELD(int64_t, of_channel)             \
  FIELD(int64_t, of_row) FIELD(int64_t, of_column) FIELD(int32_t, grid_h)                    \
  FIELD(int32_t, grid_w) FIELD(int32_t, patch_h) FIELD(int32_t, patch_w) GEMM_FIELDS(FIELD)
VITKERN_PARAMS(PatchEmbed, PATCH_EMBED_FIELDS)

template <class T>
struct Patches {
  const T* data;
  int64_t of_image, of_channel, of_row, of_column;
  int grid_h, grid_w, patch_h, patch_w;

  explicit Patches(const PatchEmbed& p)
      : data(static_cast<const T*>(p.images)),
        of_image(p.of_image),
        of_channel(p.of_channel),
        of_row(p.of_row),
        of_column(p.of_column),
        grid_h(p.grid_h),
        grid_w(p.grid_w),
        patch_h(p.patch_h),
        patch_w(p.patch_w) {}

  __device__ __forceinline__ int64_t row_offset(int64_t patch) const {
    const int64_t line = patch / grid_w, image = line / grid_h;
    return image * of_image + (line - image * grid_h) * patch_h * of_row +
           (patch - line * grid_w) * patch_w * of_column;
  }
  __device__ __forceinline__ int64_t step_offset(int64_t k) const {
    const int pixel = static_cast<int>(k), line = pixel / patch_w, channel = line / patch_h;
    return channel * of_channel + (line - channel * patch_h) * of_row +
           (pixel - line * patch_w) * of_column;
  }
};

void patch_embed(const PatchEmbed& p, Stream stream) {
  with_product(p, [&](auto type, auto operand) {
    using T = typename decltype(type)::type;
    using M = typename decltype(operand)::type;
    using Of = Tilings<T, M>;
    const Patches<T> a(p);
    const MatrixRows<T> b{static_cast<const T*>(p.b), p.b_row, p.b_step};
    const Epilogue<T> epilogue(p);
    if (p.aligned == 0) {
      return launch_gemm<typename Of::Scattered>(a, b, epilogue, p.k, stream);
    }
    if constexpr (!std::is_void_v<M>) {
      if (fills<typename Of::Medium>(p)) {
        return launch_gemm<typename Of::Medium>(a, b, epilogue, p.k, stream);
      }
    }
    launch_gemm<typename Of::Small>(a, b, epilogue, p.k, stream);
  });
}

}  // namespace vitkern

VITKERN_ENTRY(patch_embed, PatchEmbed)
