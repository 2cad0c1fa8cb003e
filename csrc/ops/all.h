// Every op. Included once by each device's kernel file, and nowhere else.
#pragma once

#include "cutoff_scale.h"
#include "linf_step.h"
#include "random_start.h"
#include "row_norms.h"
