// AVX-512 with BF16 and VNNI, and products of bfloat16 and bytes in AMX's tile registers.
#include <stdint.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Linux gives a process the tile registers when it asks: threads, and children that it forks, have them
// too. Refused where a thread's signal stack is too small for them.
static bool tiles_permitted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool permitted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return permitted;
#else
  return false;
#endif
}

#define VITKERN_ISA amx
#define VITKERN_WIDTH 16
#define VITKERN_BF16_DOT 1
#define VITKERN_AMX 1
#define VITKERN_RUNS_HERE                                                       \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&   \
   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&  \
   __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") && \
   __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&  \
   __builtin_cpu_supports("amx-int8") && tiles_permitted())
#include "table.h"
