// c = epilogue(a b^T): the products of linear layers that have something to fuse.
#include "split_gemm.cuh"

namespace vitkern {

#ifdef VITKERN_SM90A
void gemm_sm90a(const Gemm& p, Stream stream);  // gemm_sm90a.cu
#endif

void gemm(const Gemm& p, Stream stream) {
  with_product(p, [&](auto type, auto operand) {
    using T = typename decltype(type)::type;
    using M = typename decltype(operand)::type;
    using Of = Tilings<T, M>;
    const MatrixRows<T> a{static_cast<const T*>(p.a), p.a_row, p.a_step};
    const MatrixRows<T> b{static_cast<const T*>(p.b), p.b_row, p.b_step};
    const Epilogue<T> epilogue(p);
    if (p.aligned == 0) {
      return launch_gemm<typename Of::Scattered>(a, b, epilogue, p.k, stream);
    }
    if (p.splits > 1) {
      return launch_split_gemm<typename Of::Small>(a, b, epilogue, static_cast<float*>(p.partial),
                                                   p.splits, p.k, stream);
    }
    if constexpr (sizeof(T) == 2) {
#ifdef VITKERN_SM90A
      if (p.warpgroups != 0 && fills<typename Of::Large>(p)) return gemm_sm90a(p, stream);
#endif
      if (fills<typename Of::Large>(p)) {
        return launch_gemm<typename Of::Large>(a, b, epilogue, p.k, stream);
      }
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

VITKERN_ENTRY(gemm, Gemm)
