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

// A gradient as the steps use it, without NaN and infinities, and what its norm is made of. Sets the row's flag where it
// has any.
template <class C>
struct Taken {
  bool cleaned;
  FASTADV_FN C operator()(C g) const { return cleaned ? finite(g) : g; }
};
template <class Norm, class Row, class G>
FASTADV_FN auto hold_gradient(const Row& row, const G& grad, bool* nonfinite) {
  using C = typename Row::C;
  const auto as_it_is = row.template hold_sum<0>(Taken<C>{false}, Norm{}, grad);
  if (is_finite(as_it_is.sum)) return as_it_is;  // as nearly always
  if (row.count([](C g) { return !is_finite(g); }, grad) > 0) row.flag(nonfinite);
  return row.template hold_sum<0>(Taken<C>{true}, Norm{}, grad);
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

// The number of an element in logical order, from its place in memory, where the channels may lie innermost.
template <class Row>
FASTADV_FN auto logical(int64_t channels, int64_t cols) {
  using Number = typename Row::Number;
  const Number inner = static_cast<Number>(channels), plane = static_cast<Number>(cols) / inner;
  return [=](Number i) { return inner == 1 ? i : i % inner * plane + i / inner; };
}

// A number of elements, none if it is NaN, at most `most`.
template <class C>
FASTADV_FN int64_t whole(C count, int64_t most) {
  return !(count > 0) ? 0 : count < static_cast<C>(most) ? static_cast<int64_t>(count) : most;
}

// Finds them among measure(values...), below 0 for elements out of the question; `number(i)` numbers the elements.
template <class Row, class Measure, class Number, class S>
FASTADV_FN auto select_largest(const Row& row, int64_t keep, Measure measure, Number number, const S& source) {
  using C = typename Row::C;
  const Reached<C> reached = row.reached(keep, measure, source);
  Largest<C> chosen{reached.value, row.cols};
  if (reached.count <= keep) return chosen;
  // More values equal the threshold than there is room for.
  const C threshold = chosen.threshold;
  const int64_t room = keep - row.count([=](C v) { return measure(v) > threshold; }, source);
  int64_t few = 0;  // fewer than `room` of them have a number below it
  while (chosen.last - few > 1) {
    const int64_t middle = few + (chosen.last - few) / 2;
    const int64_t below = row.count(
        [=](C v, typename Row::Number i) { return measure(v) == threshold && number(i) < middle; }, source, Indices{});
    (below < room ? few : chosen.last) = middle;
  }
  return chosen;
}

// The norm of the row of f(sources...).
template <class Row, class F, class... S>
FASTADV_FN double norm_of(const Row& row, Norm norm, F f, const S&... sources) {
  if (norm == Norm::l1) return row.sum([=](auto... v) { return magnitude(f(v...)); }, sources...);
  if (norm == Norm::l0) {  // NaN is no number of entries
    return row.sum([=](auto... v) {
      const auto value = static_cast<double>(f(v...));
      return value == value ? static_cast<double>(value != 0) : value;
    }, sources...);
  }
  if (norm == Norm::linf) return row.max([=](auto... v) { return magnitude(f(v...)); }, sources...);
  const double squares = row.sum([=](auto... v) {
    const double value = static_cast<double>(static_cast<typename Row::C>(f(v...)));
    return value * value;
  }, sources...);
  if (norm == Norm::l2) return sqrt(squares);
  return row.cols ? sqrt(squares / static_cast<double>(row.cols)) : 0.0;
}

// What a perturbation is multiplied with so that it fits into the ball.
template <class C>
FASTADV_FN C radial_factor(double norm, C eps) {
  const C size = static_cast<C>(norm);
  return size <= eps ? C(1) : eps / size;
}

// x_adv <- clip(x + delta * min(1, eps / norm), lo, hi), norm that of delta. A NaN budget shows as NaN.
template <class Row, class T, class X, class Delta, class C>
FASTADV_FN void write_radial(const Row& row, T* x_adv, const X& x, const Delta& delta, double norm, C eps, C lo, C hi) {
  const C factor = radial_factor(norm, eps);
  row.map(x_adv, [=](C d, C origin) { return clamp(origin + factor * d, lo, hi); }, delta, x);
}

// x_adv <- clip(x + the point of the L1 ball of radius eps that is nearest to delta, lo, hi).
//
// That point is delta with every magnitude reduced by theta, but not below 0: theta solves sum max(|d| - theta, 0) = eps.
// Michelot's iteration (1986) raises theta to the value that the entries above it ask for until none drops out; no sorting.
template <class Row, class T, class X, class Delta, class C>
FASTADV_FN void write_simplex(const Row& row, T* x_adv, const X& x, const Delta& delta, double norm, C eps, C lo, C hi) {
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

// A step from v along pick(values of `from`...), in the ball of Norm around x: `length` is what the direction is divided by. Back
// into the ball by shrinking, or (`simplex`, in L1) to the nearest point. Takes slot 0, in which `from` may be held.
template <class Norm, class T, class Row, class Args, class V, class X, class Pick, class... From>
FASTADV_FN void ball_step(const Row& row, const Args& a, const V& v, const X& x, double length, bool simplex, Pick pick,
                          const From&... from) {
  using C = typename Row::C;
  T* x_adv = static_cast<T*>(a.x_adv);
  const C scale = pace(at<C>(a.step_size, row.index), length);
  const auto delta = row.template hold_sum<0>(
      [=](C before, C origin, auto... d) { return before + scale * pick(d...) - origin; }, Norm{}, v, x, from...);
  const C eps = at<C>(a.eps, row.index), lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
  if (simplex) {
    write_simplex(row, x_adv, x, delta.values, Norm::norm(delta.sum), eps, lo, hi);
  } else {
    write_radial(row, x_adv, x, delta.values, Norm::norm(delta.sum), eps, lo, hi);
  }
}

}  // namespace fastadv
