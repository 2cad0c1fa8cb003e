// One ascent step to few changed entries: x_adv + step_size * grad / |grad|_2, of whose way from x the largest entries are left.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct L0Step {
  SparseStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto g = row.ahead(static_cast<const T*>(a.grad)), v = row.ahead(static_cast<const T*>(a.x_adv)),
               x = row.ahead(static_cast<const T*>(a.x));
    const auto grad = hold_gradient<L2>(row, g, a.nonfinite);
    const C scale = pace(at<C>(a.step_size, row.index), L2::norm(grad.sum));
    const auto delta = row.template hold<0>([=](C before, C origin, C d) { return before + scale * d - origin; }, v, x,
                                            grad.values);
    using Number = typename Row::Number;
    const auto number = logical<Row>(a.channels, row.cols);
    const int64_t keep = whole(at<C>(a.eps, row.index), row.cols);
    Largest<C> chosen{largest<C>(), 0};
    if (keep > 0) chosen = select_largest(row, keep, [](C d) { return magnitude(d); }, number, delta);
    const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    row.map(static_cast<T*>(a.x_adv), [=](C d, Number i, C origin) {
      return clamp(origin + (d != d || chosen.holds(magnitude(d), number(i)) ? d : C(0)), lo, hi);
    }, delta, Indices{}, x);
  }
};

Status l0_step(const Launch& launch, const SparseStepArgs& args) { return for_rows<L0Step, 1>(launch, args); }

}  // namespace fastadv
