// One L1 ascent step: x_adv + step_size * grad / |grad|_1, projected on the eps-ball around x, then on the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct L1Step {
  BallStepArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto g = row.ahead(static_cast<const T*>(a.grad)), v = row.ahead(static_cast<const T*>(a.x_adv)),
               x = row.ahead(static_cast<const T*>(a.x));
    const auto grad = hold_gradient<L1>(row, g, a.nonfinite);
    ball_step<L1, T>(row, a, v, x, L1::norm(grad.sum), true, [](auto d) { return d; }, grad.values);
  }
};

Status l1_step(const Launch& launch, const BallStepArgs& args) { return for_rows<L1Step, 1>(launch, args); }

}  // namespace fastadv
