// c = epilogue(a b^T): the products of linear layers that have something to fuse.
#include "entry.cuh"
#include "gemm.cuh"

namespace vitkern {

// a (m, k), rows a_row and columns a_step elements apart.
#define GEMM_OWN_FIELDS(FIELD) \
  FIELD(const void*, a) FIELD(int64_t, a_row) FIELD(int64_t, a_step) GEMM_FIELDS(FIELD)
VITKERN_PARAMS(Gemm, GEMM_OWN_FIELDS)

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
    if constexpr (sizeof(T) == 2) {
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
