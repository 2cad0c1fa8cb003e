// One L-infinity ascent step: x_adv + step_size * sign(grad), projected on the eps-ball around x, then on the box. With a
// momentum buffer, the sign is that of momentum <- decay * momentum + grad / mean |grad|.
#pragma once

#include "rows.h"

namespace fastadv {

// The step itself; `direction` is the gradient or the momentum.
template <class T>
FASTADV_FN void sign_step(const Row<T>& row, const LinfStepArgs& a, const T* direction) {
  using C = compute_t<T>;
  const C step = at<C>(a.step_size, row.index), eps = at<C>(a.eps, row.index);
  const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
  T* x_adv = static_cast<T*>(a.x_adv);
  const T* x = static_cast<const T*>(a.x);
  if (eps != eps) {  // no budget is not an unlimited one: it shows as NaN
    row.map(x_adv, [=](C) { return eps; }, x);
    return;
  }
  row.map(x_adv, [=](C v, C g, C origin) {
    const C delta = clamp(v + step * finite_sign(g) - origin, -eps, eps);
    return clamp(origin + delta, lo, hi);
  }, static_cast<const T*>(x_adv), direction, x);
}

template <class T>
struct LinfStep {
  LinfStepArgs a;

  FASTADV_FN void operator()(const Row<T>& row) const {
    if (a.active && !a.active[row.index]) return;
    sign_step(row, a, static_cast<const T*>(a.grad));
  }
};

template <class T>
struct MomentumStep {
  LinfStepArgs a;

  FASTADV_FN void operator()(const Row<T>& row) const {
    if (a.active && !a.active[row.index]) return;
    using C = compute_t<T>;
    const C decay = static_cast<C>(a.decay);
    T* momentum = static_cast<T*>(a.momentum);
    const auto grad = hold_gradient<L1>(row, static_cast<const T*>(a.grad));
    const C scale = pace(static_cast<C>(row.cols), grad.sum);
    row.map(momentum, [=](C m, C g) { return decay * m + scale * g; }, static_cast<const T*>(momentum), grad.values);
    row.sync();
    sign_step(row, a, static_cast<const T*>(momentum));
  }
};

Status linf_step(const Launch& launch, const LinfStepArgs& args) {
  return args.momentum ? for_rows<MomentumStep, 1>(launch, args) : for_each<LinfStep>(launch, args);
}

}  // namespace fastadv
