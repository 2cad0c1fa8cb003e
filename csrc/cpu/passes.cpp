// Compiles the passes, and registers them with torch.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "../tensors.h"
#include "max_pool.h"
#include "stem_backward.h"

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

Tensor stem_backward_op(Tensor grad, Tensor x, Tensor weight, int64_t padding_height, int64_t padding_width) {
  const char* const op = "stem_backward";
  const Dense slope(op, "grad", grad), like(op, "x", x), kernel(op, "weight", weight, MemoryFormat::Contiguous);
  const Images &from = slope.images, &to = like.images;
  const int64_t height = weight.size(2), width = weight.size(3);
  STD_TORCH_CHECK(to.channels >= 1 && to.channels <= kStemChannels, op, ": x must have 1 to ", kStemChannels, " channels");
  STD_TORCH_CHECK(padding_height >= 0 && padding_height < height && padding_width >= 0 && padding_width < width, op,
                  ": the padding must be smaller than the kernel");
  STD_TORCH_CHECK(weight.size(0) == from.channels && weight.size(1) == to.channels && from.samples == to.samples &&
                      from.height == to.height + 2 * padding_height - height + 1 &&
                      from.width == to.width + 2 * padding_width - width + 1,
                  op, ": grad must be of what the convolution makes of x");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && weight.scalar_type() == x.scalar_type(), op,
                  ": grad, x and weight must have one dtype");
  const Tensor out = torch::stable::empty_like(like.tensor);
  stem_backward(dtype_of(op, x), from, to,
                {slope.tensor.const_data_ptr(), kernel.tensor.const_data_ptr(), out.mutable_data_ptr(), height, width,
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
}
STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("max_pool", TORCH_BOX(&fastadv::max_pool_op));
  m.impl("max_pool_backward", TORCH_BOX(&fastadv::max_pool_backward_op));
  m.impl("stem_backward", TORCH_BOX(&fastadv::stem_backward_op));
}
