// Registers the CUDA kernels with torch.
#include "device.h"

#include "../glue.h"
