// Bilateral's adversarial labels: the closed form (14) with (18), or (26) with (28), over all wrong classes or the least
// likely of them.
//
// Both share eps_y over the wrong classes in proportion to u: u = v - min v + gamma, or u = v, where v = -log p; and
// eps_y = 1 / (1 + beta * max u / sum u).
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct AdversarialLabels {
  AdversarialLabelsArgs a;
  using C = compute_t<T>;

  FASTADV_FN void operator()(const Row<T>& row) const {
    const int64_t label = a.labels[row.index];
    const T* z = static_cast<const T*>(a.logits);
    const bool sup = a.sup;
    C* out = static_cast<C*>(a.soft);
    if (row.sum([](C logit) { return logit - logit; }, z) != 0) {  // a logit is NaN or infinite: it shows
      row.map(out, [](C logit) { return logit * std::numeric_limits<C>::quiet_NaN(); }, z);
      return;
    }
    // v, or v - min v, which is the best wrong logit less this one; -1 for the label. From the difference of two logits, so
    // that nothing of a large one rounds it.
    const C from = load(z[row.index * row.cols + (sup ? best(row, z) : best_wrong(row, z, label))]);
    const C more = sup ? log_sum_exp(row, z, from) : C(0);
    const auto v = row.template hold<0>(
        [=](C logit, int64_t k) { return k == label ? C(-1) : from - logit + more; }, z, Indices{});
    Largest<C> chosen{C(0), row.cols};
    if (a.top_k > 0 && a.top_k < row.cols - 1)
      chosen = select_largest(row, a.top_k, [](C d) { return d; }, [](int64_t k) { return k; }, v);
    const auto takes_part = [=](C d, int64_t k) { return d >= 0 && chosen.holds(d, k); };
    const int64_t least = row.argmax([=](C d, int64_t k) { return takes_part(d, k) ? -d : -largest<C>(); }, v, Indices{});
    const C highest = load(z[row.index * row.cols + least]), gamma = static_cast<C>(a.gamma);
    const auto u = [=](C d, int64_t k, C logit) {
      return !takes_part(d, k) ? C(0) : sup ? d : highest - logit + gamma;
    };
    const double sum = row.sum(u, v, Indices{}, z), most = row.max(u, v, Indices{}, z);
    if (sum == 0) {  // nothing to go by: the chosen classes share alike
      const auto one = [=](C d, int64_t k, C) { return takes_part(d, k) ? C(1) : C(0); };
      write(row, out, one, row.sum(one, v, Indices{}, z), 1.0, label, v, z);
    } else {
      write(row, out, u, sum, most, label, v, z);
    }
  }

 private:
  template <class U, class V>
  FASTADV_FN void write(const Row<T>& row, C* out, U u, double sum, double most, int64_t label, const V& v,
                        const T* z) const {
    const C eps_y = static_cast<C>(1 / (1 + a.beta * (most / sum)));
    row.map(out, [=](C d, int64_t k, C logit) {
      return k == label ? C(1) - eps_y : eps_y * static_cast<C>(static_cast<double>(u(d, k, logit)) / sum);
    }, v, Indices{}, z);
  }

  FASTADV_FN int64_t best_wrong(const Row<T>& row, const T* z, int64_t label) const {
    const C lowest = -largest<C>();
    return row.argmax([=](C logit, int64_t k) { return k == label ? lowest * 2 : logit < lowest ? lowest : logit; }, z,
                      Indices{});
  }

  FASTADV_FN int64_t best(const Row<T>& row, const T* z) const {
    return row.argmax([](C logit) { return logit; }, z);
  }

  // Of the logits less the best of them.
  FASTADV_FN C log_sum_exp(const Row<T>& row, const T* z, C best) const {
    return static_cast<C>(log(row.sum([=](C logit) { return exp(static_cast<double>(logit - best)); }, z)));
  }
};

Status adversarial_labels(const Launch& launch, const AdversarialLabelsArgs& args) {
  return for_rows<AdversarialLabels, 1>(launch, args);
}

}  // namespace fastadv
