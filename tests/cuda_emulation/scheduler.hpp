// Runs the threads of a block as fibers, in an order that tests choose.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EMULATION_ASAN 1
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "cuda_types.hpp"

namespace emulation {

// A mistake in a kernel, or a launch that a GPU would refuse.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order { forward, reverse, shuffled, greedy, greedy_reverse };

struct Options {
  Order order = Order::forward;
  bool eager_copies = false;  // cp.async copies when it is issued, not when it is waited for
  unsigned seed = 1;
  bool count_banks = false;
};
inline Options options;

constexpr int LANES = 32;
constexpr int MOST_THREADS = 1024;
constexpr std::size_t MOST_SHARED = 99 * 1024;  // of the smallest card that there is code for
#ifdef EMULATION_ASAN
constexpr std::size_t STACK = 256 * 1024;  // the sanitizer's red zones
#else
constexpr std::size_t STACK = 64 * 1024;
#endif

enum class State : uint8_t { ready, at_barrier, in_collective, done };

struct Copy {
  uint32_t to;
  const void* from;  // null: zeros
};

// A product of a warp's part of a wgmma, under way: operands are read when it is waited for, or at
// once.
struct Product {
  float* c[LANES];
  uint64_t a, b;
  int columns, kind;
};

struct Thread {
  uint3 index{};
  int lane = 0, warp = 0;
  State state = State::done;
  const char* doing = "";
  std::vector<Copy> open;                 // copies that are in no group yet
  std::vector<std::vector<Copy>> groups;  // oldest first
  uint64_t published = 0;                 // when it last published what it wrote
  bool sums_ready = false;                // wgmma.fence since it last waited for products
  char* stack = nullptr;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  void* fake_stack = nullptr;
};

struct Warp {
  void* operands[LANES] = {};  // of the collective that lanes wait in
  const char* name = nullptr;
  int arrived = 0;
  uint32_t epoch = 1;  // counts __syncwarp
  std::vector<Product> open;                 // products that are in no group yet
  std::vector<std::vector<Product>> groups;  // oldest first
  std::vector<uint64_t> issued;              // descriptors of all of them
};

// Everything about the block that runs now; launches take turns.
struct Block {
  dim3 grid, size;
  uint3 index{};
  int threads = 0;
  std::vector<Thread> thread;
  std::vector<Warp> warp;
  const std::function<void()>* kernel = nullptr;
  uint32_t first_epoch = 1, epoch = 1;  // counts barriers, over all blocks and launches
  uint64_t time = 1;                    // counts writes to shared memory
  std::string failure;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  const void* stack = nullptr;
  std::size_t stack_size = 0;
  void* fake_stack = nullptr;
};
inline Block block;
inline Thread* current = nullptr;

struct Counters {
  long launches = 0, blocks = 0, warp_accesses = 0, bank_conflicts = 0;
};
inline Counters counters;

[[noreturn]] inline void fail(const std::string& message) {
  std::string where;
  if (current != nullptr) {
    where = " (block " + std::to_string(block.index.x) + "," + std::to_string(block.index.y) + "," +
            std::to_string(block.index.z) + ", thread " +
            std::to_string(current - block.thread.data()) + ")";
  }
  throw Failure(message + where);
}

#if defined(__x86_64__)
extern "C" void vitkern_emulation_switch(void** save, void* to);
__asm__(R"(.pushsection .text
.weak vitkern_emulation_switch
.hidden vitkern_emulation_switch
.type vitkern_emulation_switch,@function
vitkern_emulation_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp, (%rdi)
 movq %rsi, %rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
.popsection
)");
#endif

// From a fiber back to the scheduler.
inline void leave() {
  Thread* self = current;
#ifdef EMULATION_ASAN
  __sanitizer_start_switch_fiber(self->state == State::done ? nullptr : &self->fake_stack,
                                 block.stack, block.stack_size);
#endif
#if defined(__x86_64__)
  vitkern_emulation_switch(&self->stack_pointer, block.stack_pointer);
#else
  swapcontext(&self->context, &block.context);
#endif
#ifdef EMULATION_ASAN
  __sanitizer_finish_switch_fiber(self->fake_stack, &block.stack, &block.stack_size);
#endif
}

inline void begin_fiber() {
#ifdef EMULATION_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &block.stack, &block.stack_size);
#endif
  try {
    (*block.kernel)();
    if (!current->open.empty() || !current->groups.empty()) {
      fail("a thread ends with copies that it did not wait for");
    }
    const Warp& warp = block.warp[current->warp];
    if (!warp.open.empty() || !warp.groups.empty()) {
      fail("a thread ends with products that it did not wait for");
    }
  } catch (const std::exception& error) {
    if (block.failure.empty()) block.failure = error.what();
  }
  current->state = State::done;
  leave();
  std::abort();
}

inline void prepare(Thread& thread) {
  thread.state = State::ready;
  thread.open.clear();
  thread.groups.clear();
  thread.published = 0;
  thread.sums_ready = false;
  thread.fake_stack = nullptr;
#ifdef EMULATION_ASAN
  __asan_unpoison_memory_region(thread.stack, STACK);
#endif
#if defined(__x86_64__)
  auto top = (reinterpret_cast<uintptr_t>(thread.stack + STACK) & ~uintptr_t(15)) - 8;
  void** at = reinterpret_cast<void**>(top);
  *--at = reinterpret_cast<void*>(&begin_fiber);
  for (int i = 0; i < 6; ++i) *--at = nullptr;
  thread.stack_pointer = at;
#else
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack;
  thread.context.uc_stack.ss_size = STACK;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, begin_fiber, 0);
#endif
}

inline void resume(Thread& thread) {
  current = &thread;
#ifdef EMULATION_ASAN
  __sanitizer_start_switch_fiber(&block.fake_stack, thread.stack, STACK);
#endif
#if defined(__x86_64__)
  vitkern_emulation_switch(&block.stack_pointer, thread.stack_pointer);
#else
  swapcontext(&block.context, &thread.context);
#endif
#ifdef EMULATION_ASAN
  __sanitizer_finish_switch_fiber(block.fake_stack, nullptr, nullptr);
#endif
  current = nullptr;
}

void flush_accesses(int warp);  // shared_memory.hpp

inline void barrier() {
  current->state = State::at_barrier;
  current->doing = "__syncthreads";
  leave();
}

// The lanes of a warp meet; the last one to come does the work of all. `all` gets their operands.
template <class Operand, class Work>
void collective(const char* name, Operand& mine, const Work& all) {
  Warp& warp = block.warp[current->warp];
  if (warp.arrived == 0) warp.name = name;
  if (warp.name != name && std::string(warp.name) != name) {
    fail(std::string("lanes of a warp in ") + warp.name + " and in " + name);
  }
  warp.operands[current->lane] = &mine;
  if (++warp.arrived < LANES) {
    current->state = State::in_collective;
    current->doing = name;
    leave();
    return;
  }
  warp.arrived = 0;
  flush_accesses(current->warp);
  all(reinterpret_cast<Operand**>(warp.operands));
  for (int lane = 0; lane < LANES; ++lane) {
    block.thread[current->warp * LANES + lane].state = State::ready;
  }
}

inline bool has_ready_lane(int warp) {
  for (int lane = 0; lane < LANES; ++lane) {
    if (block.thread[warp * LANES + lane].state == State::ready) return true;
  }
  return false;
}

inline int next_warp(int last, std::mt19937& random) {
  const int warps = static_cast<int>(block.warp.size());
  int start = 0, step = 1;
  switch (options.order) {
    case Order::forward: start = last + 1; break;
    case Order::reverse: start = last - 1 + warps, step = -1; break;
    case Order::shuffled: start = static_cast<int>(random() % warps); break;
    case Order::greedy: break;
    case Order::greedy_reverse: start = warps - 1, step = -1; break;
  }
  for (int i = 0; i < warps; ++i) {
    const int warp = ((start + step * i) % warps + warps) % warps;
    if (has_ready_lane(warp)) return warp;
  }
  return -1;
}

// Lets every ready lane run to where it waits.
inline void step_warp(int warp, std::mt19937& random) {
  int lanes[LANES];
  const bool down = options.order == Order::reverse || options.order == Order::greedy_reverse;
  for (int i = 0; i < LANES; ++i) lanes[i] = down ? LANES - 1 - i : i;
  if (options.order == Order::shuffled) std::shuffle(lanes, lanes + LANES, random);
  for (int lane : lanes) {
    Thread& thread = block.thread[warp * LANES + lane];
    if (thread.state != State::ready) continue;
    resume(thread);
    if (!block.failure.empty()) throw Failure(block.failure);
  }
}

// The four warps of a group multiply the same tiles.
inline void check_warp_groups() {
  for (std::size_t warp = 0; warp < block.warp.size(); ++warp) {
    const std::vector<uint64_t>& issued = block.warp[warp].issued;
    const std::size_t first = warp / 4 * 4;
    if (issued.empty() && block.warp[first].issued.empty()) continue;
    if (block.warp.size() % 4 != 0 || issued != block.warp[first].issued) {
      throw Failure("the four warps of a group have not the same wgmma");
    }
  }
}

inline void run_block() {
  std::mt19937 random(options.seed + block.index.x * 7919u + block.index.y * 104729u);
  block.first_epoch = ++block.epoch;
  for (Warp& warp : block.warp) warp = {};
  for (Thread& thread : block.thread) prepare(thread);
  for (int last = -1;;) {
    last = next_warp(last, random);
    if (last >= 0) {
      step_warp(last, random);
      continue;
    }
    int waiting = 0, done = 0;
    const Thread* stuck = nullptr;
    for (Thread& thread : block.thread) {
      waiting += thread.state == State::at_barrier;
      done += thread.state == State::done;
      if (thread.state != State::done) stuck = &thread;
    }
    for (int warp = 0; warp < static_cast<int>(block.warp.size()); ++warp) flush_accesses(warp);
    if (done == block.threads) return check_warp_groups();
    if (waiting < block.threads) {
      throw Failure(std::string("not all threads come to ") + stuck->doing + " (thread " +
                    std::to_string(stuck - block.thread.data()) + " waits there for ever)");
    }
    ++block.epoch;
    for (Thread& thread : block.thread) thread.state = State::ready;
  }
}

void prepare_shared(std::size_t bytes);  // shared_memory.hpp
void poison_shared();

inline void launch(dim3 grid, int threads, std::size_t shared,
                   const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  if (threads < LANES || threads > MOST_THREADS || threads % LANES != 0) {
    throw Failure("a block of " + std::to_string(threads) + " threads");
  }
  if (shared > MOST_SHARED) throw Failure(std::to_string(shared) + " bytes of shared memory");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    throw Failure("a grid that a GPU refuses");
  }
  static std::unique_ptr<char[]> stacks(new char[MOST_THREADS * STACK]);
  block.grid = grid;
  block.size = dim3(threads);
  block.threads = threads;
  block.kernel = &kernel;
  block.failure.clear();
  block.thread.resize(threads);
  block.warp.resize(threads / LANES);
  for (int i = 0; i < threads; ++i) {
    Thread& thread = block.thread[i];
    thread.index = {static_cast<unsigned>(i), 0, 0};
    thread.lane = i % LANES;
    thread.warp = i / LANES;
    thread.stack = stacks.get() + i * STACK;
  }
  ++counters.launches;
  prepare_shared(shared);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block.index = {x, y, z};
        ++counters.blocks;
        poison_shared();
        run_block();
      }
    }
  }
}

}  // namespace emulation

#define threadIdx (::emulation::current->index)
#define blockIdx (::emulation::block.index)
#define blockDim (::emulation::block.size)
#define gridDim (::emulation::block.grid)

inline void __syncthreads() { emulation::barrier(); }
