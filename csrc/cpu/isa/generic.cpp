// Any processor: 128-bit vectors, which the compiler maps to what the architecture has.
#define VITKERN_ISA generic
#define VITKERN_WIDTH 4
#define VITKERN_RUNS_HERE true
#include "table.h"
