// The loss of every sample, its gradient with respect to the logits in closed form, and whether the sample is fooled.
//
// All in double: where a class is all but certain, 1 - p is the sum of the other probabilities and not a rounded 0.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct LossGradient {
  LossGradientArgs a;
  using C = compute_t<T>;

  template <class Row>
  FASTADV_FN void operator()(const Row& row) const {
    const T* z = static_cast<const T*>(a.logits);
    const int64_t label = a.labels[row.index], best = row.argmax([](C v) { return v; }, z);
    const bool broken = value(row, z, best) != value(row, z, best), away = !(at<C>(a.sign, row.index) < 0);
    row.store(a.fooled, static_cast<int64_t>((broken ? -1 : best) == label ? !away : away));
    const double sign = away ? 1 : -1;
    if (broken || label < 0 || label >= row.cols) return none(row);
    switch (a.loss) {
      case Loss::ce: return cross_entropy(row, z, label, best, sign);
      case Loss::margin: return margin(row, z, label, sign);
      case Loss::slm: return soft_margin(row, z, label, sign);
      case Loss::dlr: return ratio(row, z, label, best, sign);
      case Loss::pm: return probability_margin(row, z, label, best, sign);
      case Loss::kl: case Loss::spat: return divergence(row, z, best, sign);
    }
  }

 private:
  FASTADV_FN static double nan() { return std::numeric_limits<double>::quiet_NaN(); }

  template <class Row>
  FASTADV_FN static double value(const Row& row, const T* z, int64_t k) {
    return static_cast<double>(load(z[row.index * row.cols + k]));
  }

  // The loss, and slope(k, z_k) for every class.
  template <class Row, class Slope>
  FASTADV_FN void write(const Row& row, double loss, Slope slope) const {
    row.store(static_cast<C*>(a.losses), loss);
    row.map(static_cast<T*>(a.grad), [=](C v, int64_t k) { return static_cast<C>(slope(k, static_cast<double>(v))); },
            static_cast<const T*>(a.logits), Indices{});
  }

  template <class Row>
  FASTADV_FN void none(const Row& row) const {
    row.flag(a.nonfinite);
    write(row, nan(), [](int64_t, double) { return nan(); });
  }

  // Of the classes for which `out` is false, the first with the highest logit.
  template <class Row, class Out>
  FASTADV_FN static int64_t highest(const Row& row, const T* z, Out out) {
    const C lowest = -largest<C>();
    return row.argmax([=](C v, int64_t k) { return out(k) ? lowest * 2 : v < lowest ? lowest : v; }, z, Indices{});
  }

  template <class Row>
  FASTADV_FN void cross_entropy(const Row& row, const T* z, int64_t label, int64_t best, double sign) const {
    const double top = value(row, z, best);
    const Two sums = row.sum2([=](C v, int64_t k) {  // of the label, of the others
      const double e = exp(static_cast<double>(v) - top);
      return Two{k == label ? e : 0.0, k == label ? 0.0 : e};
    }, z, Indices{});
    const double rest = a.smoothing, most = 1 - rest, each = rest / static_cast<double>(row.cols);
    const double total = sums.a + sums.b;
    const double log_total = label == best ? log1p(sums.b) : log(total);
    double loss = most * (log_total + (top - value(row, z, label)));
    if (each > 0) loss += each * row.sum([=](C v) { return log_total + (top - static_cast<double>(v)); }, z);
    write(row, sign * loss, [=](int64_t k, double v) {
      const double beyond = k == label ? rest - sums.b / total : exp(v - top) / total;
      return sign * (beyond - each);
    });
  }

  template <class Row>
  FASTADV_FN void margin(const Row& row, const T* z, int64_t label, double sign) const {
    const int64_t rival = highest(row, z, [=](int64_t k) { return k == label; });
    const C level = load(z[row.index * row.cols + rival]);
    const bool whole = a.kappa == std::numeric_limits<double>::infinity();
    const double lead = sign * (value(row, z, label) - static_cast<double>(level)) + (whole ? 0.0 : a.kappa);
    const int64_t equal = row.count([=](C v, int64_t k) { return k != label && v == level; }, z, Indices{});
    const double slope = whole || lead >= 0 ? sign : 0.0, part = slope / static_cast<double>(equal);
    write(row, lead == lead ? -(whole || lead > 0 ? lead : 0.0) : lead, [=](int64_t k, double v) {
      return k == label ? -slope : v == static_cast<double>(level) ? part : 0.0;
    });
  }

  template <class Row>
  FASTADV_FN void soft_margin(const Row& row, const T* z, int64_t label, double sign) const {
    const double top = value(row, z, highest(row, z, [=](int64_t k) { return k == label; }));
    const double total = row.sum([=](C v, int64_t k) { return k == label ? 0.0 : exp(static_cast<double>(v) - top); }, z,
                                 Indices{});
    write(row, sign * (log(total) + (top - value(row, z, label))), [=](int64_t k, double v) {
      return sign * (k == label ? -1.0 : exp(v - top) / total);
    });
  }

  // log(1 + p_r - p_y) of the likeliest other class r. All in terms of exp(z - z_r), so that nothing underflows.
  template <class Row>
  FASTADV_FN void probability_margin(const Row& row, const T* z, int64_t label, int64_t best, double sign) const {
    const int64_t rival = highest(row, z, [=](int64_t k) { return k == label; });
    const double level = value(row, z, rival), top = value(row, z, best);
    const Two sums = row.sum2([=](C v, int64_t k) {  // of the others beside the rival, of the others beside the best
      const double e = static_cast<double>(v);
      return k == label ? Two{0.0, 0.0} : Two{exp(e - level), exp(e - top)};
    }, z, Indices{});
    const double ahead = 1 + sums.a, total = exp(value(row, z, label) - top) + sums.b;
    const double log_total = label == best ? log1p(sums.b) : log(total);
    write(row, sign * ((level - top) + log(ahead) - log_total), [=](int64_t k, double v) {
      const double p = exp(v - top) / total;
      return sign * (k == label ? -p : (exp(v - level) + (k == rival ? 1.0 : 0.0)) / ahead - p);
    });
  }

  // The difference of logits ratio, from the label to the best other class, or to the goal.
  template <class Row>
  FASTADV_FN void ratio(const Row& row, const T* z, int64_t label, int64_t best, double sign) const {
    const int64_t second = highest(row, z, [=](int64_t k) { return k == best; });
    const int64_t third = highest(row, z, [=](int64_t k) { return k == best || k == second; });
    int64_t fourth = third, rival = label == best ? second : best;
    if (a.goal) {
      fourth = highest(row, z, [=](int64_t k) { return k == best || k == second || k == third; });
      rival = a.goal[row.index];
      if (rival < 0 || rival >= row.cols) return none(row);
    }
    const double low = (value(row, z, third) + value(row, z, fourth)) / 2, range = value(row, z, best) - low + 1e-12;
    const double loss = (value(row, z, rival) - value(row, z, label)) / range;
    write(row, sign * loss, [=](int64_t k, double) {
      const double ahead = (k == rival ? 1.0 : 0.0) - (k == label ? 1.0 : 0.0);
      const double apart = (k == best ? 1.0 : 0.0) - (k == third ? 0.5 : 0.0) - (k == fourth ? 0.5 : 0.0);
      return sign * (ahead - loss * apart) / range;
    });
  }

  // The divergence from the natural prediction p, and for SPAT its weighted sum with that of its terms' squares.
  template <class Row>
  FASTADV_FN void divergence(const Row& row, const T* z, int64_t best, double sign) const {
    const T* natural = static_cast<const T*>(a.natural);
    const double top = value(row, z, best), from = value(row, natural, row.argmax([](C v) { return v; }, natural));
    const Two totals = row.sum2([=](C v, C n) {
      return Two{exp(static_cast<double>(v) - top), exp(static_cast<double>(n) - from)};
    }, z, natural);
    const double of_q = log(totals.a), of_p = log(totals.b);
    const auto log_q = [=](C v) { return (static_cast<double>(v) - top) - of_q; };
    const auto log_p = [=](C n) { return (static_cast<double>(n) - from) - of_p; };
    const bool squared = a.loss == Loss::spat;
    const double weight = squared ? a.kl_weight : 1.0;
    // What a class adds to the loss, and the slope of that along -log q. A term of the divergence is 0 where p is.
    const auto parts = [=](C v, C n) {
      const double p = exp(log_p(n)), term = p > 0 || p != p ? p * (log_p(n) - log_q(v)) : 0.0;
      return Two{weight * term + (squared ? term * term : 0.0), p * (weight + (squared ? 2 * term : 0.0))};
    };
    const Two sums = row.sum2(parts, z, natural);
    row.store(static_cast<C*>(a.losses), sign * sums.a);
    row.map(static_cast<T*>(a.grad), [=](C v, C n) {
      return static_cast<C>(sign * (exp(log_q(v)) * sums.b - parts(v, n).b));
    }, z, natural);
  }
};

Status loss_gradient(const Launch& launch, const LossGradientArgs& args) { return for_logits<LossGradient>(launch, args); }

}  // namespace fastadv
