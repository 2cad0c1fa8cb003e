// DRA's step: along the gradient's largest entries only, bounded in L1, then the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct ToppStep {
  ToppStepArgs a;
  using C = compute_t<T>;

  FASTADV_FN void operator()(const Row<T>& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto grad = hold_gradient<L1>(row, static_cast<const T*>(a.grad));
    const auto& g = grad.values;
    const int64_t channels = a.channels, plane = row.cols / channels;
    // The number in logical order, from the place in memory, where the channels may lie innermost.
    const auto number = [=](int64_t i) { return channels == 1 ? i : i % channels * plane + i / channels; };
    const auto chosen = select_largest(row, a.keep, [](C v) { return magnitude(v); }, number, g);
    if (chosen.last == row.cols) {  // as nearly always: no ties to break
      step(row, grad.sum, row.template hold_sum<0>(
          [=](C v) { return magnitude(v) >= chosen.threshold ? v : C(0); }, L1{}, g));
    } else {
      step(row, grad.sum, row.template hold_sum<0>(
          [=](C v, int64_t i) { return chosen.holds(magnitude(v), number(i)) ? v : C(0); }, L1{}, g, Indices{}));
    }
  }

 private:
  template <class Kept>
  FASTADV_FN void step(const Row<T>& row, double all, const Kept& kept) const {
    ball_step<L1>(row, a, a.renormalise ? kept.sum : all, kept.values, a.simplex);
  }
};

Status topp_step(const Launch& launch, const ToppStepArgs& args) { return for_rows<ToppStep, 1>(launch, args); }

}  // namespace fastadv
