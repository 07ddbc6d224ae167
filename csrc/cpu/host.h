// What the host side of every op shares: the runtime over PyTorch's threads, tensors, checks.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

#include "kernels.h"
#include "pool.h"

namespace vitkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

Runtime runtime();

inline Type type_of(const Tensor& t) {
  if (t.scalar_type() == ScalarType::Float) return Type::f32;
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::BFloat16, "takes float32 and bfloat16");
  return Type::bf16;
}
inline const void* data(const Tensor& t) { return t.const_data_ptr(); }
inline const void* data(const Maybe& t) { return t ? t->const_data_ptr() : nullptr; }
inline void* data(Tensor& t) { return t.numel() ? t.mutable_data_ptr() : nullptr; }

// Contiguous; asking first is much cheaper than a call through the dispatcher that changes nothing.
inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline Maybe dense(const Maybe& t) { return t ? Maybe(dense(*t)) : t; }

// An uninitialised tensor of like's dtype and device (or of `dtype`).
inline Tensor empty(const Tensor& like, std::vector<int64_t> sizes, std::optional<ScalarType> dtype = {}) {
  const ScalarType type = dtype ? *dtype : like.scalar_type();
  size_t bytes = type == ScalarType::BFloat16 ? 2 : 4;  // the pool takes no others
  for (int64_t size : sizes) bytes *= (size_t)size;
  if (std::optional<Tensor> t = pooled(sizes, bytes, type)) return *t;
  Tensor t = torch::stable::new_empty(like, sizes, dtype);
  if (bytes >= 2 * kHugePage) ask_for_huge_pages(t.mutable_data_ptr(), t.numel() * t.element_size());
  return t;
}
// The same where `wanted`, else a tensor with no elements.
inline Tensor empty_if(bool wanted, const Tensor& like, std::vector<int64_t> sizes,
                       std::optional<ScalarType> dtype = {}) {
  return empty(like, wanted ? sizes : std::vector<int64_t>{0}, dtype);
}
inline std::vector<int64_t> sizes_of(const Tensor& t) {
  return {t.sizes().begin(), t.sizes().end()};
}

// A weight (out, in) with its prepacked form, which says how to multiply; the tensors outlive the struct.
Weight weight_of(const Tensor& weight, const Maybe& packed);

// x (..., columns) as rows that are `stride` elements apart, without a copy where it allows that.
struct RowsView {
  Tensor tensor;  // keeps the memory alive
  int64_t rows, columns, stride;
};
RowsView rows_view(const Tensor& x);

}  // namespace vitkern
