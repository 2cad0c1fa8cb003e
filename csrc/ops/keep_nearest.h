// The nearest adversarial point so far: x_adv where it is fooled and nearer to x than the last.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct KeepNearest {
  KeepNearestArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (!a.fooled[row.index] || (a.active && !a.active[row.index])) return;
    const auto x_adv = row.ahead(static_cast<const T*>(a.x_adv));
    C* sizes = static_cast<C*>(a.size);
    const C size = static_cast<C>(norm_of(row, a.norm, [](C v, C o) { return v - o; }, x_adv, static_cast<const T*>(a.x)));
    if (!(size < sizes[row.index])) return;
    row.sync();  // everyone has read the size
    row.store(sizes, static_cast<double>(size));
    row.map(static_cast<T*>(a.best), [](C v) { return v; }, x_adv);
  }
};

Status keep_nearest(const Launch& launch, const KeepNearestArgs& args) { return for_rows<KeepNearest>(launch, args); }

}  // namespace fastadv
