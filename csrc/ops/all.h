// Every op. Included once by each device's kernel file, and nowhere else.
#pragma once

#include "adversarial_labels.h"
#include "bisect_step.h"
#include "cutoff_scale.h"
#include "deepfool_step.h"
#include "early_stop.h"
#include "hyperplane_projection.h"
#include "l1_step.h"
#include "l2_step.h"
#include "linf_step.h"
#include "random_start.h"
#include "row_norms.h"
#include "topp_step.h"
#include "wrong_class_target.h"
