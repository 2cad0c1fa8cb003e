// DeepFool's step: to the nearest of the boundaries that the classes have in the linearised model.
//
// The gradients are read once for their norms, and the nearest class's a second time for the step.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct DeepfoolStep {
  DeepfoolStepArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    if (a.active && !a.active[row.index]) return;
    const int64_t label = a.labels[row.index];
    const C* logits = static_cast<const C*>(a.logits) + row.index * a.classes;
    const bool known = label >= 0 && label < a.classes;
    const int64_t place = known ? label : 0;
    const auto w = row.template hold<0>([](C g) { return g; }, gradient(row, place));
    int64_t nearest = -1;
    C nearest_distance = 0, nearest_size = 0;
    for (int64_t k = 0; k < a.classes; ++k) {
      if (k == place) continue;
      const auto slope = row.ahead(gradient(row, k));
      const C size = static_cast<C>(a.linf ? row.sum([](C g, C o) { return magnitude(g - o); }, slope, w)
                                           : sqrt(row.sum([](C g, C o) {
                                               const double d = static_cast<double>(g - o);
                                               return d * d;
                                             }, slope, w)));
      if (!is_finite(size)) note(row, slope, w);
      if (!known || !(size > C(1e-8)) || !is_finite(size)) continue;
      // The addend carries the point over a boundary that it would otherwise only touch.
      const C distance = (magnitude(logits[k] - logits[label]) + C(1e-5)) / size;
      if (!is_finite(distance) || (nearest >= 0 && !(distance < nearest_distance))) continue;
      nearest = k;
      nearest_distance = distance;
      nearest_size = size;
    }
    row.store(a.target, nearest < 0 ? label : nearest);
    row.store(static_cast<C*>(a.distance), static_cast<double>(nearest_distance));
    C* delta = static_cast<C*>(a.delta);
    const C way = nearest_distance + static_cast<C>(a.beyond);
    if (nearest >= 0 && a.linf) {
      row.map(delta, [=](C d, C g, C o) { return d + way * finite_sign(g - o); },
              static_cast<const C*>(delta), gradient(row, nearest), w);
    } else if (nearest >= 0) {
      row.map(delta, [=](C d, C g, C o) { return d + way * ((g - o) / nearest_size); },
              static_cast<const C*>(delta), gradient(row, nearest), w);
    }
    const C scale = static_cast<C>(1 + a.overshoot), lo = static_cast<C>(a.lo), hi = static_cast<C>(a.hi);
    row.map(static_cast<T*>(a.x_adv), [=](C origin, C d) { return clamp(origin + scale * d, lo, hi); },
            static_cast<const T*>(a.x), static_cast<const C*>(delta));
  }

 private:
  // Sets the row's flag if a class's gradient or the label's, `w`, has a NaN or infinity: a norm may also just be too large.
  template <class Row, class G, class W>
  FASTADV_FN void note(const Row& row, const G& slope, const W& w) const {
    if (row.count([](C g, C o) { return !is_finite(g) || !is_finite(o); }, slope, w) > 0) row.flag(a.nonfinite);
  }

  // Class k's gradient, as a source: row.index * cols before the place where [rows, classes, cols] has it.
  template <class Row>
  FASTADV_FN const T* gradient(const Row& row, int64_t k) const {
    return static_cast<const T*>(a.grads) + (row.index * (a.classes - 1) + k) * row.cols;
  }
};

Status deepfool_step(const Launch& launch, const DeepfoolStepArgs& args) { return for_rows<DeepfoolStep, 1>(launch, args); }

}  // namespace fastadv
