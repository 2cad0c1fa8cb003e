// One L2 ascent step: x_adv + step_size * grad / |grad|_2, projected on the eps-ball around x, then on the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct L2Step {
  BallStepArgs a;

  FASTADV_FN void operator()(const Row<T>& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto grad = hold_gradient<L2>(row, static_cast<const T*>(a.grad));
    ball_step<L2>(row, a, L2::norm(grad.sum), grad.values, false);
  }
};

Status l2_step(const Launch& launch, const BallStepArgs& args) { return for_rows<L2Step, 1>(launch, args); }

}  // namespace fastadv
