// Compiles every op for the CPU.
#include "../ops/all.h"
