// Auto-PGD's step in L1: along the signs of the gradient's largest entries, then to the nearest point of ball and box.
#pragma once

#include "rows.h"

namespace fastadv {

// How far the magnitudes |d|, each within its room in the box, are to be reduced so that they sum up to eps at most.
//
// Their sum falls with theta, piecewise linearly. Newton's method finds the root on the piece that it has come to; every
// other guess is the middle of what is left, since the pieces are neither convex nor concave.
template <class Row, class Delta, class Room, class X>
FASTADV_FN double reduction(const Row& row, const Delta& delta, Room room, const X& x, double eps) {
  using C = typename Row::C;
  double theta = 0, low = 0, high = -1;
  for (bool newton = true;; newton = !newton) {
    const Two sums = row.sum2([=](C d, C origin) {
      const double size = static_cast<double>(magnitude(d)), most = static_cast<double>(room(d, origin));
      const double left = size - theta;
      return Two{left <= 0 ? 0.0 : left < most ? left : most, left > 0 && left <= most ? 1.0 : 0.0};
    }, delta, x);
    const double excess = sums.a - eps;
    if (theta == 0) {
      if (!(excess > 0)) return 0;
      high = row.max([](C d) { return magnitude(d); }, delta);
    }
    (excess > 0 ? low : high) = theta;
    const double middle = low + (high - low) / 2, guess = sums.b > 0 ? theta + excess / sums.b : middle;
    // A step that the result does not show is the last: on its piece the guess is the root.
    if (sums.b > 0 && static_cast<C>(guess) == static_cast<C>(theta)) return guess;
    const double next = newton && guess > low && guess < high ? guess : middle;
    if (!(next > low && next < high)) return high;
    theta = next;
  }
}

template <class T>
struct SparseL1Step {
  SparseStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if ((a.active && !a.active[row.index]) || row.cols == 0) return;
    const T *v = static_cast<const T*>(a.x_adv), *x = static_cast<const T*>(a.x);
    const auto grad = hold_gradient<L1>(row, row.ahead(static_cast<const T*>(a.grad)), a.nonfinite);
    using Number = typename Row::Number;
    const auto number = logical<Row>(a.channels, row.cols);
    const C count = at<C>(a.entries, row.index);
    const int64_t asked = whole(std::ceil(count), row.cols), keep = asked > 1 ? asked : 1;
    const auto chosen = select_largest(row, keep, [](C d) { return magnitude(d); }, number, grad.values);
    const auto sign = row.template hold<0>([=](C d, Number i) {
      return chosen.holds(magnitude(d), number(i)) ? finite_sign(d) : C(0);
    }, grad.values, Indices{});
    const int64_t moving = row.count([](C s) { return s != 0; }, sign);
    const C each = at<C>(a.step_size, row.index) / static_cast<C>(moving > 1 ? moving : 1);
    const auto delta = row.template hold<0>([=](C before, C origin, C s) { return before + each * s - origin; }, v, x, sign);
    const C lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    const auto room = [=](C d, C origin) {
      const C left = d > 0 ? hi - origin : origin - lo;
      return left > 0 ? left : C(0);
    };
    const double eps = static_cast<double>(at<C>(a.eps, row.index));  // 0 leaves nothing, whatever theta is rounded to
    const C theta = eps > 0 ? static_cast<C>(reduction(row, delta, room, x, eps)) : std::numeric_limits<C>::infinity();
    row.map(static_cast<T*>(a.x_adv), [=](C d, C origin) {
      const C left = magnitude(d) - theta, most = room(d, origin);
      return clamp(origin + (d == d ? finite_sign(d) * (left <= 0 ? C(0) : left < most ? left : most) : d), lo, hi);
    }, delta, x);
  }
};

Status sparse_l1_step(const Launch& launch, const SparseStepArgs& args) {
  return for_rows<SparseL1Step, 1>(launch, args);
}

}  // namespace fastadv
