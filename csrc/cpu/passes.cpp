// Compiles the passes, and registers them with torch.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "../tensors.h"
#include "max_pool.h"
#include "stem_backward.h"
#include "stem_weight_backward.h"

namespace fastadv {
namespace {

using torch::headeronly::MemoryFormat;

// Images as the kernels read them: as they are where their channels lie outermost or innermost, as a copy where not.
struct Dense {
  Tensor tensor;
  Images images;

  Dense(const char* op, const char* name, const Tensor& t, std::optional<MemoryFormat> wanted = {}) : tensor(t) {
    STD_TORCH_CHECK(t.dim() == 4, op, ": ", name, " must be [samples, channels, height, width]");
    const int64_t inner = innermost(t);
    bool channels_last = inner > 1;
    if (inner == 0 || (wanted && channels_last != (*wanted == MemoryFormat::ChannelsLast))) {
      tensor = torch::stable::contiguous(t, wanted.value_or(MemoryFormat::Contiguous));
      channels_last = wanted == MemoryFormat::ChannelsLast;
    }
    images = {t.size(0), t.size(1), t.size(2), t.size(3), channels_last};
  }

  MemoryFormat format() const { return images.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous; }
};

Tensor max_pool_op(Tensor x) {
  const Dense in("max_pool", "x", x);
  const int64_t size[] = {x.size(0), x.size(1), x.size(2) / 2, x.size(3) / 2};
  const Tensor out = torch::stable::empty({size, 4}, x.scalar_type(), {}, x.device(), {}, in.format());
  max_pool(dtype_of("max_pool", x), in.images, {in.tensor.const_data_ptr(), out.mutable_data_ptr()});
  return out;
}

Tensor max_pool_backward_op(Tensor grad, Tensor x) {
  const char* const op = "max_pool_backward";
  const Dense in(op, "x", x), slope(op, "grad", grad, in.format());
  const Images &from = in.images, &to = slope.images;
  STD_TORCH_CHECK(to.samples == from.samples && to.channels == from.channels && to.height == from.height / 2 &&
                      to.width == from.width / 2 && grad.scalar_type() == x.scalar_type(),
                  op, ": grad must be of what max_pool makes of x");
  const Tensor out = torch::stable::empty_like(in.tensor);
  max_pool_backward(dtype_of(op, x), from,
                    {slope.tensor.const_data_ptr(), in.tensor.const_data_ptr(), out.mutable_data_ptr()});
  return out;
}

// Checks that grad is of what a convolution of stride 1 with few input channels makes of x.
void check_stem(const char* op, const Tensor& grad, const Tensor& x, int64_t kernel_height, int64_t kernel_width,
                int64_t padding_height, int64_t padding_width) {
  STD_TORCH_CHECK(x.size(1) >= 1 && x.size(1) <= kStemChannels, op, ": x must have 1 to ", kStemChannels, " channels");
  STD_TORCH_CHECK(padding_height >= 0 && padding_height < kernel_height && padding_width >= 0 &&
                      padding_width < kernel_width,
                  op, ": the padding must be smaller than the kernel");
  STD_TORCH_CHECK(grad.size(0) == x.size(0) && grad.size(2) == x.size(2) + 2 * padding_height - kernel_height + 1 &&
                      grad.size(3) == x.size(3) + 2 * padding_width - kernel_width + 1,
                  op, ": grad must be of what the convolution makes of x");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), op, ": grad, x and weight must have one dtype");
}

Tensor stem_backward_op(Tensor grad, Tensor x, Tensor weight, int64_t padding_height, int64_t padding_width) {
  const char* const op = "stem_backward";
  const Dense slope(op, "grad", grad), like(op, "x", x), kernel(op, "weight", weight, MemoryFormat::Contiguous);
  const int64_t height = weight.size(2), width = weight.size(3);
  check_stem(op, grad, x, height, width, padding_height, padding_width);
  STD_TORCH_CHECK(weight.size(0) == grad.size(1) && weight.size(1) == x.size(1), op,
                  ": grad must be of what the convolution makes of x");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), op, ": grad, x and weight must have one dtype");
  const Tensor out = torch::stable::empty_like(like.tensor);
  stem_backward(dtype_of(op, x), slope.images, like.images,
                {slope.tensor.const_data_ptr(), kernel.tensor.const_data_ptr(), out.mutable_data_ptr(), height, width,
                 padding_height, padding_width});
  return out;
}

Tensor stem_weight_backward_op(Tensor grad, Tensor x, int64_t height, int64_t width, int64_t padding_height,
                               int64_t padding_width) {
  const char* const op = "stem_weight_backward";
  const Dense slope(op, "grad", grad), in(op, "x", x);
  check_stem(op, grad, x, height, width, padding_height, padding_width);
  const int64_t size[] = {grad.size(1), x.size(1), height, width};
  const Tensor out = torch::stable::empty({size, 4}, x.scalar_type(), {}, x.device());
  stem_weight_backward(dtype_of(op, x), slope.images, in.images,
                       {slope.tensor.const_data_ptr(), in.tensor.const_data_ptr(), out.mutable_data_ptr(), height, width,
                        padding_height, padding_width});
  return out;
}

}  // namespace
}  // namespace fastadv

// PyTorch's own functions are their references, and stay what models call: fastadv/attacks/_passes.py puts these in.
STABLE_TORCH_LIBRARY_FRAGMENT(fastadv, m) {
  m.def("max_pool(Tensor x) -> Tensor");
  m.def("max_pool_backward(Tensor grad, Tensor x) -> Tensor");
  m.def("stem_backward(Tensor grad, Tensor x, Tensor weight, int padding_height, int padding_width) -> Tensor");
  m.def(
      "stem_weight_backward(Tensor grad, Tensor x, int kernel_height, int kernel_width, int padding_height, "
      "int padding_width) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("max_pool", TORCH_BOX(&fastadv::max_pool_op));
  m.impl("max_pool_backward", TORCH_BOX(&fastadv::max_pool_backward_op));
  m.impl("stem_backward", TORCH_BOX(&fastadv::stem_backward_op));
  m.impl("stem_weight_backward", TORCH_BOX(&fastadv::stem_weight_backward_op));
}
