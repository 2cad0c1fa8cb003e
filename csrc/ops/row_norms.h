// The L1, L2, L-infinity or RMS norm of every sample, or of its distance to another one.
#pragma once

#include "../loops.h"

namespace fastadv {

template <class T>
struct RowNorms {
  RowNormsArgs a;

  FASTADV_FN void operator()(const Row& row) const {
    using C = compute_t<T>;
    const T* x = static_cast<const T*>(a.x);
    const T* origin = static_cast<const T*>(a.origin);
    const double norm = origin ? of(row, [](C v, C o) { return v - o; }, x, origin) : of(row, [](C v) { return v; }, x);
    row.store(static_cast<C*>(a.norms), norm);
  }

  template <class Difference, class... In>
  FASTADV_FN double of(const Row& row, Difference d, const In*... in) const {
    using C = compute_t<T>;
    switch (a.norm) {
      case Norm::l1:
        return row.sum([=](auto... v) { return magnitude(d(v...)); }, in...);
      case Norm::linf:
        return row.max([=](auto... v) { return magnitude(d(v...)); }, in...);
      default:
        break;
    }
    const double squares = row.sum(
        [=](auto... v) {
          const double value = static_cast<double>(static_cast<C>(d(v...)));
          return value * value;
        },
        in...);
    if (a.norm == Norm::l2) return sqrt(squares);
    return row.cols ? sqrt(squares / static_cast<double>(row.cols)) : 0.0;
  }

  template <class C>
  FASTADV_FN static C magnitude(C v) {
    return v < 0 ? -v : v;
  }
};

Status row_norms(const Launch& launch, const RowNormsArgs& args) {
  return dispatch(launch.dtype, [&](auto* t) { return for_rows(launch, RowNorms<std::decay_t<decltype(*t)>>{args}); });
}

}  // namespace fastadv
