// Auto-PGD's step: one of PGD's, and from where x_adv stands to a mean of that point and of where it has come from.
#pragma once

#include "rows.h"

namespace fastadv {

// The mean of the two, in the order in which the authors add it up; `rest` is 1 - share.
template <class C>
FASTADV_FN C mixed(C here, C point, C before, C share, C rest) {
  return here + share * (point - here) + rest * (here - before);
}

template <class T>
struct ApgdStep {
  ApgdStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (step(row)) row.flag(a.nonfinite);
  }

 private:
  // Whether an entry of the gradient that this thread saw was not finite.
  template <class Row>
  FASTADV_FN bool step(const Row& row) const {
    T* next = static_cast<T*>(a.previous);
    const T *before = next, *here = static_cast<const T*>(a.x_adv), *grad = static_cast<const T*>(a.grad);
    const T* x = static_cast<const T*>(a.x);
    if (a.active && !a.active[row.index]) {
      row.map(next, [](C h) { return h; }, here);
      return false;
    }
    const C pace = at<C>(a.step_size, row.index), eps = at<C>(a.eps, row.index);
    const C share = static_cast<C>(a.share), rest = static_cast<C>(1 - a.share);
    const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    if (eps != eps) return row.map_any(next, [=](C) { return eps; }, [](C g) { return !is_finite(g); }, grad);
    const auto within = [=](C v, C origin) { return clamp(origin + clamp(v - origin, -eps, eps), lo, hi); };
    const auto pgd = [=](C h, C g, C origin) { return within(h + pace * finite_sign(g), origin); };
    if (rest == 0) return row.map_any(next, pgd, [](C, C g, C) { return !is_finite(g); }, here, grad, x);
    return row.map_any(next, [=](C h, C b, C g, C origin) {
      return within(mixed(h, load(narrow<T>(pgd(h, g, origin))), b, share, rest), origin);
    }, [](C, C, C g, C) { return !is_finite(g); }, here, before, grad, x);
  }
};

template <class T>
struct ApgdL2Step {
  ApgdStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    T* next = static_cast<T*>(a.previous);
    const auto here = row.ahead(static_cast<const T*>(a.x_adv));
    if (a.active && !a.active[row.index]) return row.map(next, [](C h) { return h; }, here);
    const auto g = row.ahead(static_cast<const T*>(a.grad)), before = row.ahead(static_cast<const T*>(a.previous)),
               x = row.ahead(static_cast<const T*>(a.x));
    const C eps = at<C>(a.eps, row.index), share = static_cast<C>(a.share), rest = static_cast<C>(1 - a.share);
    const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    const auto grad = hold_gradient<L2>(row, g, a.nonfinite);
    const C scale = pace(at<C>(a.step_size, row.index), L2::norm(grad.sum));
    const auto step = row.template hold_sum<0>([=](C h, C d, C origin) { return h + scale * d - origin; }, L2{}, here,
                                               grad.values, x);
    const double length = L2::norm(step.sum);
    if (rest == 0) return write_radial(row, next, x, step.values, length, eps, lo, hi);
    const C shrunk = radial_factor(length, eps);
    const auto delta = row.template hold_sum<1>([=](C h, C b, C d, C origin) {
      const C point = load(narrow<T>(clamp(origin + shrunk * d, lo, hi)));
      return mixed(h, point, b, share, rest) - origin;
    }, L2{}, here, before, step.values, x);
    write_radial(row, next, x, delta.values, L2::norm(delta.sum), eps, lo, hi);
  }
};

Status apgd_step(const Launch& launch, const ApgdStepArgs& args) {
  return args.l2 ? for_rows<ApgdL2Step, 2>(launch, args) : for_each<ApgdStep>(launch, args);
}

}  // namespace fastadv
