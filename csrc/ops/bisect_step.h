// One bisection of every segment [inner, outer]: the half whose ends differ stays, and its middle is the next point.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct BisectStep {
  BisectStepArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    using C = compute_t<T>;
    const bool inside = a.inside[row.index];
    T* middle = static_cast<T*>(a.middle);
    T* replaced = static_cast<T*>(inside ? a.inner : a.outer);
    const auto m = row.ahead(static_cast<const T*>(middle)), k = row.ahead(static_cast<const T*>(inside ? a.outer : a.inner));
    row.map(replaced, [](C v) { return v; }, m);
    row.map(middle, [](C v, C kept) { return (v + kept) * C(0.5); }, m, k);
  }
};

Status bisect_step(const Launch& launch, const BisectStepArgs& args) { return for_each<BisectStep>(launch, args); }

}  // namespace fastadv
