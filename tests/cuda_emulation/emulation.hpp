// CUDA kernels on the CPU, to test them: a fiber a thread, blocks one after another.
//
// What it finds: races on shared memory between barriers, reads of what nobody wrote or of a copy
// that is under way, accesses out of an array's bounds or not aligned, divergent barriers and
// collectives, deadlocks. It counts bank conflicts. It does not model the order of global memory
// among blocks, rounding inside mma, clusters, or anything of Hopper and later but wgmma.
#pragma once

#include "cuda_types.hpp"
#include "scheduler.hpp"
#include "shared_memory.hpp"
#include "instructions.hpp"
#include "warpgroups.hpp"
