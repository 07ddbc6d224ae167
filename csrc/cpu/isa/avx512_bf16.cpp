#define VITKERN_ISA avx512_bf16
#define VITKERN_WIDTH 16
#define VITKERN_BF16_DOT 1
#define VITKERN_RUNS_HERE                                                       \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&   \
   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&  \
   __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
#include "table.h"
