// The shortest way from a point to a hyperplane that stays in the box, in L-infinity, L2 or L1 (FAB, Croce and Hein).
#pragma once

#include "hyperplane.h"

namespace fastadv {

template <class T>
struct HyperplaneProjection {
  HyperplaneProjectionArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    const auto normal = row.ahead(static_cast<const T*>(a.normal)), x = row.ahead(static_cast<const T*>(a.x));
    T* out = static_cast<T*>(a.out);
    const auto w = row.template hold<0>([](C v) { return finite(v); }, normal);
    const double gap = static_cast<double>(at<C>(a.offset, row.index)) -
                       row.sum([](C v, C p) { return static_cast<double>(v) * static_cast<double>(p); }, w, x);
    if (gap != gap) return row.map(out, [=](C) { return static_cast<C>(gap); }, x);
    row.map(out, move_to_hyperplane(row, a.norm, w, x, gap, static_cast<C>(a.lo), static_cast<C>(a.hi)), w, x);
  }
};

Status hyperplane_projection(const Launch& launch, const HyperplaneProjectionArgs& args) {
  return for_rows<HyperplaneProjection, 1>(launch, args);
}

}  // namespace fastadv
