// What tests set and read; linked into the emulated library beside the kernels.
#include "emulation.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void vitkern_emulation_set(int order, int eager_copies, unsigned seed, int count_banks) {
  emulation::options = {static_cast<emulation::Order>(order), eager_copies != 0, seed,
                        count_banks != 0};
}

EXPORT void vitkern_emulation_counters(long* out, int reset) {
  const emulation::Counters& now = emulation::counters;
  out[0] = now.launches, out[1] = now.blocks;
  out[2] = now.warp_accesses, out[3] = now.bank_conflicts;
  if (reset != 0) emulation::counters = {};
}
