// Compiles every op for CUDA.
#define FASTADV_CUDA
#include "../ops/all.h"
