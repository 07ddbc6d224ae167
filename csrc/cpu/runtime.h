// What kernels see of the host: threads, scratch memory, element types. No torch, no C++ library.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace vitkern {

enum class Type : int { f32 = 0, bf16 = 1 };
inline constexpr int64_t size_of(Type type) { return type == Type::f32 ? 4 : 2; }

// Index into this list is the `activation` of registration.cpp.
enum class Activation : int { none = 0, gelu, gelu_tanh, relu, silu, quick_gelu };

// Scratch that a thread keeps from call to call. A slot is one buffer: whoever asks for it again on
// the same thread gets the same memory, so two things alive at once need two slots.
enum Slot : int {
  kPackedB,      // a weight packed in this call; owned by the calling thread, read by all
  kPackedB2,     // the second one of an MLP
  kVectors,      // bias, gamma and other (N,) vectors as padded float32; as kPackedB
  kVectors2,
  kShared,       // an op's own buffers that all threads read or write; as kPackedB
  kRowsA,        // rows of A as float32
  kPartial,      // partial sums of a row block
  kTile,
  kHidden,       // an MLP's hidden rows
  kPanelsB,      // B operand of a product with activations on both sides
  kRowsT,        // A operand of the same
  kOp,           // an op's own per-task buffers
  kGradient,     // partial sums of a weight's gradient; owned by the calling thread, as kShared
  kNormed,       // normalised rows; owned by the calling thread, as kShared
  kBlockQkv,     // qkv inside a fused attention block; owned by the calling thread, as kShared
  kBlockHeads,   // the attention's result inside one
  kWholeRows,    // operands that were in parts, as float32 again
  kWholePanel,
  kSlots
};

struct Runtime {
  int threads;  // how many tasks may run at once
  // Runs body(context, task) for every task in [0, tasks), in any order, on PyTorch's threads.
  void (*parallel)(int64_t tasks, void (*body)(void* context, int64_t task), void* context);
  // The calling thread's buffer of a slot, at least `bytes` long and 64-byte aligned.
  void* (*scratch)(Slot slot, size_t bytes);
};

}  // namespace vitkern
