// One L1 ascent step: x_adv + step_size * grad / |grad|_1, projected on the eps-ball around x, then on the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct L1Step {
  BallStepArgs a;

  FASTADV_FN void operator()(const Row<T>& row) const {
    if (a.active && !a.active[row.index]) return;
    using C = compute_t<T>;
    T* x_adv = static_cast<T*>(a.x_adv);
    const T* x = static_cast<const T*>(a.x);
    const auto grad = hold_gradient<L1>(row, static_cast<const T*>(a.grad));
    const C scale = pace(at<C>(a.step_size, row.index), grad.sum);
    const auto delta = hold_moved<L1>(row, static_cast<const T*>(x_adv), x, scale, grad.values);
    write_simplex(row, x_adv, x, delta.values, delta.sum, at<C>(a.eps, row.index), static_cast<C>(a.lo),
                  static_cast<C>(a.hi));
  }
};

Status l1_step(const Launch& launch, const BallStepArgs& args) { return for_rows<L1Step, 1>(launch, args); }

}  // namespace fastadv
