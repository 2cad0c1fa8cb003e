// One bisection of every segment [inner, outer]: the half whose ends differ stays, and its middle is the next point.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct BisectStep {
  BisectStepArgs a;

  FASTADV_FN void operator()(const Row<T>& row) const {
    if (a.active && !a.active[row.index]) return;
    using C = compute_t<T>;
    const bool inside = a.inside[row.index];
    T* middle = static_cast<T*>(a.middle);
    T* replaced = static_cast<T*>(inside ? a.inner : a.outer);
    const T* kept = static_cast<const T*>(inside ? a.outer : a.inner);
    row.map(replaced, [](C m) { return m; }, static_cast<const T*>(middle));
    row.sync();
    row.map(middle, [](C m, C k) { return (m + k) * C(0.5); }, static_cast<const T*>(middle), kept);
  }
};

Status bisect_step(const Launch& launch, const BisectStepArgs& args) { return for_each<BisectStep>(launch, args); }

}  // namespace fastadv
