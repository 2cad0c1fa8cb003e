// What kernels need to know of a tensor: its type and how it lies in memory. On the libtorch stable ABI.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <vector>

#include "kernels.h"

namespace fastadv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const char* op, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::Half:
      return Dtype::float16;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    default:
      STD_TORCH_CHECK(false, op, ": samples must be float32, float64, float16 or bfloat16");
  }
}

inline ScalarType compute_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// True where each sample is one gapless block and the blocks follow each other (contiguous, channels_last, ...).
inline bool row_dense(const Tensor& t) {
  if (t.numel() == 0) return true;
  std::vector<int64_t> dims;
  for (int64_t d = 1; d < t.dim(); ++d)
    if (t.size(d) > 1) dims.push_back(d);
  int64_t expected = 1;
  while (!dims.empty()) {
    size_t next = 0;
    while (next < dims.size() && t.stride(dims[next]) != expected) ++next;
    if (next == dims.size()) return false;
    expected *= t.size(dims[next]);
    dims.erase(dims.begin() + next);
  }
  return t.size(0) <= 1 || t.stride(0) == expected;
}

// How many elements of a sample lie between neighbours in logical order: 1 where memory has that order, the number of
// channels where they are innermost, 0 in any other layout.
inline int64_t innermost(const Tensor& t) {
  if (!row_dense(t)) return 0;
  const auto strides_are = [&](int64_t channels) {
    int64_t expected = channels;
    for (int64_t d = t.dim() - 1; d >= (channels == 1 ? 1 : 2); expected *= t.size(d--))
      if (t.size(d) > 1 && t.stride(d) != expected) return false;
    return channels == 1 || t.stride(1) == 1;
  };
  if (t.numel() == 0 || strides_are(1)) return 1;
  return t.dim() > 2 && t.size(1) > 1 && strides_are(t.size(1)) ? t.size(1) : 0;
}

}  // namespace fastadv
