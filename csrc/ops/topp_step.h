// DRA's step: along the gradient's largest entries only, bounded in L1, then the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct ToppStep {
  ToppStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto all = row.ahead(static_cast<const T*>(a.grad)), v = row.ahead(static_cast<const T*>(a.x_adv)),
               x = row.ahead(static_cast<const T*>(a.x));
    const auto grad = hold_gradient<L1>(row, all, a.nonfinite);
    const auto& g = grad.values;
    using Number = typename Row::Number;
    const auto number = logical<Row>(a.channels, row.cols);
    const auto chosen = select_largest(row, a.keep, [](C v) { return magnitude(v); }, number, g);
    const bool untied = chosen.last == row.cols;  // as nearly always
    const auto pick = [=](C d, Number i) {
      const C m = magnitude(d);
      return m > chosen.threshold || (m == chosen.threshold && (untied || number(i) < chosen.last)) ? d : C(0);
    };
    const auto kept = [=](C d, Number i) { return magnitude(pick(d, i)); };
    const double length = a.renormalise ? row.sum(kept, g, Indices{}) : grad.sum;
    ball_step<L1, T>(row, a, v, x, length, a.simplex, pick, g, Indices{});
  }
};

Status topp_step(const Launch& launch, const ToppStepArgs& args) { return for_rows<ToppStep, 1>(launch, args); }

}  // namespace fastadv
