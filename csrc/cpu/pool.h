// Memory of large outputs, kept when a tensor dies and given to the next one of its size. Fresh memory
// costs a page fault for each 4 KiB, which is up to a tenth of what a layer's arithmetic takes.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace vitkern {

constexpr size_t kHugePage = 2 << 20;
// Memory in pages of 2 MiB, where it holds whole ones: hundreds of page faults become one. A hint,
// without effect on systems that do not know it.
void ask_for_huge_pages(void* memory, size_t bytes);

// An uninitialised contiguous CPU tensor in pooled memory; nothing where it is too small for the pool to
// pay, or this torch (before 2.11) cannot tell when a tensor dies.
std::optional<torch::stable::Tensor> pooled(const std::vector<int64_t>& sizes, size_t bytes,
                                            torch::headeronly::ScalarType dtype);

// Bytes that the pool keeps for tensors to come; and freeing them all.
int64_t pooled_bytes();
void release_pool();

}  // namespace vitkern
