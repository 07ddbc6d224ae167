// What a warp does together, and copies that go on by themselves.
#pragma once

#include <cstring>

#include "shared_memory.hpp"

namespace emulation {

template <class T, class Source>
T shuffle(unsigned mask, T value, const Source& source_of, const char* name) {
  if (mask != 0xffffffffu) fail(std::string(name) + " of a part of a warp");
  struct Operand {
    T value;
    int source;
  } mine{value, source_of(current->lane)};
  collective(name, mine, [](Operand** lanes) {
    T sent[LANES];
    for (int lane = 0; lane < LANES; ++lane) sent[lane] = lanes[lane]->value;
    for (int lane = 0; lane < LANES; ++lane) lanes[lane]->value = sent[lanes[lane]->source];
  });
  return mine.value;
}

template <class T>
void emulate_copy_async(Shared<T> to, const void* from, bool wanted) {
  const uint32_t offset = to.place(to.at, 16);
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) fail("cp.async from an address not aligned");
  note_write(offset, 16);
  note_copy(offset, 16, true);
  log_access(offset, 16);
  if (options.eager_copies) {
    if (wanted) {
      std::memcpy(arena + offset, from, 16);
    } else {
      std::memset(arena + offset, 0, 16);
    }
  }
  current->open.push_back({offset, wanted ? from : nullptr});
}

inline void commit_copies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

inline void wait_for_copies(int groups) {
  while (static_cast<int>(current->groups.size()) > groups) {
    for (const Copy& copy : current->groups.front()) {
      note_copy(copy.to, 16, false);
      note_write(copy.to, 16);
      if (options.eager_copies) continue;
      if (copy.from != nullptr) {
        std::memcpy(arena + copy.to, copy.from, 16);
      } else {
        std::memset(arena + copy.to, 0, 16);
      }
    }
    current->groups.erase(current->groups.begin());
  }
}

template <class T>
void emulate_load_matrices(unsigned (&r)[4], Shared<T> row, bool transposed) {
  struct Operand {
    uint32_t row;
    unsigned (*result)[4];
  } mine{row.place(row.at, 16), &r};
  note_read(mine.row, 16, true);
  const char* name = transposed ? "ldmatrix.trans" : "ldmatrix";
  collective(name, mine, [transposed](Operand** lanes) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t rows[8][8];
      Access accesses[8];
      for (int i = 0; i < 8; ++i) {
        const uint32_t from = lanes[matrix * 8 + i]->row;
        std::memcpy(rows[i], arena + from, 16);
        accesses[i] = {from, 16};
      }
      if (options.count_banks) {
        counters.bank_conflicts += bank_conflicts(accesses, 8);
        ++counters.warp_accesses;
      }
      for (int lane = 0; lane < LANES; ++lane) {
        const int g = lane / 4, t = lane % 4 * 2;
        const unsigned first = transposed ? rows[t][g] : rows[g][t];
        const unsigned second = transposed ? rows[t + 1][g] : rows[g][t + 1];
        (*lanes[lane]->result)[matrix] = first | second << 16;
      }
    }
  });
}

enum class Operand { half, bfloat, tf32 };

// The elements of 32 bits of an mma operand, as float32.
inline void unpack(unsigned bits, Operand kind, float* to) {
  if (kind == Operand::tf32) {
    to[0] = __uint_as_float(bits & 0xffffe000u);  // the hardware reads no more bits
  } else if (kind == Operand::bfloat) {
    to[0] = __uint_as_float(bits << 16);
    to[1] = __uint_as_float(bits & 0xffff0000u);
  } else {
    to[0] = __half2float({static_cast<uint16_t>(bits & 0xffff)});
    to[1] = __half2float({static_cast<uint16_t>(bits >> 16)});
  }
}

inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                     Operand kind) {
  struct Operands {
    float* c;
    const unsigned* a;
    unsigned b[2];
    Operand kind;
  } mine{c, a, {b0, b1}, kind};
  collective("mma", mine, [](Operands** lanes) {
    const Operand kind = lanes[0]->kind;
    const int each = kind == Operand::tf32 ? 1 : 2;  // elements in 32 bits
    const int depth = 8 * each;
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < LANES; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const Operands& own = *lanes[lane];
      unpack(own.a[0], kind, &a[g][t * each]);
      unpack(own.a[1], kind, &a[g + 8][t * each]);
      unpack(own.a[2], kind, &a[g][(t + 4) * each]);
      unpack(own.a[3], kind, &a[g + 8][(t + 4) * each]);
      for (int half = 0; half < 2; ++half) {
        float column[2];
        unpack(own.b[half], kind, column);
        for (int i = 0; i < each; ++i) b[(t + 4 * half) * each + i][g] = column[i];
      }
    }
    for (int row = 0; row < 16; ++row) {
      for (int n = 0; n < 8; ++n) c[row][n] = 0.0f;
      for (int k = 0; k < depth; ++k) {
        for (int n = 0; n < 8; ++n) c[row][n] += a[row][k] * b[k][n];
      }
    }
    for (int lane = 0; lane < LANES; ++lane) {
      const int g = lane / 4, t = lane % 4 * 2;
      float* to = lanes[lane]->c;
      to[0] += c[g][t];
      to[1] += c[g][t + 1];
      to[2] += c[g + 8][t];
      to[3] += c[g + 8][t + 1];
    }
  });
}

inline unsigned round_to_tf32(unsigned bits) {
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits & 0xffffe000u;
  return (bits + 0x1000u) & 0xffffe000u;
}

inline void sync_warp(unsigned mask) {
  if (mask != 0xffffffffu) fail("__syncwarp of a part of a warp");
  int nothing = 0;
  collective("__syncwarp", nothing, [](int**) { ++block.warp[current->warp].epoch; });
}

}  // namespace emulation

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::sync_warp(mask); }
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with) {
  return emulation::shuffle(mask, value, [=](int lane) { return lane ^ with; }, "shuffle");
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return emulation::shuffle(mask, value, [=](int) { return from % 32; }, "shuffle");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  return emulation::shuffle(
      mask, value, [=](int lane) { return lane + by < 32 ? static_cast<int>(lane + by) : lane; },
      "shuffle");
}
