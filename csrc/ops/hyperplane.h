// Ways to a hyperplane that stay in the box.
//
// Every coordinate can only help by moving one way, by at most its room in the box. How far each moves depends on one
// number: all alike up to lambda (L-infinity), in proportion to their weight (L2), or those of most weight first (L1). In
// the first two, what the hyperplane asks for is a concave piecewise-linear function of lambda, and Newton's method from 0
// reaches the root exactly after a few pieces; in the last the weight is found bit by bit. No sorting.
#pragma once

#include "rows.h"

namespace fastadv {

// How far a coordinate goes for every unit of lambda: by its weight in L2, by 1 in L-infinity. Without a branch, so that
// loops vectorise.
FASTADV_FN double speed(Norm norm, double weight) {
  const double l2 = norm == Norm::l2 ? 1.0 : 0.0;
  return l2 * weight + (1.0 - l2);
}

// How far a coordinate with the hyperplane's weight w goes from p.
template <class C>
struct Move {
  Norm norm;
  C lo, hi, side;  // of the hyperplane: 1 if the way leads along the normal, -1 if against it
  double lambda;       // L-infinity, L2; in L1 infinite
  C threshold, share;  // L1: of the weights; what those of the threshold go of their room. Otherwise below all weights

  FASTADV_FN C room(C w, C p) const {
    const C left = side * w > 0 ? hi - p : p - lo;
    return left > 0 ? left : C(0);
  }
  FASTADV_FN C operator()(C w, C p) const {
    const C weight = magnitude(w), most = room(w, p);
    const C even = static_cast<C>(lambda * speed(norm, static_cast<double>(weight)));
    const C heaviest = weight > threshold ? most : weight == threshold ? share * most : C(0);
    return finite_sign(side * w) * (even < heaviest ? even : heaviest);
  }
};

// What a coordinate contributes when it moves by r.
template <class C>
FASTADV_FN double gain(C w, C r) {
  return static_cast<double>(magnitude(w)) * static_cast<double>(r);
}

// The move from `point` to where the hyperplane with the normal `w`, without NaN and infinities, is `gap` higher.
template <class Row, class W, class Point, class C>
FASTADV_FN Move<C> move_to_hyperplane(const Row& row, Norm norm, const W& w, const Point& point, double gap, C lo, C hi) {
  // At first everything moves as far as it can.
  Move<C> move{norm, lo, hi, gap < 0 ? C(-1) : C(1), std::numeric_limits<double>::infinity(), C(-1), C(1)};
  const double distance = gap < 0 ? -gap : gap;
  const auto room = [=](C v, C p) { return move.room(v, p); };
  if (row.sum([=](C v, C p) { return gain(v, room(v, p)); }, w, point) <= distance) return move;  // or out of reach
  if (norm == Norm::l1) {
    using Bits = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;
    Bits found = 0;
    for (int bit = int(sizeof(C)) * 8 - 2; bit >= 0; --bit) {
      const Bits tried = found | Bits(1) << bit;
      const C candidate = bits_as<C>(tried);
      const auto heavy = [=](C v, C p) { return magnitude(v) >= candidate ? gain(v, room(v, p)) : 0.0; };
      if (row.sum(heavy, w, point) >= distance) found = tried;
    }
    const C threshold = move.threshold = bits_as<C>(found);
    const Two sums = row.sum2([=](C v, C p) {  // of those above the threshold; of those at it, which share the rest
      const double of = gain(v, room(v, p));
      return Two{magnitude(v) > threshold ? of : 0.0, magnitude(v) == threshold ? of : 0.0};
    }, w, point);
    move.share = static_cast<C>((distance - sums.a) / sums.b);
    return move;
  }
  for (double lambda = 0;;) {
    const Two sums = row.sum2([=](C v, C p) {  // of those at their limit; the slope of the others
      const double weight = static_cast<double>(magnitude(v)), most = static_cast<double>(room(v, p));
      const double even = speed(norm, weight);
      const bool full = lambda * even >= most;
      return Two{full ? weight * most : 0.0, full ? 0.0 : weight * even};
    }, w, point);
    const double next = (distance - sums.a) / sums.b;
    if (!(next > lambda)) {
      move.lambda = lambda;
      return move;
    }
    lambda = next;
  }
}

}  // namespace fastadv
