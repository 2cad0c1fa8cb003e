// Compiles every op for the CPU, and the passes.
#include "../ops/all.h"
#include "stem_backward.h"
