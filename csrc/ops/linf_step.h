// One L-infinity ascent step: x_adv + step_size * sign(grad), projected on the eps-ball around x, then on the box. With a
// momentum buffer, the sign is that of momentum <- decay * momentum + grad / mean |grad|.
#pragma once

#include "rows.h"

namespace fastadv {

// The step itself; `direction` is the gradient or the momentum. Whether an entry of it that this thread saw was not finite.
template <class T, class Row, class V, class X>
FASTADV_FN bool sign_step(const Row& row, const LinfStepArgs& a, const T* direction, const V& v, const X& x) {
  using C = compute_t<T>;
  const C step = at<C>(a.step_size, row.index), eps = at<C>(a.eps, row.index);
  const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
  T* x_adv = static_cast<T*>(a.x_adv);
  if (eps != eps) {  // no budget is not an unlimited one: it shows as NaN
    return row.map_any(x_adv, [=](C, C) { return eps; }, [](C, C g) { return !is_finite(g); }, x, direction);
  }
  return row.map_any(x_adv, [=](C from, C g, C origin) {
    const C delta = clamp(from + step * finite_sign(g) - origin, -eps, eps);
    return clamp(origin + delta, lo, hi);
  }, [](C, C g, C) { return !is_finite(g); }, v, direction, x);
}

template <class T>
struct LinfStep {
  LinfStepArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const T *grad = static_cast<const T*>(a.grad), *v = static_cast<const T*>(a.x_adv), *x = static_cast<const T*>(a.x);
    if (sign_step(row, a, grad, v, x)) row.flag(a.nonfinite);
  }
};

template <class T>
struct MomentumStep {
  LinfStepArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    using C = compute_t<T>;
    const C decay = static_cast<C>(a.decay);
    T* momentum = static_cast<T*>(a.momentum);
    const auto g = row.ahead(static_cast<const T*>(a.grad)), before = row.ahead(static_cast<const T*>(momentum)),
               v = row.ahead(static_cast<const T*>(a.x_adv)), x = row.ahead(static_cast<const T*>(a.x));
    const auto grad = hold_gradient<L1>(row, g, a.nonfinite);
    const C scale = pace(static_cast<C>(row.cols), grad.sum);
    row.map(momentum, [=](C m, C d) { return decay * m + scale * d; }, before, grad.values);
    sign_step(row, a, static_cast<const T*>(momentum), v, x);
  }
};

Status linf_step(const Launch& launch, const LinfStepArgs& args) {
  return args.momentum ? for_rows<MomentumStep, 1>(launch, args) : for_each<LinfStep>(launch, args);
}

}  // namespace fastadv
