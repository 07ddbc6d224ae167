// The pool keeps no more than what live outputs took at once lately, so it does not grow with the number
// of calls, and shrinks when smaller batches or models follow; and never more than kMost, since a training
// step has all of its activations at once.
#include "pool.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <list>
#include <mutex>
#ifdef __unix__
#include <pthread.h>
#include <sys/mman.h>
#endif

// Of torch 2.11 and later; the library itself is built for 2.10.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* ret, int32_t layout, const uint8_t* opaque_metadata,
    int64_t opaque_metadata_size, void (*deleter)(void* data, void* ctx), void* deleter_ctx);

namespace vitkern {
namespace {

constexpr size_t kSmallest = 256 << 10;  // below this malloc keeps memory at hand by itself
constexpr size_t kMost = 256 << 20;      // some outputs of a large batch
constexpr size_t kGrain = 64 << 10;
constexpr int kWindow = 512;  // outputs over which "lately" goes

class Pool {
 public:
  void* take(size_t bytes) {
    {
      std::lock_guard lock(mutex_);
      live_ += bytes;
      high_ = std::max(high_, live_);
      if (++taken_ % kWindow == 0) {
        before_ = high_;
        high_ = live_;
        trim();
      }
      for (auto block = free_.begin(); block != free_.end(); ++block)
        if (block->bytes == bytes) {
          void* memory = block->memory;
          kept_ -= bytes;
          free_.erase(block);
          return memory;
        }
      trim();
    }
    const size_t alignment = bytes < kHugePage ? 4096 : kHugePage;
    void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (memory) ask_for_huge_pages(memory, bytes);
    else forget(bytes);
    return memory;
  }

  void give(void* memory, size_t bytes) {
    std::lock_guard lock(mutex_);
    live_ -= bytes;
    free_.push_front({memory, bytes});  // the most recent first: it may be in the caches
    kept_ += bytes;
    trim();
  }

  void release() {
    std::lock_guard lock(mutex_);
    for (const Block& block : free_) std::free(block.memory);
    free_.clear();
    kept_ = 0;
    before_ = high_ = live_;
  }

  int64_t kept() {
    std::lock_guard lock(mutex_);
    return (int64_t)kept_;
  }

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Block {
    void* memory;
    size_t bytes;
  };

  void forget(size_t bytes) {
    std::lock_guard lock(mutex_);
    live_ -= bytes;
  }

  void trim() {
    while (!free_.empty() && (kept_ > kMost || live_ + kept_ > std::max(before_, high_))) {
      std::free(free_.back().memory);
      kept_ -= free_.back().bytes;
      free_.pop_back();
    }
  }

  std::mutex mutex_;
  std::list<Block> free_;
  size_t live_ = 0, kept_ = 0;        // bytes with tensors, and in free_
  size_t high_ = 0, before_ = 0;      // the most that tensors had in this window, and in the last
  uint64_t taken_ = 0;
};

// Never destroyed: tensors may die after static objects.
Pool& pool() {
  static Pool* instance = [] {
    static Pool* made = new Pool;
#ifdef __unix__
    // A child of fork has one thread, and must not wait for another one's lock.
    pthread_atfork([] { made->lock(); }, [] { made->unlock(); }, [] { made->unlock(); });
#endif
    return made;
  }();
  return *instance;
}

}  // namespace

void ask_for_huge_pages(void* memory, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t begin = ((uintptr_t)memory + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = ((uintptr_t)memory + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

std::optional<torch::stable::Tensor> pooled(const std::vector<int64_t>& sizes, size_t bytes,
                                            torch::headeronly::ScalarType dtype) {
  using torch::headeronly::ScalarType;
  static std::atomic<bool> works{torch_from_blob != nullptr};
  if (bytes < kSmallest || !works.load(std::memory_order_relaxed)) return {};
  if (dtype != ScalarType::Float && dtype != ScalarType::BFloat16) return {};
  const size_t size = (bytes + kGrain - 1) / kGrain * kGrain;
  void* memory = pool().take(size);
  if (!memory) return {};  // torch's allocator says what there is to say
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
  AtenTensorHandle handle = nullptr;
  const AOTITorchError error = torch_from_blob(
      memory, (int64_t)sizes.size(), sizes.data(), strides.data(), 0,
      dtype == ScalarType::Float ? aoti_torch_dtype_float32() : aoti_torch_dtype_bfloat16(),
      aoti_torch_device_type_cpu(), -1, &handle, aoti_torch_layout_strided(), nullptr, 0,
      [](void* data, void* bytes) { pool().give(data, (size_t)bytes); }, (void*)size);
  if (error != AOTI_TORCH_SUCCESS) {
    works = false;  // a refusal costs milliseconds
    pool().give(memory, size);
    return {};
  }
  return torch::stable::Tensor(handle);
}

int64_t pooled_bytes() { return pool().kept(); }
void release_pool() { pool().release(); }

STABLE_TORCH_LIBRARY_IMPL(vitkern_cpu, CompositeExplicitAutograd, m) {
  m.impl("pooled_bytes", TORCH_BOX(&pooled_bytes));
  m.impl("release_pool", TORCH_BOX(&release_pool));
}

}  // namespace vitkern
