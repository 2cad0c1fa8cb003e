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

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    const int64_t label = a.labels[row.index];
    const T* logits = static_cast<const T*>(a.logits) + row.index * row.cols;
    const auto z = row.ahead(static_cast<const T*>(a.logits));
    const bool sup = a.sup;
    C* out = static_cast<C*>(a.soft);
    if (row.sum([](C logit) { return logit - logit; }, z) != 0) {  // a logit is NaN or infinite: it shows
      row.map(out, [](C logit) { return logit * std::numeric_limits<C>::quiet_NaN(); }, z);
      return;
    }
    // v, or v - min v, which is the best wrong logit less this one; -1 for the label. From the difference of two logits, so
    // that nothing of a large one rounds it.
    const int64_t best = row.argmax(
        [=](C logit, int64_t k) { return k == label && !sup ? -std::numeric_limits<C>::infinity() : logit; }, z, Indices{});
    const C from = load(logits[best]);
    const C more = sup ? log_sum_exp(row, z, from) : C(0);
    const auto v = row.template hold<0>(
        [=](C logit, int64_t k) { return k == label ? C(-1) : from - logit + more; }, z, Indices{});
    Largest<C> chosen{C(0), row.cols};
    if (a.top_k > 0 && a.top_k < row.cols - 1)
      chosen = select_largest(row, a.top_k, [](C d) { return d; }, [](int64_t k) { return k; }, v);
    const auto takes_part = [=](C d, int64_t k) { return d >= 0 && chosen.holds(d, k); };
    const int64_t least = row.argmax([=](C d, int64_t k) { return takes_part(d, k) ? -d : -largest<C>(); }, v, Indices{});
    const C highest = load(logits[least]), gamma = static_cast<C>(a.gamma);
    const auto share = [=](bool alike) {
      return [=](C d, int64_t k, C logit) {
        return !takes_part(d, k) ? C(0) : alike ? C(1) : sup ? d : highest - logit + gamma;
      };
    };
    double sum = row.sum(share(false), v, Indices{}, z), most = row.max(share(false), v, Indices{}, z);
    const bool alike = sum == 0;  // nothing to go by
    if (alike) sum = row.sum(share(true), v, Indices{}, z), most = 1;
    const C eps_y = static_cast<C>(1 / (1 + a.beta * (most / sum)));
    const auto u = share(alike);
    row.map(out, [=](C d, int64_t k, C logit) {
      return k == label ? C(1) - eps_y : eps_y * static_cast<C>(static_cast<double>(u(d, k, logit)) / sum);
    }, v, Indices{}, z);
  }

 private:
  // Of the logits less the best of them.
  template <class Row, class Z>
  FASTADV_FN C log_sum_exp(const Row& row, const Z& z, C best) const {
    return static_cast<C>(log(row.sum([=](C logit) { return exp(static_cast<double>(logit - best)); }, z)));
  }
};

Status adversarial_labels(const Launch& launch, const AdversarialLabelsArgs& args) {
  return for_logits<AdversarialLabels, 1>(launch, args);
}

}  // namespace fastadv
