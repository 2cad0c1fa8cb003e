// Registers the kernels of one device in the namespace that kernel-builder gives to this version of the ops.
#define FASTADV_NAMESPACE TORCH_EXTENSION_NAME
#ifdef CUDA_KERNEL
#ifndef USE_CUDA
#define USE_CUDA
#endif
#include "../csrc/cuda/device.h"
#else
#include "../csrc/cpu/device.h"
#endif

#include "../csrc/glue.h"

#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
