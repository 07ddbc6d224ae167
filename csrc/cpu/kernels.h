// The kernels of one instruction set as the host sees them. Each csrc/cpu/isa/*.cpp fills one table.
// Arguments are plain structs in csrc/cpu/args/; the pointers are valid and the shapes are checked.
#pragma once
#include "args/attention.h"
#include "args/attention_block.h"
#include "args/deformable_attention.h"
#include "args/layer_norm.h"
#include "args/linear.h"
#include "args/patch_embed.h"
#include "args/window_attention.h"
#include "runtime.h"

namespace vitkern {

struct Kernels {
  const char* isa;
  bool (*runs_here)();  // whether this processor has the instructions
  // Does nothing but multiply-adds as products in this form do; returns how many operations it did.
  double (*peak_flops)(Form, int64_t rounds);

  void (*pack_weight)(const Runtime&, const PackArgs&);
  void (*pack_int8)(const Runtime&, const PackInt8Args&);
  int64_t (*packed_bytes)(Type, Form, int64_t out, int64_t in);
  int width, panel;  // floats in a vector, and columns in a panel of a weight that is packed for int8
  bool sums_pairs;    // whether products of integers are summed two by two in 16 bits

  void (*linear)(const Runtime&, const LinearArgs&);
  void (*linear_backward)(const Runtime&, const LinearBackwardArgs&);
  void (*mlp)(const Runtime&, const MlpArgs&);
  void (*mlp_backward)(const Runtime&, const MlpBackwardArgs&);
  void (*patch_embed)(const Runtime&, const PatchEmbedArgs&);
  void (*patch_embed_backward)(const Runtime&, const PatchEmbedBackwardArgs&);
  void (*layer_norm)(const Runtime&, const LayerNormArgs&);
  void (*layer_norm_backward)(const Runtime&, const LayerNormBackwardArgs&);
  void (*attention)(const Runtime&, const AttentionArgs&);
  void (*attention_backward)(const Runtime&, const AttentionBackwardArgs&);
  void (*window_attention)(const Runtime&, const WindowAttentionArgs&);
  void (*window_attention_backward)(const Runtime&, const WindowAttentionBackwardArgs&);
  void (*deformable_attention)(const Runtime&, const DeformableAttentionArgs&);
  void (*deformable_attention_backward)(const Runtime&, const DeformableAttentionBackwardArgs&);
  void (*attention_block)(const Runtime&, const AttentionBlockArgs&);
  void (*window_block)(const Runtime&, const WindowBlockArgs&);
};

// The table of the instruction set in use (the widest that runs here, unless a test chose another).
const Kernels& kernels();

}  // namespace vitkern
