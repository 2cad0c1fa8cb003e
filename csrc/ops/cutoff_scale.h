// Blind AT's cutoff and scale: x + rho * min(1, eps / norm) * (x_adv - x), from given norms of x_adv - x. Without eps,
// the cutoff is the mean of the norms, where those that are not finite count as 0.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct CutoffScale {
  CutoffScaleArgs a;
  compute_t<T> mean = 0;

  FASTADV_FN void prepare(const Row<T>& batch) {
    using C = compute_t<T>;
    if (a.eps.data) return;
    const double sum = batch.sum([](C v) { return finite(v); }, static_cast<const C*>(a.norms.data));
    mean = static_cast<C>(sum / static_cast<double>(batch.cols));
  }

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    using C = compute_t<T>;
    const C norm = at<C>(a.norms, row.index), eps = a.eps.data ? at<C>(a.eps, row.index) : mean;
    const C cut = norm <= eps ? C(1) : eps / norm;  // NaN where eps is, to be seen
    const C factor = is_finite(norm) ? static_cast<C>(a.rho) * cut : C(0);
    T* x_adv = static_cast<T*>(a.x_adv);
    const T* x = static_cast<const T*>(a.x);
    if (factor == C(1)) return;  // nothing to cut: the row keeps its bits
    if (factor == C(0)) {        // also where x_adv is NaN or infinite
      row.map(x_adv, [](C origin) { return origin; }, x);
      return;
    }
    row.map(x_adv, [=](C v, C origin) { return origin + factor * (v - origin); }, static_cast<const T*>(x_adv), x);
  }
};

Status cutoff_scale(const Launch& launch, const CutoffScaleArgs& args) { return for_each<CutoffScale>(launch, args); }

}  // namespace fastadv
