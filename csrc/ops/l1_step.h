// One L1 ascent step: x_adv + step_size * grad / |grad|_1, projected on the eps-ball around x, then on the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct L1Step {
  BallStepArgs a;

  FASTADV_FN void operator()(const Row<T>& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto grad = hold_gradient<L1>(row, static_cast<const T*>(a.grad));
    ball_step<L1>(row, a, L1::norm(grad.sum), grad.values, true);
  }
};

Status l1_step(const Launch& launch, const BallStepArgs& args) { return for_rows<L1Step, 1>(launch, args); }

}  // namespace fastadv
