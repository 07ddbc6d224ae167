// The kernels of one instruction set, compiled into the translation unit that includes this. It
// defines VITKERN_ISA, VITKERN_WIDTH and VITKERN_RUNS_HERE (an expression) first.
#pragma once
#include "../kernels.h"
#include "../kernels/attention.h"
#include "../kernels/attention_backward.h"
#include "../kernels/attention_block.h"
#include "../kernels/deformable_backward.h"
#include "../kernels/layer_norm.h"
#include "../kernels/linear.h"
#include "../kernels/mlp_backward.h"
#include "../kernels/patch_embed.h"
#include "../kernels/peak.h"
#include "../kernels/window_attention.h"
#include "../kernels/window_backward.h"
#include "../kernels/window_block.h"

#define VK_STRING_(x) #x
#define VK_STRING(x) VK_STRING_(x)

namespace vitkern::VITKERN_ISA {

extern const Kernels table;
const Kernels table = {
    .isa = VK_STRING(VITKERN_ISA),
    .runs_here = [] { return (bool)(VITKERN_RUNS_HERE); },
    .peak_flops = peak_flops,
    .pack_weight = pack_weight,
    .pack_int8 = pack_int8,
    .packed_bytes = packed_bytes,
    .width = W,
    .panel = kPanel<Dot::u8_s8>,
    .sums_pairs = kSumsPairs,
    .linear = linear,
    .linear_backward = linear_backward,
    .mlp = mlp,
    .mlp_backward = mlp_backward,
    .patch_embed = patch_embed,
    .patch_embed_backward = patch_embed_backward,
    .layer_norm = layer_norm,
    .layer_norm_backward = layer_norm_backward,
    .attention = attention,
    .attention_backward = attention_backward,
    .window_attention = window_attention,
    .window_attention_backward = window_attention_backward,
    .deformable_attention = deformable_attention,
    .deformable_attention_backward = deformable_attention_backward,
    .attention_block = attention_block,
    .window_block = window_block,
};

}  // namespace vitkern::VITKERN_ISA
