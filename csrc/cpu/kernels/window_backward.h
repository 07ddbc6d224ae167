// Gradient of window attention: not written yet, and not registered by csrc/cpu/window_attention.cpp.
#pragma once
#include "window_forward.h"

namespace vitkern::VITKERN_ISA {
static void window_attention_backward(const Runtime&, const WindowAttentionBackwardArgs&) {}
}  // namespace vitkern::VITKERN_ISA
