// The L1, L2, L-infinity or RMS norm of every sample, or of its distance to another one.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct RowNorms {
  RowNormsArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    const auto x = row.ahead(static_cast<const T*>(a.x));
    C* norms = static_cast<C*>(a.norms);
    if (a.origin) {
      const auto origin = row.ahead(static_cast<const T*>(a.origin));
      row.store(norms, norm_of(row, a.norm, [](C v, C o) { return v - o; }, x, origin));
    } else {
      row.store(norms, norm_of(row, a.norm, [](C v) { return v; }, x));
    }
  }
};

Status row_norms(const Launch& launch, const RowNormsArgs& args) { return for_rows<RowNorms>(launch, args); }

}  // namespace fastadv
