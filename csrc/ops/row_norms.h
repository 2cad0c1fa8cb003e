// The L1, L2, L-infinity or RMS norm of every sample, or of its distance to another one.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct RowNorms {
  RowNormsArgs a;
  using C = compute_t<T>;

  FASTADV_FN void operator()(const Row<T>& row) const {
    const T* x = static_cast<const T*>(a.x);
    const T* origin = static_cast<const T*>(a.origin);
    const double norm = origin ? of(row, [](C v, C o) { return v - o; }, x, origin) : of(row, [](C v) { return v; }, x);
    row.store(static_cast<C*>(a.norms), norm);
  }

 private:
  template <class Difference, class... In>
  FASTADV_FN double of(const Row<T>& row, Difference d, const In*... in) const {
    if (a.norm == Norm::l1) return row.sum([=](auto... v) { return magnitude(d(v...)); }, in...);
    if (a.norm == Norm::linf) return row.max([=](auto... v) { return magnitude(d(v...)); }, in...);
    const double squares = row.sum([=](auto... v) {
      const double value = static_cast<double>(static_cast<C>(d(v...)));
      return value * value;
    }, in...);
    if (a.norm == Norm::l2) return sqrt(squares);
    return row.cols ? sqrt(squares / static_cast<double>(row.cols)) : 0.0;
  }
};

Status row_norms(const Launch& launch, const RowNormsArgs& args) { return for_rows<RowNorms>(launch, args); }

}  // namespace fastadv
