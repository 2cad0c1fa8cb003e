// Registers the CPU kernels with torch.
#include "device.h"

#include "../glue.h"
