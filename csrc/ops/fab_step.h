// FAB's step: x_adv and x go to the linearised boundary, each a little beyond, and x_adv to a mean of the two.
#pragma once

#include "hyperplane.h"

namespace fastadv {

template <class T>
struct FabStep {
  FabStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    T* x_adv = static_cast<T*>(a.x_adv);
    const auto normal = row.ahead(static_cast<const T*>(a.normal));
    const T *here = x_adv, *x = static_cast<const T*>(a.x);
    if (row.count([](C v) { return !is_finite(v); }, normal) > 0) row.flag(a.nonfinite);
    const double lead = static_cast<double>(at<C>(a.lead, row.index));
    if (lead != lead) return row.flag(a.nonfinite);
    const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi), eta = static_cast<C>(a.eta);
    const auto w = row.template hold<0>([](C v) { return finite(v); }, normal);
    const double way = row.sum([](C v, C h, C o) {
      return static_cast<double>(v) * (static_cast<double>(h) - static_cast<double>(o));
    }, w, here, x);
    const auto from_here = move_to_hyperplane(row, a.norm, w, here, -lead, lo, hi);
    const auto from_x = move_to_hyperplane(row, a.norm, w, x, way - lead, lo, hi);
    const C near = static_cast<C>(norm_of(row, a.norm, [=](C v, C p) { return load(narrow<T>(from_here(v, p))); }, w, here));
    const C far = static_cast<C>(norm_of(row, a.norm, [=](C v, C p) { return load(narrow<T>(from_x(v, p))); }, w, x));
    const C most = static_cast<C>(a.alpha_max), part = near / (near + far);
    const C share = part == part ? (part < most ? part : most) : C(0);
    row.map(x_adv, [=](C v, C h, C o) {
      const C end = h + eta * load(narrow<T>(from_here(v, h))), start = o + eta * load(narrow<T>(from_x(v, o)));
      return clamp((1 - share) * end + share * start, lo, hi);
    }, w, here, x);
  }
};

Status fab_step(const Launch& launch, const FabStepArgs& args) { return for_rows<FabStep, 1>(launch, args); }

}  // namespace fastadv
