// The shortest way from a point to a hyperplane that stays in the box, in L-infinity, L2 or L1 (FAB, Croce and Hein).
//
// Every coordinate can only help by moving one way, by at most its room in the box. How far each moves depends on one
// number: all alike up to lambda (L-infinity), in proportion to their weight (L2), or those of most weight first (L1). In
// the first two, what the hyperplane asks for is a concave piecewise-linear function of lambda, and Newton's method from 0
// reaches the root exactly after a few pieces; in the last the weight is found bit by bit. No sorting.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct HyperplaneProjection {
  HyperplaneProjectionArgs a;
  using C = compute_t<T>;

  FASTADV_FN void operator()(const Row<T>& row) const {
    const T* x = static_cast<const T*>(a.x);
    T* out = static_cast<T*>(a.out);
    const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    const auto plain = row.template hold<0>([](C w) { return finite(w); }, static_cast<const T*>(a.normal));
    const double gap = static_cast<double>(at<C>(a.offset, row.index)) -
                       row.sum([](C w, C v) { return static_cast<double>(w) * static_cast<double>(v); }, plain, x);
    if (gap != gap) {
      row.map(out, [=](C) { return static_cast<C>(gap); }, x);
      return;
    }
    const C side = gap < 0 ? C(-1) : C(1);
    const double distance = gap < 0 ? -gap : gap;
    // w points where the coordinate has to go; room is how far it can.
    const auto w = row.template hold<0>([=](C v) { return side * v; }, plain);
    const auto room = row.template hold<1>([=](C v, C p) {
      const C left = v > 0 ? hi - p : p - lo;
      return left > 0 ? left : C(0);
    }, w, x);
    const double reach = row.sum([](C v, C r) { return gain(v, r); }, w, room);
    if (reach <= distance) {  // out of reach, or just within: everything moves as far as it can
      row.map(out, [](C v, C r) { return finite_sign(v) * r; }, w, room);
    } else if (a.norm == Norm::l1) {
      by_weight(row, out, distance, w, room);
    } else {
      const bool l2 = a.norm == Norm::l2;
      const double lambda = newton(row, distance, l2, w, room);
      row.map(out, [=](C v, C r) {
        const C move = static_cast<C>(l2 ? lambda * static_cast<double>(magnitude(v)) : lambda);
        return finite_sign(v) * (move < r ? move : r);
      }, w, room);
    }
  }

 private:
  // What a coordinate contributes when it moves by r.
  FASTADV_FN static double gain(C w, C r) { return static_cast<double>(magnitude(w)) * static_cast<double>(r); }

  template <class W, class R>
  FASTADV_FN static double newton(const Row<T>& row, double distance, bool l2, const W& w, const R& room) {
    double lambda = 0;
    for (;;) {
      const Two sums = row.sum2([=](C v, C r) {  // of those at their limit; the slope of the others
        const double weight = static_cast<double>(magnitude(v));
        const bool full = (l2 ? lambda * weight : lambda) >= static_cast<double>(r);
        return Two{full ? gain(v, r) : 0.0, full ? 0.0 : (l2 ? weight * weight : weight)};
      }, w, room);
      const double next = (distance - sums.a) / sums.b;
      if (!(next > lambda)) return lambda;
      lambda = next;
    }
  }

  template <class W, class R>
  FASTADV_FN static void by_weight(const Row<T>& row, T* out, double distance, const W& w, const R& room) {
    using Bits = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;
    Bits found = 0;
    for (int bit = int(sizeof(C)) * 8 - 2; bit >= 0; --bit) {
      const Bits tried = found | Bits(1) << bit;
      const C candidate = bits_as<C>(tried);
      if (row.sum([=](C v, C r) { return magnitude(v) >= candidate ? gain(v, r) : 0.0; }, w, room) >= distance)
        found = tried;
    }
    const C threshold = bits_as<C>(found);
    const Two sums = row.sum2([=](C v, C r) {  // of those above the threshold; of those at it, which share the rest
      return Two{magnitude(v) > threshold ? gain(v, r) : 0.0, magnitude(v) == threshold ? gain(v, r) : 0.0};
    }, w, room);
    const C share = static_cast<C>((distance - sums.a) / sums.b);
    row.map(out, [=](C v, C r) {
      const C part = magnitude(v) > threshold ? r : magnitude(v) == threshold ? share * r : C(0);
      return finite_sign(v) * part;
    }, w, room);
  }
};

Status hyperplane_projection(const Launch& launch, const HyperplaneProjectionArgs& args) {
  return for_rows<HyperplaneProjection, 2>(launch, args);
}

}  // namespace fastadv
