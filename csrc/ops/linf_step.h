// One L-infinity ascent step: x_adv + step_size * sign(grad), projected on the eps-ball around x, then on the box.
#pragma once

#include "../loops.h"
#include "values.h"

namespace fastadv {

template <class T>
struct LinfStep {
  LinfStepArgs a;

  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    using C = compute_t<T>;
    const C step = at<C>(a.step_size, row.index), eps = at<C>(a.eps, row.index);
    const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    T* x_adv = static_cast<T*>(a.x_adv);
    if (eps != eps) {  // no budget is not an unlimited one: it shows as NaN
      row.map(x_adv, [=](C) { return eps; }, static_cast<const T*>(a.x));
      return;
    }
    row.map(
        x_adv,
        [=](C v, C g, C x) {
          const C delta = clamp(v + step * finite_sign(g) - x, -eps, eps);
          return clamp(x + delta, lo, hi);
        },
        static_cast<const T*>(x_adv), static_cast<const T*>(a.grad), static_cast<const T*>(a.x));
  }
};

Status linf_step(const Launch& launch, const LinfStepArgs& args) {
  return dispatch(launch.dtype, [&](auto* t) { return for_each(launch, LinfStep<std::decay_t<decltype(*t)>>{args}); });
}

}  // namespace fastadv
