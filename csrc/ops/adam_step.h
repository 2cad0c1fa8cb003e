// A step of Adam (Kingma and Ba, 2015) down a slope and a weighted gradient, then the box.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct AdamStep {
  AdamStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const T *grad = static_cast<const T*>(a.grad), *slope = static_cast<const T*>(a.slope);
    C *mean = static_cast<C*>(a.mean), *square = static_cast<C*>(a.square);
    const C weight = at<C>(a.weight, row.index), fresh = static_cast<C>(1 - a.mean_decay);
    const C kept = static_cast<C>(a.square_decay), added = static_cast<C>(1 - a.square_decay);
    const C pace = at<C>(a.rate, row.index) / static_cast<C>(a.mean_bias), bias = static_cast<C>(a.square_bias);
    const C tiny = static_cast<C>(a.tiny), lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    const auto direction = [=](C g, C s) { return load(narrow<T>(s + load(narrow<T>(weight * finite(g))))); };
    if (row.map_any(mean, [=](C m, C g, C s) { return m + fresh * (direction(g, s) - m); },
                    [](C, C g, C) { return !is_finite(g); }, static_cast<const C*>(mean), grad, slope))
      row.flag(a.nonfinite);
    row.map(square, [=](C q, C g, C s) {
      const C d = direction(g, s);
      return kept * q + added * d * d;
    }, static_cast<const C*>(square), grad, slope);
    T* x_adv = static_cast<T*>(a.x_adv);
    row.map(x_adv, [=](C v, C m, C q) { return clamp(v - pace * m / (std::sqrt(q / bias) + tiny), lo, hi); },
            static_cast<const T*>(x_adv), static_cast<const C*>(mean), static_cast<const C*>(square));
  }
};

Status adam_step(const Launch& launch, const AdamStepArgs& args) { return for_each<AdamStep>(launch, args); }

}  // namespace fastadv
