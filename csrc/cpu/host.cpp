// The runtime over PyTorch's thread pool, scratch memory, and the choice of instruction set.
#include "host.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>

namespace vitkern {

#define VITKERN_DECLARE(isa) \
  namespace isa {            \
  extern const Kernels table; \
  }
#ifdef VITKERN_ISA_GENERIC
VITKERN_DECLARE(generic)
#endif
#ifdef VITKERN_ISA_AVX2
VITKERN_DECLARE(avx2)
#endif
#ifdef VITKERN_ISA_AVX512
VITKERN_DECLARE(avx512)
#endif
#ifdef VITKERN_ISA_AVX512_BF16
VITKERN_DECLARE(avx512_bf16)
#endif
#ifdef VITKERN_ISA_AMX
VITKERN_DECLARE(amx)
#endif
#ifdef VITKERN_ISA_AVX512_EMULATED
VITKERN_DECLARE(avx512_emulated)
#endif

namespace {

// In order of preference, best last. Emulations are never chosen by themselves, so they come first.
const Kernels* const kTables[] = {
#ifdef VITKERN_ISA_AVX512_EMULATED
    &avx512_emulated::table,
#endif
#ifdef VITKERN_ISA_GENERIC
    &generic::table,
#endif
#ifdef VITKERN_ISA_AVX2
    &avx2::table,
#endif
#ifdef VITKERN_ISA_AVX512
    &avx512::table,
#endif
#ifdef VITKERN_ISA_AVX512_BF16
    &avx512_bf16::table,
#endif
#ifdef VITKERN_ISA_AMX
    &amx::table,
#endif
};

const Kernels* best() {
  const Kernels* chosen = nullptr;
  for (const Kernels* table : kTables)
    if (table->runs_here()) chosen = table;
  STD_TORCH_CHECK(chosen, "vitkern: no instruction set that was compiled in runs on this processor");
  return chosen;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> table{best()};
  return table;
}

// Scratch memory of one thread; grows, and is freed with the thread.
struct Scratch {
  void* memory[kSlots] = {};
  size_t bytes[kSlots] = {};
  ~Scratch() {
    for (void* p : memory) std::free(p);
  }
};

void* scratch(Slot slot, size_t wanted) {
  thread_local Scratch s;
  if (s.bytes[slot] < wanted) {
    std::free(s.memory[slot]);
    s.bytes[slot] = 0;
    const size_t alignment = wanted < kHugePage ? 4096 : kHugePage;
    const size_t size = (wanted + alignment - 1) / alignment * alignment;
    s.memory[slot] = std::aligned_alloc(alignment, size);
    STD_TORCH_CHECK(s.memory[slot], "vitkern: out of memory (", size, " bytes of scratch)");
    ask_for_huge_pages(s.memory[slot], size);
    s.bytes[slot] = size;
  }
  return s.memory[slot];
}

// Threads take the next task when they are done with one, so a slow core delays nobody by more than
// one task.
void parallel(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  const int64_t threads = std::min<int64_t>(tasks, torch::stable::get_num_threads());
  if (threads <= 1) {
    for (int64_t i = 0; i < tasks; i++) body(context, i);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(context, i);
  });
}

std::string isas() {
  std::string names;
  for (const Kernels* table : kTables)
    if (table->runs_here()) {
      if (!names.empty()) names += ',';
      names += table->isa;
    }
  return names;
}

std::string isa() { return kernels().isa; }

void set_isa(std::string name) {
  for (const Kernels* table : kTables)
    if (name == table->isa && table->runs_here()) {
      current().store(table);
      return;
    }
  STD_TORCH_CHECK(false, "vitkern: no instruction set '", name, "' runs here; there are ", isas());
}

bool sums_pairs() { return kernels().sums_pairs; }

double peak_gflops(double seconds, bool all_threads, int64_t form) {
  using Clock = std::chrono::steady_clock;
  const int64_t threads = all_threads ? torch::stable::get_num_threads() : 1;
  const Kernels& k = kernels();
  std::atomic<int64_t> flops{0};
  const auto start = Clock::now();
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    while (std::chrono::duration<double>(Clock::now() - start).count() < seconds)
      flops += (int64_t)k.peak_flops((Form)form, 20000);
  });
  return (double)flops / std::chrono::duration<double>(Clock::now() - start).count() / 1e9;
}

}  // namespace

Weight weight_of(const Tensor& weight, const Maybe& packed) {
  Weight w{data(weight), data(packed), packed ? packed->numel() : 0, weight.size(0), weight.size(1), Form::native};
  if (!packed || w.packed_bytes < (int64_t)sizeof(PackedHeader)) return w;
  const PackedHeader& header = *(const PackedHeader*)w.packed;
  if (header.magic != kPackedMagic) return w;
  w.form = (Form)header.form;
  // Other forms are packed anew where the buffer does not fit; this one needs what only the buffer has.
  const Kernels& k = kernels();
  STD_TORCH_CHECK(w.form != Form::int8 ||
                      (header.out == w.out && header.in == w.in && header.width == k.width && header.panel == k.panel &&
                       w.packed_bytes == k.packed_bytes(Type::f32, Form::int8, w.out, w.in)),
                  "vitkern: an int8 weight that was packed for another weight or instruction set");
  return w;
}

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

Runtime runtime() { return {(int)torch::stable::get_num_threads(), parallel, scratch}; }

RowsView rows_view(const Tensor& x) {
  const int64_t columns = x.size(x.dim() - 1);
  int64_t rows = 1;
  for (int64_t d = 0; d < x.dim() - 1; d++) rows *= x.size(d);
  // Rows are evenly spaced if every dimension's stride follows from the one inside it.
  bool even = x.stride(x.dim() - 1) == 1 || columns <= 1;
  int64_t stride = columns, expected = -1;
  for (int64_t d = x.dim() - 2; d >= 0 && even; d--) {
    if (x.size(d) == 1) continue;
    if (expected < 0) stride = x.stride(d);
    else even = x.stride(d) == expected;
    expected = x.stride(d) * x.size(d);
  }
  if (even && stride >= columns) return {x, rows, columns, stride};
  return {dense(x), rows, columns, columns};
}

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CompositeExplicitAutograd, m) {
  m.impl("isas", TORCH_BOX(&isas));
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("set_isa", TORCH_BOX(&set_isa));
  m.impl("sums_pairs", TORCH_BOX(&sums_pairs));
  m.impl("peak_gflops", TORCH_BOX(&peak_gflops));
}

}  // namespace vitkern
