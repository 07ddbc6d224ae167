// Shared memory whose every access is checked: bounds, alignment, races, values nobody wrote.
#pragma once

#include <array>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "scheduler.hpp"

namespace emulation {

// Who touched two bytes last. Epochs count barriers and grow for ever, so that nothing is reset:
// what lies before the block's first epoch never happened.
struct Cell {
  uint32_t write_epoch = 0, write_sync = 0, read_epoch = 0, read_sync = 0;
  uint32_t copy_epoch = 0;  // first_epoch of the block whose copy is under way
  uint32_t product_epoch = 0, products = 0;  // the same of products that read it, and how many
  uint64_t written = 0;                      // when
  uint16_t writer = 0, reader = 0;
  enum : uint8_t { one, lanes, warps } readers = one;
};
constexpr uint32_t CELL = 2;

inline std::vector<unsigned char> arena_memory(MOST_SHARED + 16 * 1024 + 128);
inline unsigned char* const arena =
    reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(arena_memory.data()) + 127) &
                                     ~uintptr_t(127));
inline std::vector<Cell> cells((MOST_SHARED + 16 * 1024) / CELL);
inline uint32_t dynamic_bytes = 0, used_bytes = 0;
inline std::map<const void*, uint32_t> static_places;

inline void prepare_shared(std::size_t bytes) {
  dynamic_bytes = static_cast<uint32_t>(bytes);
  used_bytes = (dynamic_bytes + 127) / 128 * 128;
  static_places.clear();
}
inline void poison_shared() { std::memset(arena, 0xff, used_bytes); }  // NaN in every format

[[noreturn]] inline void fail_at(const char* what, uint32_t offset, int other) {
  std::string message = std::string(what) + " at byte " + std::to_string(offset);
  if (other >= 0) message += ", with thread " + std::to_string(other);
  fail(message);
}

// Whether what another thread did then may still be under way for thread `me`.
inline bool unordered(uint32_t epoch, uint32_t sync, int other, int me, bool whole_warp) {
  if (epoch != block.epoch) return false;
  if (other == me && !whole_warp) return false;
  const bool same_warp = other / LANES == me / LANES;
  return !(same_warp && sync != block.warp[me / LANES].epoch);
}

// `whole_warp`: an instruction of all lanes reads, so that the values also reach other lanes.
inline void note_read(uint32_t offset, uint32_t bytes, bool whole_warp = false) {
  const int me = static_cast<int>(current - block.thread.data());
  const uint32_t sync = block.warp[current->warp].epoch;
  for (uint32_t i = offset / CELL; i < (offset + bytes) / CELL; ++i) {
    Cell& cell = cells[i];
    if (cell.copy_epoch == block.first_epoch) {
      fail_at("shared memory is read while a copy to it is under way", i * CELL, cell.writer);
    }
    if (cell.write_epoch < block.first_epoch) {
      fail_at("shared memory is read that nobody wrote", i * CELL, -1);
    }
    if (unordered(cell.write_epoch, cell.write_sync, cell.writer, me, whole_warp)) {
      fail_at("race: a read of what was written since the last barrier", i * CELL, cell.writer);
    }
    if (cell.read_epoch != block.epoch) {
      cell.readers = whole_warp ? Cell::lanes : Cell::one;
    } else if (cell.reader / LANES != me / LANES) {
      cell.readers = Cell::warps;
    } else if (cell.readers == Cell::one && (cell.reader != me || whole_warp)) {
      cell.readers = Cell::lanes;
    }
    cell.read_epoch = block.epoch;
    cell.read_sync = sync;
    cell.reader = static_cast<uint16_t>(me);
  }
}

inline void note_write(uint32_t offset, uint32_t bytes) {
  const int me = static_cast<int>(current - block.thread.data());
  const uint32_t sync = block.warp[current->warp].epoch;
  for (uint32_t i = offset / CELL; i < (offset + bytes) / CELL; ++i) {
    Cell& cell = cells[i];
    if (cell.copy_epoch == block.first_epoch) {
      fail_at("shared memory is written while a copy to it is under way", i * CELL, cell.writer);
    }
    if (cell.product_epoch == block.first_epoch && cell.products != 0) {
      fail_at("shared memory is written while a product that reads it is under way", i * CELL, -1);
    }
    if (unordered(cell.write_epoch, cell.write_sync, cell.writer, me, false)) {
      fail_at("race: two writes since the last barrier", i * CELL, cell.writer);
    }
    if (cell.read_epoch == block.epoch &&
        (cell.readers == Cell::warps ||
         unordered(cell.read_epoch, cell.read_sync, cell.reader, me, cell.readers != Cell::one))) {
      fail_at("race: a write of what was read since the last barrier", i * CELL, cell.reader);
    }
    cell.write_epoch = block.epoch;
    cell.write_sync = sync;
    cell.writer = static_cast<uint16_t>(me);
    cell.written = ++block.time;
  }
}

inline void note_copy(uint32_t offset, uint32_t bytes, bool begins) {
  for (uint32_t i = offset / CELL; i < (offset + bytes) / CELL; ++i) {
    cells[i].copy_epoch = begins ? block.first_epoch : 0;
  }
}

// Accesses of a warp since its lanes last met: the n-th of every lane is one instruction, as long
// as lanes do not diverge.
struct Access {
  uint32_t offset = 0;
  uint32_t bytes = 0;  // 0: the lane has none
};
struct Log {
  std::vector<std::array<Access, LANES>> instructions;
  std::array<uint32_t, LANES> next{};
};
inline std::map<int, Log> logs;

inline void log_access(uint32_t offset, uint32_t bytes) {
  if (!options.count_banks) return;
  Log& log = logs[current->warp];
  const uint32_t at = log.next[current->lane]++;
  if (log.instructions.size() <= at) log.instructions.resize(at + 1);
  log.instructions[at][current->lane] = {offset, bytes};
}

// Passes that 32 banks of 4 bytes need for the lanes, beyond the one that there always is. Wide
// accesses go in parts of 128 bytes.
inline int bank_conflicts(const Access* lanes, int count) {
  int passes = 1;
  std::array<std::vector<uint32_t>, LANES> words;
  for (int i = 0; i < count; ++i) {
    for (uint32_t byte = 0; byte < lanes[i].bytes; byte += 4) {
      const uint32_t word = (lanes[i].offset + byte) / 4;
      auto& bank = words[word % LANES];
      if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
      passes = std::max(passes, static_cast<int>(bank.size()));
    }
  }
  return passes - 1;
}

inline void count_conflicts(const std::array<Access, LANES>& lanes) {
  uint32_t widest = 4;
  for (const Access& lane : lanes) widest = std::max(widest, lane.bytes);
  const int together = LANES * 4 / static_cast<int>(widest);
  for (int first = 0; first < LANES; first += together) {
    counters.bank_conflicts += bank_conflicts(&lanes[first], together);
  }
  counters.warp_accesses += LANES / together;
}

inline void flush_accesses(int warp) {
  if (!options.count_banks) return;
  Log& log = logs[warp];
  for (const auto& lanes : log.instructions) count_conflicts(lanes);
  log.instructions.clear();
  log.next.fill(0);
}

template <class T>
class Reference;

// An array in shared memory: a place in the arena, and where the array begins and ends.
template <class T>
struct Shared {
  uint32_t begin, end;  // bytes
  int64_t at;           // byte; may lie outside as long as nothing is accessed there

  Reference<T> operator[](int i) const;
  Shared operator+(int n) const { return {begin, end, at + n * static_cast<int64_t>(sizeof(T))}; }
  template <class U>
  Shared<U> as() const {
    return {begin, end, at};
  }
  unsigned address() const { return static_cast<unsigned>(at); }
  // The byte of an access, checked.
  uint32_t place(int64_t byte, uint32_t bytes) const {
    if (byte < begin || byte + bytes > end) {
      fail("shared memory out of bounds: byte " + std::to_string(byte) + " of an array from " +
           std::to_string(begin) + " to " + std::to_string(end));
    }
    if (byte % bytes != 0) {
      fail("shared memory not aligned: byte " + std::to_string(byte) + " for " +
           std::to_string(bytes) + " bytes");
    }
    return static_cast<uint32_t>(byte);
  }
};

template <class T>
class Reference {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) >= CELL);

 public:
  explicit Reference(uint32_t offset) : offset_(offset) {}
  Reference(const Reference&) = default;

  operator T() const {
    note_read(offset_, sizeof(T));
    log_access(offset_, sizeof(T));
    T value;
    std::memcpy(&value, arena + offset_, sizeof(T));
    return value;
  }
  const Reference& operator=(const T& value) const {
    note_write(offset_, sizeof(T));
    log_access(offset_, sizeof(T));
    std::memcpy(arena + offset_, &value, sizeof(T));
    return *this;
  }
  const Reference& operator=(const Reference& other) const { return *this = static_cast<T>(other); }
  const Reference& operator+=(const T& value) const { return *this = static_cast<T>(*this) + value; }

 private:
  uint32_t offset_;
};

template <class T>
Reference<T> Shared<T>::operator[](int i) const {
  return Reference<T>(place(at + static_cast<int64_t>(i) * sizeof(T), sizeof(T)));
}

// Addresses are bytes of the arena, where dynamic shared memory comes first.
inline int shared_start(int /*alignment*/) { return 0; }

template <class T>
Shared<T> dynamic_shared(int first_byte, int count) {
  const int64_t end = first_byte + static_cast<int64_t>(count) * sizeof(T);
  if (first_byte < 0 || end > dynamic_bytes) {
    fail("an array beyond the launch's dynamic shared memory of " + std::to_string(dynamic_bytes) +
         " bytes");
  }
  return {static_cast<uint32_t>(first_byte), static_cast<uint32_t>(end), first_byte};
}

// The same place for every thread of the block: `Place` is a type of the declaration's own.
template <class T, class Place>
Shared<T> static_shared(int count) {
  static const char declaration = 0;
  const uint32_t bytes = (count * sizeof(T) + 15) / 16 * 16;
  auto found = static_places.find(&declaration);
  if (found == static_places.end()) {
    found = static_places.emplace(&declaration, used_bytes).first;
    used_bytes += bytes;
    if (used_bytes > MOST_SHARED) fail("too much shared memory");
    std::memset(arena + found->second, 0xff, bytes);
  }
  const uint32_t begin = found->second;
  return {begin, begin + static_cast<uint32_t>(count * sizeof(T)), begin};
}

}  // namespace emulation
