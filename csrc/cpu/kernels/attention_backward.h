// Gradient of attention: not written yet, and not registered by csrc/cpu/attention.cpp.
#pragma once
#include "attention_forward.h"

namespace vitkern::VITKERN_ISA {
static void attention_backward(const Runtime&, const AttentionBackwardArgs&) {}
}  // namespace vitkern::VITKERN_ISA
