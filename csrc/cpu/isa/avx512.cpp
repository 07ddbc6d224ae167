#define VITKERN_ISA avx512
#define VITKERN_WIDTH 16
#define VITKERN_RUNS_HERE                                                        \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&    \
   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
#include "table.h"
