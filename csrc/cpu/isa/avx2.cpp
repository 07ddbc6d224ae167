#define VITKERN_ISA avx2
#define VITKERN_WIDTH 8
#define VITKERN_RUNS_HERE \
  (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
#include "table.h"
