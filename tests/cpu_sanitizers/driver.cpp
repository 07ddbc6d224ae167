// Runs kernels on random calls, for a sanitizer to watch: `driver CALLS [FIRST]`, so many of each kernel
// and instruction set, from a number on. It fails where an output is not written or not finite.
#include "calls.hpp"

#define VITKERN_DECLARE(isa)   \
  namespace vitkern::isa {     \
  extern const Kernels table;  \
  }
VITKERN_EACH_ISA(VITKERN_DECLARE)

namespace {

using namespace driver;

struct Kernel {
  const char* name;
  void (Call::*run)();
};
constexpr Kernel kKernels[] = {
    {"linear", &Call::linear}, {"mlp", &Call::mlp}, {"patch_embed", &Call::patch_embed},
    {"layer_norm", &Call::layer_norm}, {"attention", &Call::attention},
    {"window_attention", &Call::window_attention}, {"deformable_attention", &Call::deformable_attention},
    {"attention_block", &Call::attention_block}, {"window_block", &Call::window_block},
};

bool one(const Kernels& k, const Kernel& kernel, uint64_t number) {
  scratch_of_thread.clear();
  Random random(number);
  Tensors tensors(random);
  Call call{k, random, tensors};
  (call.*kernel.run)();
  if (tensors.finite()) return true;
  fprintf(stderr, "in %s of %s, call %lu\n", kernel.name, k.isa, (unsigned long)number);
  return false;
}

}  // namespace

int main(int count, char** values) {
  const long calls = count > 1 ? atol(values[1]) : 100, first = count > 2 ? atol(values[2]) : 1;
#define VITKERN_ADDRESS(isa) &vitkern::isa::table,
  const Kernels* const tables[] = {VITKERN_EACH_ISA(VITKERN_ADDRESS)};
  std::atomic<long> done{0}, failed{0};
  for (const Kernels* table : tables) {
    if (!table->runs_here()) continue;
    for (const Kernel& kernel : kKernels) {
      // Two callers at once, as in two threads of a program.
      const auto work = [&](long caller) {
        for (long i = first + caller; i < first + calls; i += 2) {
          if (!one(*table, kernel, (uint64_t)i)) failed++;
          done++;
        }
      };
      std::thread other(work, 1);
      work(0);
      other.join();
    }
    printf("%s\n", table->isa);
  }
  printf("%ld calls, %ld failed\n", done.load(), failed.load());
  return failed != 0;
}
