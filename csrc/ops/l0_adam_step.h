// sigma-zero's step: Adam down a smooth count of changed entries and a gradient, the box, and small changes undone.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct L0AdamStep {
  L0AdamStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const auto grad = row.ahead(static_cast<const T*>(a.grad));
    const T *v = static_cast<const T*>(a.x_adv), *x = static_cast<const T*>(a.x);
    if (row.count([](C g) { return !is_finite(g); }, grad) > 0) row.flag(a.nonfinite);
    const C unit = static_cast<C>(a.unit), sigma = static_cast<C>(a.sigma), each = static_cast<C>(a.each);
    const auto down = row.template hold<0>([=](C g, C here, C origin) {
      const C delta = (here - origin) / unit, half = delta * delta + sigma;
      return each * delta / (half * half) - unit * finite(g);
    }, grad, v, x);
    const C most = row.max([](C d) { return magnitude(d); }, down);
    const C length = most > C(1e-12) ? most : C(1e-12);
    C *mean = static_cast<C*>(a.mean), *square = static_cast<C*>(a.square);
    const C fresh = static_cast<C>(1 - a.mean_decay), kept = static_cast<C>(a.square_decay);
    const C added = static_cast<C>(1 - a.square_decay), bias = static_cast<C>(a.square_bias);
    const C pace = at<C>(a.rate, row.index) / static_cast<C>(a.mean_bias), tiny = static_cast<C>(a.tiny);
    const C threshold = at<C>(a.threshold, row.index), lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    row.map(mean, [=](C m, C d) { return m + fresh * (d / length - m); }, static_cast<const C*>(mean), down);
    row.map(square, [=](C q, C d) { return kept * q + added * (d / length) * (d / length); },
            static_cast<const C*>(square), down);
    row.map(static_cast<T*>(a.x_adv), [=](C here, C origin, C m, C q) {
      const C moved = load(narrow<T>(clamp(here - pace * m / (std::sqrt(q / bias) + tiny), lo, hi)));
      return magnitude(moved - origin) < threshold ? origin : moved;
    }, v, x, static_cast<const C*>(mean), static_cast<const C*>(square));
  }
};

Status l0_adam_step(const Launch& launch, const L0AdamStepArgs& args) { return for_rows<L0AdamStep, 1>(launch, args); }

}  // namespace fastadv
