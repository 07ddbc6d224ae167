// What kernels need of a host, without PyTorch: threads that a sanitizer sees, memory whose every byte
// counts, and random numbers.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.h"

namespace driver {

using namespace vitkern;

// Scratch of one thread, of exactly the size that was asked for, NaN at first.
struct Scratch {
  void* memory[kSlots] = {};
  size_t bytes[kSlots] = {};
  void clear() {
    for (int i = 0; i < kSlots; i++) free(memory[i]), memory[i] = nullptr, bytes[i] = 0;
  }
  ~Scratch() { clear(); }
};
inline thread_local Scratch scratch_of_thread;

inline void* scratch(Slot slot, size_t wanted) {
  Scratch& s = scratch_of_thread;
  if (!s.memory[slot] || s.bytes[slot] < wanted) {
    free(s.memory[slot]);
    if (posix_memalign(&s.memory[slot], 64, wanted ? wanted : 1)) abort();
    memset(s.memory[slot], 0xff, wanted);
    s.bytes[slot] = wanted;
  }
  return s.memory[slot];
}

inline constexpr int kThreads = 3;

// Each thread has every so many tasks of its own, so that what tasks share without a lock is a race in
// every run, whoever is the first. The calling thread is one of them, as in PyTorch; the others are new.
inline void parallel(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  const auto work = [&](int64_t first) {
    for (int64_t i = first; i < tasks; i += kThreads) body(context, i);
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < kThreads && i < tasks; i++) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
}

inline constexpr Runtime kRuntime{kThreads, parallel, scratch};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int64_t between(int64_t least, int64_t most) { return least + (int64_t)(next() % (uint64_t)(most - least + 1)); }
  bool chance(int of = 2) { return next() % of == 0; }
  float real() { return (float)((double)(next() >> 11) * 0x1p-52 - 1.0); }
  // Small, or where tiles of 6, 8, 16 or 48 begin and end.
  int64_t size(int64_t least, int64_t most) {
    static constexpr int64_t kEnds[] = {12, 13, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 97};
    const int64_t end = kEnds[next() % (sizeof kEnds / sizeof *kEnds)];
    return chance() && end <= most && end >= least ? end : between(least, most < 9 ? most : 9);
  }

 private:
  uint64_t state_;
};

inline int64_t volume(std::initializer_list<int64_t> sizes) {
  int64_t all = 1;
  for (int64_t size : sizes) all *= size;
  return all;
}

// The tensors of one call. Each is an allocation of its own, which ends where the tensor ends.
class Tensors {
 public:
  explicit Tensors(Random& random) : random_(random) {}
  ~Tensors() {
    for (void* memory : all_) free(memory);
  }

  void* raw(int64_t bytes, int64_t alignment) {
    const int64_t offset = random_.between(0, 3) * alignment;  // views begin anywhere
    char* memory = (char*)malloc(offset + bytes + (offset + bytes == 0));
    all_.push_back(memory);
    return memory + offset;
  }

  void* input(Type type, int64_t count, float size = 1.f, float mean = 0.f) {
    void* memory = raw(count * size_of(type), size_of(type));
    for (int64_t i = 0; i < count; i++) {
      const float value = mean + size * random_.real();
      uint32_t bits;
      memcpy(&bits, &value, 4);
      const uint16_t half = (uint16_t)(bits >> 16);
      if (type == Type::f32) ((float*)memory)[i] = value;
      else ((uint16_t*)memory)[i] = half;
    }
    return memory;
  }
  void* maybe(Type type, int64_t count, float size = 1.f, float mean = 0.f) {
    return random_.chance(3) ? nullptr : input(type, count, size, mean);
  }

  // NaN until it is written; finite() says whether all of it was.
  void* output(const char* name, Type type, int64_t count) {
    void* memory = raw(count * size_of(type), size_of(type));
    memset(memory, 0xff, count * size_of(type));
    outputs_.push_back({name, type, count, memory});
    return memory;
  }
  void* wanted(const char* name, Type type, int64_t count) {
    return random_.chance(4) ? nullptr : output(name, type, count);
  }

  // Whether every element of every output is a finite number (logarithms of sums over no key may be inf).
  bool finite() const {
    for (const Output& o : outputs_)
      for (int64_t i = 0; i < o.count; i++) {
        float value;
        const uint32_t half = o.type == Type::bf16 ? (uint32_t)((uint16_t*)o.memory)[i] << 16 : 0;
        if (o.type == Type::bf16) memcpy(&value, &half, 4);
        else value = ((float*)o.memory)[i];
        if (std::isfinite(value) || (!strcmp(o.name, "lse") && value > 0)) continue;
        fprintf(stderr, "%s[%ld of %ld] is %g\n", o.name, (long)i, (long)o.count, value);
        return false;
      }
    return true;
  }

 private:
  struct Output {
    const char* name;
    Type type;
    int64_t count;
    void* memory;
  };
  Random& random_;
  std::vector<void*> all_;
  std::vector<Output> outputs_;
};

}  // namespace driver
