// Arithmetic on whole rows that several ops share.
#pragma once

#include "../loops.h"
#include "values.h"

namespace fastadv {

// How an L1 or L2 norm is summed up.
struct L1 {
  template <class C>
  FASTADV_FN C operator()(C v) const {
    return magnitude(v);
  }
  FASTADV_FN static double norm(double sum) { return sum; }
};
struct L2 {
  template <class C>
  FASTADV_FN double operator()(C v) const {
    return static_cast<double>(v) * static_cast<double>(v);
  }
  FASTADV_FN static double norm(double sum) { return sqrt(sum); }
};

// A gradient as the steps use it, without NaN and infinities, and what its norm is made of.
template <class Norm, class T>
FASTADV_FN auto hold_gradient(const Row<T>& row, const T* grad) {
  return row.template hold_sum<0>([](compute_t<T> g) { return finite(g); }, Norm{}, grad);
}

// What a gradient is multiplied with to make a step of the given length; 0 where there is no direction. Bounded, so that a
// gradient that has all but vanished makes a shorter step and not NaN.
template <class C>
FASTADV_FN C pace(C step_size, double norm) {
  const double most = static_cast<double>(largest<C>());
  return norm > 0 ? static_cast<C>(clamp(static_cast<double>(step_size) / norm, -most, most)) : C(0);
}

// The `keep` largest of a row's non-negative values, equal ones by lowest number.
template <class C>
struct Largest {
  C threshold;   // at most the smallest chosen value
  int64_t last;  // numbers below it are chosen among values equal to the threshold
  FASTADV_FN bool holds(C v, int64_t number) const { return v > threshold || (v == threshold && number < last); }
};

// Finds them among measure(values...), below 0 for elements out of the question; `number(i)` numbers the elements.
//
// A threshold is found bit by bit from the highest (a radix select with digits of one bit): non-negative
// floats are ordered like their bit patterns, so each bit costs one count. It ends early when a pattern has exactly `keep`
// values at or above it, as happens where all differ.
template <class T, class Measure, class Number, class S>
FASTADV_FN auto select_largest(const Row<T>& row, int64_t keep, Measure measure, Number number, const S& source) {
  using C = compute_t<T>;
  using Bits = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;
  Bits found = 0;
  int64_t reach = row.cols;
  for (int bit = int(sizeof(C)) * 8 - 2; bit >= 0 && reach != keep; --bit) {
    const Bits tried = found | Bits(1) << bit;
    const C candidate = bits_as<C>(tried);
    const int64_t count = row.count([=](C v) { return measure(v) >= candidate; }, source);
    if (count < keep) continue;
    found = tried;
    reach = count;
  }
  Largest<C> chosen{bits_as<C>(found), row.cols};
  if (reach <= keep) return chosen;
  // More values equal the threshold than there is room for.
  const C threshold = chosen.threshold;
  const int64_t room = keep - row.count([=](C v) { return measure(v) > threshold; }, source);
  int64_t few = 0;  // fewer than `room` of them have a number below it
  while (chosen.last - few > 1) {
    const int64_t middle = few + (chosen.last - few) / 2;
    const int64_t below = row.count([=](C v, int64_t i) { return measure(v) == threshold && number(i) < middle; }, source,
                                    Indices{});
    (below < room ? few : chosen.last) = middle;
  }
  return chosen;
}

// x_adv <- clip(x + delta * min(1, eps / norm), lo, hi), norm that of delta. A NaN budget shows as NaN.
template <class T, class Delta, class C>
FASTADV_FN void write_radial(const Row<T>& row, T* x_adv, const T* x, const Delta& delta, double norm, C eps, C lo, C hi) {
  const C size = static_cast<C>(norm), factor = size <= eps ? C(1) : eps / size;
  row.map(x_adv, [=](C d, C origin) { return clamp(origin + factor * d, lo, hi); }, delta, x);
}

// x_adv <- clip(x + the point of the L1 ball of radius eps that is nearest to delta, lo, hi).
//
// That point is delta with every magnitude reduced by theta, but not below 0: theta solves sum max(|d| - theta, 0) = eps.
// Michelot's iteration (1986) raises theta to the value that the entries above it ask for until none drops out; no sorting.
template <class T, class Delta, class C>
FASTADV_FN void write_simplex(const Row<T>& row, T* x_adv, const T* x, const Delta& delta, double norm, C eps, C lo, C hi) {
  C theta = 0;
  if (!(static_cast<C>(norm) <= eps)) {
    if (eps == 0) theta = largest<C>();
    for (;;) {
      const double above = row.sum([=](C d) { return magnitude(d) > theta ? magnitude(d) : C(0); }, delta);
      const int64_t count = row.count([=](C d) { return magnitude(d) > theta; }, delta);
      const C next = static_cast<C>((above - static_cast<double>(eps)) / static_cast<double>(count));
      if (!(next > theta)) break;
      theta = next;
    }
    if (eps != eps) theta = eps;
  }
  row.map(x_adv, [=](C d, C origin) {
    const C shrunk = theta == theta ? d - clamp(d, -theta, theta) : theta;
    return clamp(origin + shrunk, lo, hi);
  }, delta, x);
}

// A step along `direction`, which is held in slot 0, in the ball of Norm: `length` is what the direction is divided by. Back into
// the ball by shrinking, or (`simplex`, in L1) to the nearest point.
template <class Norm, class T, class Args, class Direction>
FASTADV_FN void ball_step(const Row<T>& row, const Args& a, double length, const Direction& direction, bool simplex) {
  using C = compute_t<T>;
  T* x_adv = static_cast<T*>(a.x_adv);
  const T* x = static_cast<const T*>(a.x);
  const C scale = pace(at<C>(a.step_size, row.index), length);
  const auto delta = row.template hold_sum<0>([=](C v, C d, C origin) { return v + scale * d - origin; }, Norm{},
                                              static_cast<const T*>(x_adv), direction, x);
  const C eps = at<C>(a.eps, row.index), lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
  if (simplex) {
    write_simplex(row, x_adv, x, delta.values, Norm::norm(delta.sum), eps, lo, hi);
  } else {
    write_radial(row, x_adv, x, delta.values, Norm::norm(delta.sum), eps, lo, hi);
  }
}

}  // namespace fastadv
