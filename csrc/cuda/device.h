// Where the CUDA kernels run: on the current stream of the samples' device.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

namespace {
class DeviceScope {
 public:
  explicit DeviceScope(const torch::stable::Tensor& on) : guard_(on.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }
  static void check(const char* op, int status) {
    const auto error = static_cast<cudaError_t>(status);
    STD_TORCH_CHECK(error == cudaSuccess, op, ": CUDA error: ", cudaGetErrorString(error));
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};
}  // namespace

#define FASTADV_DEVICE CUDA
