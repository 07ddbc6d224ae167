// The products of gemm.cu on Hopper, in machine code of its own. Operands are of 16 bits and aligned.
#include "warpgroups.cuh"

namespace vitkern {

void gemm_sm90a(const Gemm& p, Stream stream) {
  with_product(p, [&](auto type, auto operand) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      const MatrixRows<T> a{static_cast<const T*>(p.a), p.a_row, p.a_step};
      const MatrixRows<T> b{static_cast<const T*>(p.b), p.b_row, p.b_step};
      launch_gemm<WarpgroupTiling<T>>(a, b, Epilogue<T>(p), p.k, stream);
    } else {
      throw Error("float32 in warp groups");
    }
  });
}

}  // namespace vitkern
