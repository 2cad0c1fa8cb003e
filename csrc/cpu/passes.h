// Passes through networks that PyTorch is slow at on the CPU, for gradients. They have no CUDA side.
#pragma once

#include "../kernels.h"

namespace fastadv {

// [samples, channels, height, width] images, one behind the other, their channels outermost or innermost.
struct Images {
  int64_t samples, channels, height, width;
  bool channels_last;
};

// Windows of 2x2 side by side; what an odd height or width leaves over is in none.
struct MaxPoolArgs {
  const void* x;
  void* out;
};
Status max_pool(Dtype, const Images& x, const MaxPoolArgs&);

struct MaxPoolBackwardArgs {
  const void *grad, *x;
  void* out;  // of the size of x
};
Status max_pool_backward(Dtype, const Images& x, const MaxPoolBackwardArgs&);

// A convolution of stride 1 with few input channels: the gradient of its input from that of its output.
struct StemBackwardArgs {
  const void *grad, *weight;  // weight: [grad's channels, out's channels, kernel_height, kernel_width]
  void* out;
  int64_t kernel_height, kernel_width, padding_height, padding_width;
};
constexpr int64_t kStemChannels = 3;  // of its input, at most
Status stem_backward(Dtype, const Images& grad, const Images& out, const StemBackwardArgs&);

// The same convolution: the gradient of its weights from that of its output.
struct StemWeightBackwardArgs {
  const void *grad, *x;
  void* out;  // [grad's channels, x's channels, kernel_height, kernel_width]
  int64_t kernel_height, kernel_width, padding_height, padding_width;
};
Status stem_weight_backward(Dtype, const Images& grad, const Images& x, const StemWeightBackwardArgs&);

}  // namespace fastadv
