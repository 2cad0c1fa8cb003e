// One L2 ascent step: x_adv + step_size * grad / |grad|_2, projected on the eps-ball around x, then on the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct L2Step {
  BallStepArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto g = row.ahead(static_cast<const T*>(a.grad)), v = row.ahead(static_cast<const T*>(a.x_adv)),
               x = row.ahead(static_cast<const T*>(a.x));
    const auto grad = hold_gradient<L2>(row, g, a.nonfinite);
    ball_step<L2, T>(row, a, v, x, L2::norm(grad.sum), false, [](auto d) { return d; }, grad.values);
  }
};

Status l2_step(const Launch& launch, const BallStepArgs& args) { return for_rows<L2Step, 1>(launch, args); }

}  // namespace fastadv
