// The AVX-512 code's tiling on AVX2: 16-wide vectors that the compiler splits. For tests only.
#define VITKERN_ISA avx512_emulated
#define VITKERN_WIDTH 16
#define VITKERN_BF16_DOT 2
#define VITKERN_EXACT_INT8
#define VITKERN_RUNS_HERE (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#include "table.h"
