// Whether a point is better than the best so far: its loss is higher, or it is fooled, which ends the search for it.
#pragma once

#include "rows.h"

namespace fastadv {

// T is the type of the losses, a sample's one element.
template <class T>
struct Accept {
  AcceptArgs a;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    using C = compute_t<T>;
    T* best = static_cast<T*>(a.best);
    const T* loss = static_cast<const T*>(a.loss);
    const bool active = !a.active || a.active[row.index], fooled = a.fooled[row.index];
    const bool better = active && (fooled || load(loss[row.index]) > load(best[row.index]));
    row.sync();  // everyone has read the best
    row.store(a.better, static_cast<int64_t>(better));
    row.store(a.going, static_cast<int64_t>(active && !fooled));
    if (better) row.map(best, [](C value) { return value; }, loss);
  }
};

Status accept(const Launch& launch, const AcceptArgs& args) { return for_logits<Accept>(launch, args); }

}  // namespace fastadv
